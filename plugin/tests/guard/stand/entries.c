/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enters the kernel in a known way a known number of times while armed, and says what it did and was told:
 * the other side of each count that the guard's tests compare.
 *
 *	entries DAY NUMBER
 */
#include "program.h"

static unsigned long told[TOLD_MAX], carried[TOLD_MAX];
static int last_code;
volatile unsigned long n_told;

void on_signal(int sig, siginfo_t *info, void *context)
{
	if (n_told < TOLD_MAX) {
		told[n_told] = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
		carried[n_told] = PR_TASK_ISOLATION_VALUE(info);
	}
	n_told++;
	last_code = info->si_code;
}

static void skip_ud2(int sig, siginfo_t *info, void *context)
{
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

void tell(void)
{
	printf("signals=%lu code=%d handler=%p\n", n_told, last_code, (void *)on_signal);
	for (unsigned long i = 0; i < n_told && i < TOLD_MAX; i++)
		printf("told=%#lx\ncarried=%#lx\n", told[i], carried[i]);
}

void answer(int nr, int option, int error)
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

static void signal_strange_calls(long n)
{
	long ret;

	handle(EACH, on_signal);
	arm(EACH, 0, 0);
	while (n--) {
		asm volatile("int $0x80"
			     : "=a"(ret)
			     : "0"(60), "b"(022)
			     : "memory", "r8", "r9", "r10", "r11");
		call(-1, 0, 0, 0, 0, 0);
		call(SYS_write, 1, 0, 0, 0, 0);
	}
	disarm();
	tell();
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

/* The trap's own signal is delivered first: ours then finds its handler about to run. */
static void signal_each_trap(long n)
{
	handle(SIGILL, resume_there);
	handle(SIGSEGV, resume_there);
	handle(EACH, on_signal);
	raise(EACH);
	n_told = 0;
	printf("resume_there=%p\n", (void *)resume_there);
	fflush(stdout);
	arm(0, EACH, 0);
	while (n--) {
		TRAP("ud2");
		TRAP("mov 8, %%rcx");
	}
	disarm();
	tell();
}

/* A call that would never return. */
static void signal_a_sleep(long unused)
{
	int ends[2];
	char byte;
	long ret;

	if (pipe(ends))
		perror("pipe");
	handle(EACH, on_signal);
	arm(EACH, 0, 0);
	ret = call(SYS_read, ends[0], (long)&byte, 1, 0, 0);
	disarm();
	printf("ret=%ld\n", ret);
	tell();
}

/* With UMIP the kernel answers sgdt itself (arch/x86/kernel/umip.c). */
static void emulated(long n)
{
	char table[10];

	asm volatile("sgdt %0" : "=m"(table)); /* its page is there now */
	arm(0, 0, 0);
	while (n--)
		asm volatile("sgdt %0" : "=m"(table));
	disarm();
}

static const struct day own_days[] = {
    {"emulated", emulated},
    {"calls", calls},
    {"denied", denied},
    {"int80", int80},
    {"strange-numbers", strange_numbers},
    {"faults", faults},
    {"traps", traps},
    {"each-trap", each_trap},
    {"signal-each-call", signal_each_call},
    {"signal-each-fault", signal_each_fault},
    {"signal-each-trap", signal_each_trap},
    {"signal-a-sleep", signal_a_sleep},
    {"signal-strange-calls", signal_strange_calls},
    {"getppids", getppids},
    {0, 0},
};

int main(int argc, char **argv)
{
	const struct day *tables[] = {own_days,	      interrupt_days, arming_days, hostile_days,
				      published_days, settling_days,  blame_days};

	memset(told, 0, sizeof(told)); /* present before anything is armed */
	memset(carried, 0, sizeof(carried));
	for (unsigned int i = 0; argc > 2 && i < sizeof(tables) / sizeof(*tables); i++)
		for (const struct day *day = tables[i]; day->name; day++)
			if (!strcmp(argv[1], day->name)) {
				day->run(atol(argv[2]));
				printf("done\n");
				return 0;
			}
	fprintf(stderr, "entries: DAY NUMBER\n");
	return 2;
}
