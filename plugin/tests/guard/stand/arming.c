/* SPDX-License-Identifier: Apache-2.0 */
/* Days on which the question is who is armed, and from when to when. */
#include "program.h"

/* v16's form: one signal for all classes. */
static void one_signal(long sig)
{
	handle(sig, on_signal);
	call(SYS_prctl, PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_SET_SIG(sig), 0, 0,
	     0);
	getppids(1);
	disarm();
	tell();
}

static void default_signal(long unused)
{
	printf("arming\n");
	fflush(stdout);
	call(SYS_prctl, PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE, 0, 0, 0);
	getppids(1);
	printf("alive\n");
}

/* What only the shim may ask. */
static void challenge(long unused)
{
	sigset_t set, pending;
	long ret;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, 0);
	answer(SYS_prctl, PR_TASK_ISOLATION, 0); /* so that nothing but the guard says no */
	ret = call(SYS_prctl, PR_TASK_ISOLATION, PR_TASK_ISOLATION_CHALLENGE, SIGUSR1, 0, 0);
	sigpending(&pending);
	printf("ret=%ld pending=%d\n", ret, sigismember(&pending, SIGUSR1));
	ret = call(SYS_prctl, PR_TASK_ISOLATION, PR_TASK_ISOLATION_ON_EXEC, 0, 0, 0);
	fflush(stdout);
	execl("/proc/self/exe", "entries", "getppids", "10", (char *)0);
}

/* The program's own filter is newer than the shim's, and answers first. */
static void break_the_lock(long unused)
{
	answer(SYS_prctl, PR_TASK_ISOLATION, 0);
	printf("own-signals=%ld\n", arm(SIGUSR1, 0, 0));
	printf("plain=%ld\n", arm(0, 0, 0));
	printf("disarm=%ld\n", disarm());
}

/* By the shim's filter. */
static void locked_answers(long unused)
{
	printf("own-signals=%ld\n", arm(SIGUSR1, 0, 0));
	printf("disarm=%ld\n", disarm());
}

/* N times to a CPU that is not granted, and back. */
static void come_back(long n)
{
	while (n--) {
		pin(0);
		getppids(10);
		pin(1);
	}
}

static void leave_by_itself(long cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	arm(0, 0, 0);
	call(SYS_sched_setaffinity, 0, sizeof(set), (long)&set, 0, 0);
	getppids(10);
	call(SYS_sched_setaffinity, 0, sizeof(set), (long)&set, 0, 0);
	printf("moved\n");
}

void spin_armed(long unused)
{
	printf("arming\n");
	fflush(stdout);
	arm(0, 0, 0);
	for (;;)
		__builtin_ia32_pause();
}

static void *exec_itself(void *unused)
{
	arm(0, 0, 0);
	execl("/proc/self/exe", "entries", "getppids", "10", (char *)0);
	return 0;
}

static void exec_from_thread(long unused)
{
	pthread_t thread;

	pthread_create(&thread, 0, exec_itself, 0);
	pthread_join(thread, 0);
}

static void *calls_then_arms(void *unused)
{
	getppids(100);
	arm(0, 0, 0);
	getppids(1);
	disarm();
	return 0;
}

/* A thread made by an armed one is not armed, and may arm itself. */
static void threads(long unused)
{
	pthread_t thread;

	pthread_create(&thread, 0, calls_then_arms, 0);
	arm(0, 0, 0);
	disarm();
	pthread_join(thread, 0);
	arm(0, 0, 0);
	pthread_create(&thread, 0, calls_then_arms, 0);
	pthread_join(thread, 0);
	disarm();
}

static void unaffine(long unused)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	CPU_SET(1, &set);
	sched_setaffinity(0, sizeof(set), &set);
	printf("ret=%ld\n", arm(0, 0, 0));
}

/* For those to whom its system calls are nothing: whoever reads the line knows that it is armed. */
static void spin_told(long n)
{
	arm(0, 0, 0);
	puts("armed");
	fflush(stdout);
	for (;;)
		__builtin_ia32_pause();
}

/* Until it is as it should be, or for as long as nobody would wait. The clock is the vDSO's. */
static long arm_until(long wanted)
{
	struct timespec begin, now;
	long ret;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		ret = arm_once(0, 0, EACH);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (ret != wanted && now.tv_sec - begin.tv_sec < 20);
	return ret;
}

/* While somebody else wants the same core its tick cannot stop. */
static void not_ready(long n)
{
	pid_t other;
	long busy;

	handle(EACH, on_signal);
	other = fork();
	if (!other)
		for (;;)
			__builtin_ia32_pause();
	busy = arm_until(-EAGAIN);
	kill(other, SIGKILL);
	waitpid(other, 0, 0);
	printf("busy=%ld ", busy);
	printf("alone=%ld\n", arm_until(0));
	disarm();
}

const struct day arming_days[] = {
    {"one-signal", one_signal},
    {"default-signal", default_signal},
    {"challenge", challenge},
    {"break-the-lock", break_the_lock},
    {"locked-answers", locked_answers},
    {"come-back", come_back},
    {"leave", leave_by_itself},
    {"spin", spin_armed},
    {"spin-told", spin_told},
    {"exec-from-thread", exec_from_thread},
    {"threads", threads},
    {"unaffine", unaffine},
    {"not-ready", not_ready},
    {0, 0},
};
