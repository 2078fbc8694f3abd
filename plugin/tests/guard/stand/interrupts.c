/* SPDX-License-Identifier: Apache-2.0 */
/* Days on which a thread only spins, and others interrupt it. */
#include "program.h"

static unsigned long logged[1 << 20];

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

void begin_noise(void)
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
	memset(logged, 0, sizeof(logged)); /* present before anything is armed */
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

static void spin_beside_noise(long unused)
{
	begin_noise();
	spin_armed(0);
}

const struct day interrupt_days[] = {
    {"spin-beside-noise", spin_beside_noise},
    {"oracle", oracle},
    {"signal-each-interrupt", signal_each_interrupt},
    {"signal-in-a-storm", signal_in_a_storm},
    {0, 0},
};
