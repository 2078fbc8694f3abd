/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest program for arm.at: Exec: no libc, so nothing happens between its first instruction and what
 * is written here. Touches 3 pages, waits, touches 4, makes a system call, touches 5, exits.
 *
 *	tiny [wait]	polls for about a fifth of a second in between
 */
static char pages[16][4096] __attribute__((aligned(4096)));

static long call(long nr, long a)
{
	long ret;

	asm volatile("syscall" : "=a"(ret) : "0"(nr), "D"(a) : "rcx", "r11", "memory");
	return ret;
}

static void touch(int from, int n)
{
	for (int i = from; i < from + n; i++)
		((volatile char *)pages[i])[0] = 1;
}

__attribute__((used)) static void run(long *stack)
{
	unsigned long long end = __builtin_ia32_rdtsc() + 600000000;

	touch(0, 3);
	while (stack[0] > 1 && __builtin_ia32_rdtsc() < end)
		__builtin_ia32_pause();
	touch(3, 4);
	call(110, 0);
	touch(7, 5);
	call(60, 0);
}

asm(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run\n");
