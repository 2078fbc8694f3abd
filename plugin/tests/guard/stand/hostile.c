/* SPDX-License-Identifier: Apache-2.0 */
/* Days on which a program does, while it is armed, what a guard may stumble over. */
#include "program.h"
#include <sys/ptrace.h>

/* N violations while the signal is blocked are one pending signal: standard signals do not queue. */
static void coalesced(long n)
{
	sigset_t set;

	handle(SIGUSR1, on_signal);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, 0);
	arm(SIGUSR1, 0, 0);
	getppids(n);
	disarm();
	printf("before=%lu\n", n_told);
	sigprocmask(SIG_UNBLOCK, &set, 0);
	tell();
}

static void vforks(long n)
{
	pid_t child;
	int status;

	arm(0, 0, 0);
	child = vfork();
	if (!child) {
		getppids(n);
		_exit(0);
	}
	call(SYS_wait4, child, (long)&status, 0, 0, 0);
	disarm();
}

static int calls_then_armed_calls(void *n)
{
	getppids(100);
	arm(0, 0, 0);
	getppids((long)n);
	disarm();
	return 0;
}

/* A process that shares the memory of an armed one. */
static void clones(long n)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	pid_t child;
	int status;

	arm(0, 0, 0);
	child = clone(calls_then_armed_calls, stack + sizeof(stack), CLONE_VM | SIGCHLD, (void *)n);
	call(SYS_wait4, child, (long)&status, 0, 0, 0);
	disarm();
}

static void *ends_armed(void *unused)
{
	arm(0, 0, 0);
	call(SYS_exit, 0, 0, 0, 0, 0);
	return 0;
}

static void threads_end_armed(long n)
{
	pthread_t thread;

	while (n--) {
		pthread_create(&thread, 0, ends_armed, 0);
		pthread_join(thread, 0);
	}
}

/* Each call stops twice for the tracer, which runs on another CPU. */
static void traced(long n)
{
	pid_t child = fork();
	int status;

	if (!child) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		arm(0, 0, 0);
		getppids(n);
		disarm();
		_exit(0);
	}
	pin(0);
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
		ptrace(PTRACE_SYSCALL, child, 0, 0);
	printf("status=%d\n", status);
}

const struct day hostile_days[] = {
    {"coalesced", coalesced}, {"vfork", vforks},
    {"clone", clones},	      {"threads-end-armed", threads_end_armed},
    {"traced", traced},	      {0, 0},
};
