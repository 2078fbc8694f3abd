/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dataplane program in small: it polls, arms itself, has a handler for each class, and prints what it was
 * told. Build: gcc -O2 -static -I../../abi/include poll-loop.c -o poll-loop
 *
 *	poll-loop [syscall|exception|none] [SECONDS]	break the promise in that way, after polling that long
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include "quietcore.h"

static volatile sig_atomic_t told;
static volatile unsigned int told_value;
static volatile unsigned long told_at;

/* Runs before the thread's next instruction. It stores, and leaves the rest to when the thread is disarmed.
 */
static void on_entry(int sig, siginfo_t *info, void *context)
{
	told = sig;
	told_value = PR_TASK_ISOLATION_VALUE(info);
	told_at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
}

/* A system call as a library hides one, but inlined: the Event then names the loop itself. */
static inline void hidden_call(void)
{
	long ret = SYS_getppid;

	__asm__ volatile("syscall" : "+a"(ret) : : "rcx", "r11", "memory");
}

/* What a forwarding loop does all day; here nothing ever arrives. `page` is not mapped in yet. */
__attribute__((noinline)) void fwd_loop(const char *how, unsigned long polls, volatile char *page)
{
	for (volatile unsigned long poll = 0; poll < polls && !told; poll++)
		__builtin_ia32_pause();
	if (*how == 's')
		hidden_call();
	if (*how == 'e')
		page[0] = 1;
}

static void print_cause(unsigned int value)
{
	unsigned int detail = PR_TASK_ISOLATION_DETAIL(value);

	switch (PR_TASK_ISOLATION_CAUSE(value)) {
	case PR_TASK_ISOLATION_CAUSE_SYSCALL:
		printf("system call %u\n", detail);
		break;
	case PR_TASK_ISOLATION_CAUSE_PAGE_FAULT:
		printf("page fault %s\n", detail & PR_TASK_ISOLATION_FAULT_WRITE ? "writing" : "reading");
		break;
	case PR_TASK_ISOLATION_CAUSE_TRAP:
		printf("trap that became signal %u\n", detail);
		break;
	default:
		printf("cause %u, detail %u\n", PR_TASK_ISOLATION_CAUSE(value), detail);
	}
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "syscall";
	unsigned long seconds = argc > 2 ? strtoul(argv[2], 0, 10) : 1;
	struct sigaction action = {.sa_sigaction = on_entry, .sa_flags = SA_SIGINFO};
	volatile char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	sigaction(SIGUSR1, &action, 0);
	sigaction(SIGUSR2, &action, 0);
	fwd_loop("none", 1000, page); /* every page it needs is there now */
	printf("arming on CPU %d\n", sched_getcpu());
	fflush(stdout);
	/* EAGAIN: the core is not quiet yet. */
	while (prctl(PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES,
		     PR_TASK_ISOLATION_SIGNALS(SIGUSR1, SIGUSR2, 0), 0, 0)) {
		if (errno == EAGAIN)
			continue;
		perror("prctl(PR_TASK_ISOLATION)");
		return 1;
	}
	fwd_loop(how, seconds * 20000000UL, page);
	prctl(PR_TASK_ISOLATION, 0, 0, 0, 0);
	if (!told) {
		printf("no entry\n");
		return 0;
	}
	printf("%s at 0x%lx: this thread entered the kernel\n",
	       told == SIGUSR1 ? "SIGUSR1 (syscall)" : "SIGUSR2 (exception)", told_at);
	if (told_value) /* before Linux 6.13 the signal's number is all that is known */
		print_cause(told_value);
	return 0;
}
