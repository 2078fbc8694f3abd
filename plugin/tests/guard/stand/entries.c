/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enters the kernel in a known way a known number of times while armed, and says what it did and was told:
 * the other side of each count that the guard's tests compare.
 */
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
#include <ucontext.h>
#include <unistd.h>
#include "quietcore.h"

#define TOLD_MAX 100000
static unsigned long told[TOLD_MAX], logged[1 << 20];
static volatile unsigned long n_told, last_value;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	if (n_told < TOLD_MAX)
		told[n_told] = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	n_told++;
	last_value = (unsigned long)info->si_value.sival_ptr;
}

static void skip_ud2(int sig, siginfo_t *info, void *context)
{
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static void handle(int sig, void (*handler)(int, siginfo_t *, void *))
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
static inline long arm(int sys, int exc, int irq)
{
	return call(SYS_prctl, PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES,
		    PR_TASK_ISOLATION_SIGNALS(sys, exc, irq), 0, 0);
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

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void tell(void)
{
	printf("signals=%lu value=%#lx handler=%p\n", n_told, last_value, (void *)on_signal);
	for (unsigned long i = 0; i < n_told && i < TOLD_MAX; i++)
		printf("told=%#lx\n", told[i]);
}

static void answer(int nr, int option, int error)
{
	struct sock_filter filter[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 3),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, option, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(*filter), filter};

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		perror("seccomp");
}

/* N system calls. */
static void calls(long n)
{
	arm(0, 0, 0);
	getppids(n);
	disarm();
}

static void denied(long n)
{
	answer(SYS_getppid, 0, EACCES);
	arm(0, 0, 0);
	getppids(n);
	disarm();
}

/* i386's umask has the number of x86-64's exit. */
static void int80(long n)
{
	long ret;

	arm(0, 0, 0);
	while (n--)
		asm volatile("int $0x80"
			     : "=a"(ret)
			     : "0"(60), "b"(022)
			     : "memory", "r8", "r9", "r10", "r11");
	disarm();
}

static void strange_numbers(long n)
{
	arm(0, 0, 0);
	call(-1, 0, 0, 0, 0, 0);
	call(0x40000000 | 60, 0, 0, 0, 0, 0);
	disarm();
}

/* Each new page is one fault; the kernel's own count is the oracle. */
static void faults(long n)
{
	struct rusage before, after;
	volatile char *pages = mmap(0, n << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	madvise((void *)pages, n << 12, MADV_NOHUGEPAGE);
	getrusage(RUSAGE_THREAD, &after);
	getrusage(RUSAGE_THREAD, &before);
	arm(0, 0, 0);
	for (long i = 0; i < n; i++)
		pages[i << 12] = 1;
	disarm();
	getrusage(RUSAGE_THREAD, &after);
	printf("minflt=%ld\n", after.ru_minflt - before.ru_minflt);
}

static void traps(long n)
{
	handle(SIGILL, skip_ud2);
	arm(0, 0, 0);
	while (n--)
		asm volatile("inc %%rax; ud2" : : : "rax", "memory");
	disarm();
}

static volatile unsigned long resume;

static void resume_there(int sig, siginfo_t *info, void *context)
{
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] = resume;
}

#define TRAP(instructions)                                                                                   \
	asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %0\n" instructions "\n1:"                             \
		     : "=m"(resume)                                                                          \
		     :                                                                                       \
		     : "rax", "rcx", "rdx", "cc", "memory")

/* #UD, #BP, #DE, #GP, and a page fault that ends in SIGSEGV as #GP does. */
static void each_trap(long unused)
{
	handle(SIGILL, resume_there);
	handle(SIGTRAP, resume_there);
	handle(SIGFPE, resume_there);
	handle(SIGSEGV, resume_there);
	arm(0, 0, 0);
	TRAP("ud2");
	TRAP("int3");
	TRAP("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $1, %%eax; div %%ecx");
	TRAP("mov $1, %%rax; shl $62, %%rax; mov (%%rax), %%rcx");
	TRAP("mov 8, %%rcx");
	disarm();
}

/* What happens to the other CPU's threads of this process while one spins: wakeups and IPIs. */
static int wake[2];
static volatile int noisy = 1;

static void *sleeper(void *unused)
{
	char byte;

	pin(1);
	while (read(wake[0], &byte, 1) == 1)
		;
	return 0;
}

static void *noise(void *unused)
{
	/* A disk's completions come as device interrupts, on whichever CPU they are steered to. */
	int disk = open("/dev/vda", O_RDONLY | O_DIRECT);
	char *block = aligned_alloc(4096, 4096);

	pin(0);
	for (long n = 0; noisy; n++) {
		usleep(700);
		write(wake[1], "x", 1);
		usleep(300);
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
		if (disk >= 0)
			pread(disk, block, 4096, n % 1000 << 20);
	}
	close(wake[1]);
	return 0;
}

static void begin_noise(void)
{
	pthread_t threads[2];

	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	if (pipe(wake))
		perror("pipe");
	pthread_create(&threads[0], 0, sleeper, 0);
	pthread_create(&threads[1], 0, noise, 0);
}

/*
 * A null selector in %es is zeroed by the IRET that ends an interrupt or exception, and by nothing else. The
 * loop looks at it in each turn, counted in %rdi, logs the turn in which it was zero, and puts it back.
 */
extern char es_turn[], es_read[], es_after[], es_next[], es_hit[], es_back[], es_end[];

__attribute__((noinline, noclone)) static void es_spin(unsigned long zeros)
{
	unsigned long turn = 0, *next = logged;

	asm volatile("	mov $3, %%ecx\n"
		     "	mov %%ecx, %%es\n"
		     "es_turn: inc %%rdi\n"
		     "es_read: mov %%es, %%eax\n"
		     "es_after: test %%eax, %%eax\n"
		     "	jz es_hit\n"
		     "es_next: jmp es_turn\n"
		     "es_hit: mov %%rdi, (%[next])\n"
		     "	add $8, %[next]\n"
		     "	mov %%ecx, %%es\n"
		     "es_back: dec %[zeros]\n"
		     "	jnz es_next\n"
		     "es_end:\n"
		     : "+D"(turn), [zeros] "+r"(zeros), [next] "+r"(next)
		     :
		     : "rax", "rcx", "cc", "memory");
}

static void oracle(long n)
{
	begin_noise();
	es_spin(10);
	arm(0, 0, 0);
	es_spin(n);
	disarm();
	noisy = 0;
	printf("turn=%p read=%p after=%p next=%p hit=%p back=%p end=%p\n", es_turn, es_read, es_after,
	       es_next, es_hit, es_back, es_end);
	for (long i = 0; i < n; i++)
		printf("zero=%lu\n", logged[i]);
}

/* One real-time signal for each of N entries of a class: none coalesces, and each says where it came. */
#define EACH (SIGRTMIN + 3)

static void signal_each_call(long n)
{
	handle(EACH, on_signal);
	arm(EACH, 0, 0);
	getppids(n);
	disarm();
	tell();
}

static void signal_each_fault(long n)
{
	volatile char *pages = mmap(0, n << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	madvise((void *)pages, n << 12, MADV_NOHUGEPAGE);
	handle(EACH, on_signal);
	raise(EACH); /* the stack below is there now */
	n_told = 0;
	arm(0, EACH, 0);
	for (long i = 0; i < n; i++)
		pages[i << 12] = 1;
	disarm();
	tell();
}

static void *storm(void *unused)
{
	pin(0);
	for (;;)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	return 0;
}

static void signal_each_interrupt(long n)
{
	begin_noise();
	handle(EACH, on_signal);
	raise(EACH);
	n_told = 0;
	arm(0, 0, EACH);
	while (n_told < (unsigned long)n)
		__builtin_ia32_pause();
	disarm();
	tell();
}

/* IPIs so dense that one waits behind another. */
static void signal_in_a_storm(long n)
{
	pthread_t thread;

	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	pthread_create(&thread, 0, storm, 0);
	signal_each_interrupt(n);
}

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

static void spin_armed(long unused)
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

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(long);
	} days[] = {
	    {"calls", calls},
	    {"denied", denied},
	    {"int80", int80},
	    {"strange-numbers", strange_numbers},
	    {"faults", faults},
	    {"traps", traps},
	    {"each-trap", each_trap},
	    {"oracle", oracle},
	    {"signal-each-call", signal_each_call},
	    {"signal-each-fault", signal_each_fault},
	    {"signal-each-interrupt", signal_each_interrupt},
	    {"signal-in-a-storm", signal_in_a_storm},
	    {"one-signal", one_signal},
	    {"default-signal", default_signal},
	    {"challenge", challenge},
	    {"break-the-lock", break_the_lock},
	    {"locked-answers", locked_answers},
	    {"come-back", come_back},
	    {"leave", leave_by_itself},
	    {"spin", spin_armed},
	    {"exec-from-thread", exec_from_thread},
	    {"threads", threads},
	    {"unaffine", unaffine},
	    {"getppids", getppids},
	};

	/* Present and written before anything is armed. */
	memset(told, 0, sizeof(told));
	memset(logged, 0, sizeof(logged));
	for (unsigned i = 0; argc > 2 && i < sizeof(days) / sizeof(*days); i++)
		if (!strcmp(argv[1], days[i].name)) {
			days[i].run(atol(argv[2]));
			printf("done\n");
			return 0;
		}
	fprintf(stderr, "entries: DAY NUMBER\n");
	return 2;
}
