/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program for each good or bad day of a strict container; the first argument chooses it. Prints lines
 * of key=value before it arms and after it is told, never in between.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include "quietcore.h"

static volatile sig_atomic_t n_signals, last_signal;
static volatile unsigned long last_ip;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	n_signals++;
	last_signal = sig;
	last_ip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
}

static void handle(int sig)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};

	sigaction(sig, &action, 0);
}

/* 0 signals: the policy's own. */
static long arm(int sys, int exc, int irq)
{
	long ret;

	/* EAGAIN: the core's tick cannot stop yet. */
	do {
		ret = prctl(PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES,
			    PR_TASK_ISOLATION_SIGNALS(sys, exc, irq), 0, 0);
	} while (ret && errno == EAGAIN);
	return ret;
}

static void disarm(void)
{
	prctl(PR_TASK_ISOLATION, 0, 0, 0, 0);
}

static void say(const char *text)
{
	puts(text);
	fflush(stdout);
}

static unsigned long long cycles(void)
{
	return __builtin_ia32_rdtsc();
}

static void spin(unsigned long long n_cycles)
{
	unsigned long long end = cycles() + n_cycles;

	while (cycles() < end)
		__builtin_ia32_pause();
}

#define SECOND 2500000000ULL
/* Long enough for the agent to have seen that this program is armed, and what it is made of. */
#define A_WHILE (SECOND / 5)

static int told(void)
{
	disarm();
	printf("signals=%d last=%d ip=0x%lx\n", (int)n_signals, (int)last_signal, last_ip);
	return 0;
}

static int break_syscall(void)
{
	handle(SIGUSR1);
	say("arming");
	arm(0, 0, 0);
	spin(A_WHILE);
	syscall(SYS_getppid);
	return told();
}

static int break_exception(void)
{
	volatile char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	handle(SIGUSR2);
	say("arming");
	arm(0, 0, 0);
	spin(A_WHILE);
	page[0] = 1;
	return told();
}

/* Every tick is one: the policy says Continuous and the program chooses a signal for interrupts. */
static int count_ticks(void)
{
	handle(SIGRTMIN + 3);
	say("arming");
	arm(0, 0, SIGRTMIN + 3);
	spin(2 * SECOND);
	return told();
}

static int keep_quiet(void)
{
	handle(SIGUSR1);
	handle(SIGUSR2);
	spin(SECOND / 100);
	say("arming");
	arm(0, 0, 0);
	spin(2 * SECOND);
	return told();
}

/* Nobody handles the signal: in a container this is the init of a PID namespace. */
static int default_disposition(void)
{
	say("arming");
	arm(0, 0, 0);
	syscall(SYS_getppid);
	say("still here");
	return 0;
}

static int block_it(void)
{
	sigset_t set, pending;

	handle(SIGUSR1);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, 0);
	say("arming");
	arm(0, 0, 0);
	syscall(SYS_getppid);
	sigpending(&pending);
	printf("pending=%d\n", sigismember(&pending, SIGUSR1));
	return told();
}

static int fork_armed(void)
{
	int status = 0;
	pid_t child;

	handle(SIGUSR1);
	say("arming");
	arm(0, 0, 0);
	child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); /* fork(3) makes other calls around it */
	if (!child) {
		n_signals = 0;
		for (int i = 0; i < 100; i++)
			syscall(SYS_getppid);
		_exit(n_signals);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	printf("child_signals=%d\n", WEXITSTATUS(status));
	return told();
}

static int exec_armed(char *self)
{
	char *argv[] = {self, "after-exec", 0};

	say("arming");
	signal(SIGUSR1, SIG_IGN);
	arm(0, 0, 0);
	execv(self, argv);
	return 1;
}

static int after_exec(void)
{
	for (int i = 0; i < 100; i++)
		syscall(SYS_getppid);
	say("after-exec=fine");
	return 0;
}

static int __attribute__((noreturn)) spin_armed(void)
{
	handle(SIGUSR1);
	handle(SIGUSR2);
	say("arming");
	arm(0, 0, 0);
	for (;;)
		spin(SECOND);
}

/* Spins armed, and makes one system call a second: something to violate for as long as anybody watches. */
static int __attribute__((noreturn)) violate_each_second(void)
{
	handle(SIGUSR1);
	for (int n = 0;; n++) {
		arm(0, 0, 0);
		spin(SECOND);
		syscall(SYS_getppid);
		disarm();
		printf("violated=%d signals=%d\n", n + 1, (int)n_signals);
		fflush(stdout);
	}
}

/* Breaks its promise when the test says so by SIGUSR2, and stays. */
static int __attribute__((noreturn)) break_later(void)
{
	handle(SIGUSR2);
	handle(SIGUSR1);
	say("waiting");
	while (last_signal != SIGUSR2)
		pause();
	n_signals = 0;
	arm(0, 0, 0);
	spin(A_WHILE);
	syscall(SYS_getppid);
	told();
	fflush(stdout);
	for (;;)
		pause();
}

/* Knows nothing of quietcore: polls, and writes a line whenever somebody sends SIGUSR2. */
static int __attribute__((noreturn)) poll_and_write(void)
{
	handle(SIGUSR2);
	say("polling");
	for (int seen = 0;; seen++) {
		while (n_signals == seen)
			spin(SECOND / 1000);
		say("wrote");
	}
}

static int exec_as(char **argv, char *day)
{
	argv[1] = day;
	execv(argv[0], argv);
	perror("workload: execv");
	return 1;
}

/*
 * still NAME [CPU]: pins itself, as programs that poll do, and waits until SIGUSR2 says that somebody
 * watches. Then it execs itself twice, because who arms it from outside needs that
 * (plugin/src/check/measure/spinner.rs), and does nothing, in memory that is all there: what enters it is not
 * its own doing.
 */
static int wait_to_be_still(char **argv)
{
	cpu_set_t core;
	sigset_t set;
	int sig;

	if (argv[2] && argv[3]) {
		CPU_ZERO(&core);
		CPU_SET(atoi(argv[3]), &core);
		if (sched_setaffinity(0, sizeof(core), &core))
			perror("workload: sched_setaffinity");
	}
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, 0);
	say("waiting");
	sigwait(&set, &sig);
	return exec_as(argv, "still-watched");
}

static int __attribute__((noreturn)) be_still(void)
{
	/* Forbidden where RLIMIT_MEMLOCK says so. */
	mlockall(MCL_CURRENT | MCL_FUTURE);
	for (;;)
		;
}

/* Never quiet. */
static int __attribute__((noreturn)) call_on_and_on(void)
{
	say("calling");
	for (;;)
		syscall(SYS_getppid);
}

static volatile int polls;

/* The dataplane's thread: the program starts on the shared CPUs, and goes to a granted one by itself. */
static void go_to_the_core(void)
{
	const char *granted = getenv("QUIETCORE_CPUS");
	cpu_set_t core;

	CPU_ZERO(&core);
	CPU_SET(granted ? atoi(granted) : 0, &core);
	if (sched_setaffinity(0, sizeof(core), &core))
		perror("workload: sched_setaffinity");
}

static void *poll_unprepared(void *unused)
{
	go_to_the_core();
	polls = 1;
	for (;;)
		spin(SECOND);
	return unused;
}

static void *poll_armed(void *unused)
{
	go_to_the_core();
	spin(SECOND / 100);
	polls = arm(0, 0, 0) ? -errno : 1;
	for (;;)
		spin(SECOND);
	return unused;
}

/* A control thread that makes system calls all the time, beside one that must not. */
static int __attribute__((noreturn)) control(void *(*poll)(void *))
{
	pthread_t thread;

	handle(SIGUSR1);
	handle(SIGUSR2);
	printf("control=%d\n", sched_getcpu());
	fflush(stdout);
	pthread_create(&thread, 0, poll, 0);
	while (!polls)
		usleep(1000);
	printf("dataplane=%d\n", polls);
	fflush(stdout);
	for (int n = 0; n < 300; n++)
		usleep(10000);
	printf("calls=300 signals=%d\n", (int)n_signals);
	fflush(stdout);
	for (;;)
		usleep(10000);
}

static int control_and_dataplane(void)
{
	return control(poll_armed);
}

static int control_and_unprepared(void)
{
	return control(poll_unprepared);
}

/* On a shared CPU, which is no place to be armed. */
static int arm_where_it_starts(void)
{
	long ret = arm(0, 0, 0);

	printf("control=%d armed=%ld\n", sched_getcpu(), ret);
	return 0;
}

static int environment(char **envp)
{
	cpu_set_t set;

	sched_getaffinity(0, sizeof(set), &set);
	printf("cpus=%d\n", CPU_COUNT(&set));
	for (; *envp; envp++)
		if (!strncmp(*envp, "QUIETCORE_", 10))
			printf("env %s\n", *envp);
	fflush(stdout);
	return break_syscall();
}

int main(int argc, char **argv, char **envp)
{
	const char *what = argc > 1 ? argv[1] : "";
	static const struct {
		const char *name;
		int (*run)(void);
	} days[] = {
	    {"syscall", break_syscall},
	    {"exception", break_exception},
	    {"ticks", count_ticks},
	    {"quiet", keep_quiet},
	    {"default", default_disposition},
	    {"blocked", block_it},
	    {"fork", fork_armed},
	    {"after-exec", after_exec},
	    {"spin", spin_armed},
	    {"each-second", violate_each_second},
	    {"later", break_later},
	    {"unprepared", poll_and_write},
	    {"restless", call_on_and_on},
	    {"still-seated", be_still},
	    {"control", control_and_dataplane},
	    {"control-unprepared", control_and_unprepared},
	    {"arm-at-start", arm_where_it_starts},
	};

	for (unsigned i = 0; i < sizeof(days) / sizeof(*days); i++)
		if (!strcmp(what, days[i].name))
			return days[i].run();
	if (!strcmp(what, "nothing"))
		return 0;
	if (!strcmp(what, "exec"))
		return exec_armed(argv[0]);
	if (!strcmp(what, "still"))
		return wait_to_be_still(argv);
	if (!strcmp(what, "still-watched"))
		return exec_as(argv, "still-seated");
	if (!strcmp(what, "environment"))
		return environment(envp);
	if (!strcmp(what, "sleep")) {
		say("sleeping");
		for (;;)
			pause();
	}
	fprintf(stderr, "workload: unknown day %s\n", what);
	return 2;
}
