/* SPDX-License-Identifier: Apache-2.0 */
/* What the days of the test program share. */
#ifndef PROGRAM_H
#define PROGRAM_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "quietcore.h"

#define TOLD_MAX 100000
extern volatile unsigned long n_told;

struct day {
	const char *name;
	void (*run)(long);
};
extern const struct day interrupt_days[], arming_days[], hostile_days[], published_days[], settling_days[],
    blame_days[];

/* From here on the other CPU's threads of this process wake and interrupt this one. */
void begin_noise(void);
/* Notes where the thread was told; `tell` prints it. */
void on_signal(int sig, siginfo_t *info, void *context);
void tell(void);
/* Without end. */
void spin_armed(long unused);
/* A seccomp filter that answers one call, where its first argument is `option`, with an error. */
void answer(int nr, int option, int error);

/* One real-time signal for each entry of a class: none coalesces, and each says where it came. */
#define EACH (SIGRTMIN + 3)

static inline void handle(int sig, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};

	sigaction(sig, &action, 0);
}

static inline long call(long nr, long a, long b, long c, long d, long e)
{
	register long r10 asm("r10") = d, r8 asm("r8") = e;
	long ret;

	asm volatile("syscall"
		     : "=a"(ret)
		     : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
		     : "rcx", "r11", "memory");
	return ret;
}

/* Signals of the classes; 0: the policy's own. */
static inline long arm_once(int sys, int exc, int irq)
{
	return call(SYS_prctl, PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES,
		    PR_TASK_ISOLATION_SIGNALS(sys, exc, irq), 0, 0);
}

/* As v16's own programs do: a core that was not ready can be. */
static inline long arm(int sys, int exc, int irq)
{
	long ret;

	do {
		ret = arm_once(sys, exc, irq);
	} while (ret == -EAGAIN);
	return ret;
}

static inline long disarm(void)
{
	return call(SYS_prctl, PR_TASK_ISOLATION, 0, 0, 0, 0);
}

static inline void getppids(long n)
{
	while (n--)
		call(SYS_getppid, 0, 0, 0, 0, 0);
}

static inline void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

#endif
