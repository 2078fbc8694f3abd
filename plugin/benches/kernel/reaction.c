/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the last instruction before an entry to the first of the violation's handler, on the processor's own
 * clock. Each prints cycles per millisecond, and then the cycles of every entry. Without a handler that comes
 * it is from before the entry to after it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "victim.h"

#define MAX 10000
/* An interrupt is longer than so many turns of a loop that reads the clock; what a hypervisor does is often
 * not. */
#define TURNS 100

static unsigned long long cycles[MAX];
/* Cycle when the handler began; 0: it did not. */
static volatile unsigned long long began;

static void on_violation(int sig)
{
	unsigned long long now = __builtin_ia32_rdtsc();

	if (!began)
		began = now;
}

/* Not yet, says EAGAIN, while the core's tick cannot stop. */
static long isolate(int on)
{
	unsigned long bits = on ? PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES : 0;
	long ret;

	do
		ret = prctl(PR_TASK_ISOLATION, bits, 0, 0, 0);
	while (ret && errno == EAGAIN);
	return ret;
}

static void tell(long n)
{
	struct timespec pause = {0, 20000000}, from, to;
	unsigned long long start;

	clock_gettime(CLOCK_MONOTONIC, &from);
	start = __builtin_ia32_rdtsc();
	nanosleep(&pause, 0);
	clock_gettime(CLOCK_MONOTONIC, &to);
	start = __builtin_ia32_rdtsc() - start;
	printf("%.0f", start * 1e6 / ((to.tv_sec - from.tv_sec) * 1e9 + to.tv_nsec - from.tv_nsec));
	for (long i = 0; i < n; i++)
		printf(" %llu", cycles[i]);
	printf("\n");
}

/* Everything that is touched while armed is there before. */
static long prepare(long n)
{
	struct sigaction action = {.sa_handler = on_violation};

	sigaction(SIGUSR1, &action, 0);
	raise(SIGUSR1);
	memset(cycles, 0, sizeof(cycles));
	return n < MAX ? n : MAX;
}

static inline unsigned long long since(unsigned long long before)
{
	unsigned long long after = __builtin_ia32_rdtsc();

	return (began ? began : after) - before;
}

/* tgkill(2), without what the library does around it. */
static void raise_here(void)
{
	long ret, pid = getpid();

	asm volatile("syscall"
		     : "=a"(ret)
		     : "0"(SYS_tgkill), "D"(pid), "S"(pid), "d"(SIGUSR1)
		     : "rcx", "r11", "memory");
}

static void on_call(long n)
{
	unsigned long long before;

	n = prepare(n);
	isolate(1);
	for (long i = 0; i < n; i++) {
		began = 0;
		before = __builtin_ia32_rdtsc();
		call(SYS_getppid);
		cycles[i] = since(before);
	}
	isolate(0);
	tell(n);
}

/* The kernel's own way to a handler. */
static void on_kill(long n)
{
	unsigned long long before;

	n = prepare(n);
	for (long i = 0; i < n; i++) {
		began = 0;
		before = __builtin_ia32_rdtsc();
		raise_here();
		cycles[i] = since(before);
	}
	tell(n);
}

static void on_fault(long n)
{
	unsigned long long before;
	volatile char *pages;

	n = prepare(n);
	pages = mmap(0, n << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise((void *)pages, n << 12, MADV_NOHUGEPAGE);
	/* pages that the machine's memory has already, should this be a virtual one */
	memset((void *)pages, 1, n << 12);
	madvise((void *)pages, n << 12, MADV_DONTNEED);
	isolate(1);
	for (long i = 0; i < n; i++) {
		began = 0;
		before = __builtin_ia32_rdtsc();
		pages[i << 12] = 1;
		cycles[i] = since(before);
	}
	isolate(0);
	munmap((void *)pages, n << 12);
	tell(n);
}

static volatile int noisy;

/* Interrupts this process's thread on the core about a thousand times a second. */
static void *noise(void *unused)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	sched_setaffinity(0, sizeof(set), &set);
	while (noisy) {
		usleep(1000);
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	}
	return 0;
}

/* Of a loop that only looks at the clock. */
static unsigned long long turn(void)
{
	unsigned long long start = __builtin_ia32_rdtsc();

	for (int i = 0; i < 100000; i++)
		__builtin_ia32_rdtsc();
	return (__builtin_ia32_rdtsc() - start) / 100000 + 1;
}

/* Until an entry, which shows by its handler or, where none comes, by the time that is missing. */
static void on_interrupt(long n)
{
	unsigned long long last, now, gap = TURNS * turn();
	pthread_t thread;
	long armed;

	n = prepare(n);
	noisy = 1;
	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	pthread_create(&thread, 0, noise, 0);
	armed = !isolate(1);
	for (long i = 0; i < n; i++) {
		began = 0;
		last = __builtin_ia32_rdtsc();
		while (now = __builtin_ia32_rdtsc(), armed ? !began : now - last < gap)
			last = now;
		cycles[i] = (armed ? began : now) - last;
	}
	isolate(0);
	noisy = 0;
	pthread_join(thread, 0);
	tell(n);
}

const struct thing reactions[] = {
    {"on-call", on_call},
    {"on-fault", on_fault},
    {"on-interrupt", on_interrupt},
    {"on-kill", on_kill},
    {0, 0},
};
