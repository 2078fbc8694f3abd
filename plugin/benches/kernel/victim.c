/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does on its core what the bench asks for, a line for a line: so many milliseconds or so many times of one
 * thing. The clocks that it reads are the vdso's and the processor's: reading them enters no kernel.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "victim.h"

#define N_PAGES 256
/* Turns between two looks at the clock. */
#define CALLS 64
#define TURNS 4096

static unsigned long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void tell(unsigned long long n, unsigned long long ns)
{
	printf("%llu %llu\n", n, ns);
}

static void calls(long ms)
{
	unsigned long long n = 0, start = now_ns(), end = start + ms * 1000000ULL, now;

	do {
		for (int i = 0; i < CALLS; i++)
			call(SYS_getppid);
		n += CALLS;
		now = now_ns();
	} while (now < end);
	tell(n, now - start);
}

/* Only the touches are timed. */
static void faults(long ms)
{
	unsigned long long n = 0, ns = 0, start;
	volatile char *pages =
	    mmap(0, N_PAGES << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	madvise((void *)pages, N_PAGES << 12, MADV_NOHUGEPAGE);
	while (ns < ms * 1000000ULL) {
		madvise((void *)pages, N_PAGES << 12, MADV_DONTNEED);
		start = now_ns();
		for (long i = 0; i < N_PAGES; i++)
			pages[i << 12] = 1;
		ns += now_ns() - start;
		n += N_PAGES;
	}
	munmap((void *)pages, N_PAGES << 12);
	tell(n, ns);
}

/* A chain of multiplications: user mode's own work, which memory and caches have no part in. */
static void spin(long ms)
{
	unsigned long long n = 0, value = 1, start = now_ns(), end = start + ms * 1000000ULL, now;

	do {
		for (int i = 0; i < TURNS; i++)
			asm volatile("imul $3, %0, %0" : "+r"(value));
		n += TURNS;
		now = now_ns();
	} while (now < end);
	tell(n, now - start);
}

static void count(long n)
{
	unsigned long long start = now_ns();

	for (long i = 0; i < n; i++)
		call(SYS_getppid);
	tell(n, now_ns() - start);
}

/* As many calls a second as asked for, evenly, for a quarter of one. Tells how many it came to. */
static void pace(long per_second)
{
	unsigned long long n = 0, start = now_ns(), end = start + 250000000ULL,
			   step = 1000000000ULL / per_second;
	unsigned long long next = start, now;

	while ((now = now_ns()) < end) {
		if (now < next)
			continue;
		call(SYS_getppid);
		next += step;
		n++;
	}
	tell(n, now - start);
}

static void arm(long unused)
{
	unsigned long bits = PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES;

	printf("%d 0\n", prctl(PR_TASK_ISOLATION, bits, 0, 0, 0));
}

static const struct thing things[] = {
    {"calls", calls}, {"faults", faults}, {"spin", spin}, {"count", count},
    {"pace", pace},   {"arm", arm},	  {0, 0},
};

static int does(const struct thing *thing, const char *name, long number)
{
	for (; thing->name; thing++)
		if (!strcmp(thing->name, name)) {
			thing->run(number);
			return 1;
		}
	return 0;
}

int main(void)
{
	char line[64], name[32];
	long number;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%31s %ld", name, &number) != 2)
			return 2;
		if (!does(things, name, number) && !does(reactions, name, number))
			return 2;
		fflush(stdout);
	}
	return 0;
}
