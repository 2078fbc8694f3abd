/* SPDX-License-Identifier: Apache-2.0 */
/* Days of programs that never arm themselves, or that somebody stops; the test says when to go on, by
 * SIGUSR1. */
#include "program.h"

static volatile sig_atomic_t go;
/* Read by the test, and by a debugger, while the program stands still. */
volatile unsigned long turns;

static void on_go(int sig, siginfo_t *info, void *context)
{
	go++;
}

static void ready(void)
{
	handle(SIGUSR1, on_go);
	handle(EACH, on_signal);
	printf("turns_at=%p ready\n", (void *)&turns);
	fflush(stdout);
}

/* Each time it is told to go: N calls, and what it was told. In between it only looks. */
static void calls_when_told(long n)
{
	for (int seen = 0;; seen++) {
		while (go == seen)
			__builtin_ia32_pause();
		getppids(n);
		if (n_told) {
			tell();
			fflush(stdout);
		}
	}
}

static void settle(long n)
{
	ready();
	calls_when_told(n);
}

/* Starts up, has nothing of the kernel for as long as nobody could miss it (the clock is the vDSO's), then N
 * calls. */
static void settle_by_itself(long n)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - begin.tv_sec < 4);
	getppids(n);
}

static void armed_then_calls(long n)
{
	ready();
	arm(0, 0, 0);
	calls_when_told(n);
}

/* As a shell that execs the program does. */
static void settle_after_exec(long n)
{
	execl("/proc/self/exe", "entries", "settle", "3", (char *)0);
}

static void *never_quiet(void *unused)
{
	for (;;)
		getppids(1);
	return 0;
}

/* Two threads of one core. */
static void settle_beside_a_restless_thread(long n)
{
	pthread_t thread;

	pthread_create(&thread, 0, never_quiet, 0);
	settle(n);
}

static void *settle_thread(void *n)
{
	calls_when_told((long)n);
	return 0;
}

static void settle_twice(long n)
{
	pthread_t thread;

	pthread_create(&thread, 0, settle_thread, (void *)n);
	settle(n);
}

static void restless(long unused)
{
	ready();
	never_quiet(0);
}

static void asleep(long unused)
{
	ready();
	for (;;)
		pause();
}

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return 0;
}

/* N threads, all of them there at once. */
static void crowd(long n)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16 << 10);
	for (long i = 0; i < n; i++)
		if (pthread_create(&thread, &small, wait_for_ever, 0))
			abort();
	ready();
	wait_for_ever(0);
}

/* The last thing before it is quiet: whoever looks at its affinity on its way in sees the old one. */
static void pin_then_settle(long n)
{
	cpu_set_t two, one;

	CPU_ZERO(&two);
	CPU_SET(0, &two);
	CPU_SET(1, &two);
	CPU_ZERO(&one);
	CPU_SET(1, &one);
	ready();
	call(SYS_sched_setaffinity, 0, sizeof(two), (long)&two, 0, 0);
	call(SYS_sched_setaffinity, 0, sizeof(one), (long)&one, 0, 0);
	calls_when_told(n);
}

static void call_now_and_then(long unused)
{
	ready();
	arm(0, 0, 0);
	for (;;) {
		unsigned long long end = __builtin_ia32_rdtsc() + 2000000;

		while (__builtin_ia32_rdtsc() < end)
			__builtin_ia32_pause();
		getppids(1);
	}
}

/* By the policy's own signal. */
static void signal_at_budget(long n)
{
	handle(EACH, on_signal);
	arm(0, 0, 0);
	getppids(n);
	disarm();
	tell();
}

static void count_calls(long n)
{
	ready();
	arm(0, 0, 0);
	while (n--) {
		turns++;
		getppids(1);
	}
	disarm();
}

static void count_faults(long n)
{
	volatile char *pages = mmap(0, n << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	madvise((void *)pages, n << 12, MADV_NOHUGEPAGE);
	ready();
	arm(0, 0, 0);
	while (n--) {
		turns++;
		pages[n << 12] = 1;
	}
	disarm();
}

static void count_beside_noise(long unused)
{
	begin_noise();
	ready();
	arm(0, 0, 0);
	for (;;)
		turns++;
}

const struct day settling_days[] = {
    {"settle", settle},
    {"settle-by-itself", settle_by_itself},
    {"settle-after-exec", settle_after_exec},
    {"settle-beside-restless", settle_beside_a_restless_thread},
    {"settle-twice", settle_twice},
    {"restless", restless},
    {"asleep", asleep},
    {"crowd", crowd},
    {"pin-then-settle", pin_then_settle},
    {"armed-then-calls", armed_then_calls},
    {"call-now-and-then", call_now_and_then},
    {"signal-at-budget", signal_at_budget},
    {"count-calls", count_calls},
    {"count-faults", count_faults},
    {"count-beside-noise", count_beside_noise},
    {0, 0},
};
