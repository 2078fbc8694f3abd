/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the selftest that came with the published patches (v16, 2017) asks of the prctl, in its form: one
 * signal for all classes, SIGKILL unless another is named. NUMBER is that signal, or 0.
 */
#include "program.h"

static long isolate(long sig)
{
	unsigned long bits = PR_TASK_ISOLATION_ENABLE;
	long ret;

	if (sig) {
		handle(sig, on_signal);
		bits |= PR_TASK_ISOLATION_SET_SIG(sig);
	}
	fflush(stdout);
	do {
		ret = call(SYS_prctl, PR_TASK_ISOLATION, bits, 0, 0, 0);
	} while (ret == -EAGAIN);
	return ret;
}

static void off_again(void)
{
	disarm();
	printf("alive\n");
	tell();
}

static void fault(long sig)
{
	volatile char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	isolate(sig);
	*page = 1;
	off_again();
}

static void write_call(long sig)
{
	isolate(sig);
	call(SYS_write, 2, (long)"", 0, 0, 0);
	off_again();
}

static volatile int arms_now;

static void *unmaps(void *page)
{
	pin(0);
	while (!arms_now)
		usleep(1000);
	usleep(500000);
	munmap(page, 4096);
	return 0;
}

/* Another thread of the process changes the page tables: this one's CPU must flush its TLB. */
static void tlb_flush(long sig)
{
	volatile char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;

	*page = 1;
	pthread_create(&thread, 0, unmaps, (void *)page);
	/* A tick that can stop stops at the end of the next one. */
	for (long turn = 0; turn < 2000000; turn++)
		__builtin_ia32_pause();
	arms_now = 1;
	isolate(sig);
	while (!n_told)
		__builtin_ia32_pause();
	off_again();
}

static void off(long sig)
{
	isolate(sig);
	disarm();
	call(SYS_write, 2, (long)"", 0, 0, 0);
	printf("alive\n");
	tell();
}

/* Turns of a loop that look at the clock without entering the kernel. */
static void jitter(long millions)
{
	unsigned long last, now, longest = 0;

	isolate(SIGUSR1);
	last = __builtin_ia32_rdtsc();
	for (long turn = 0; turn < millions * 1000000 && !n_told; turn++) {
		now = __builtin_ia32_rdtsc();
		if (now - last > longest)
			longest = now - last;
		last = now;
	}
	off_again();
	printf("longest=%lu\n", longest);
}

const struct day published_days[] = {
    {"published-fault", fault}, {"published-write", write_call}, {"published-tlb-flush", tlb_flush},
    {"published-off", off},	{"published-jitter", jitter},	 {0, 0},
};
