/* SPDX-License-Identifier: Apache-2.0 */
/* Days on which somebody can be blamed. */
#include "program.h"

static char *mapped(void)
{
	char *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*page = 1;
	return page;
}

static void unmap(void)
{
	munmap(mapped(), 4096);
}

static void protect(void)
{
	char *page = mapped();

	mprotect(page, 4096, PROT_READ);
	/* Another call's interrupt: its turn is over when the page is gone. */
	mprotect(page, 4096, PROT_READ | PROT_WRITE);
	munmap(page, 4096);
}

static void barrier(void)
{
	syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

static void *disturb(void *call)
{
	pin(0);
	prctl(PR_SET_NAME, "sibling");
	for (;;) {
		((void (*)(void))call)();
		usleep(500);
	}
	return 0;
}

/* Until it is killed. */
static void spin_beside(void (*call)(void))
{
	pthread_t thread;

	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	pthread_create(&thread, 0, disturb, (void *)call);
	arm(0, 0, 0);
	for (;;)
		__builtin_ia32_pause();
}

static void sibling_munmap(long n)
{
	spin_beside(unmap);
}

static void sibling_mprotect(long n)
{
	spin_beside(protect);
}

static void sibling_membarrier(long n)
{
	spin_beside(barrier);
}

/* A function that never returns, or calls none, has no frame unless it asks; what is called last is no call.
 */
static volatile int over;

/* Until it is killed. Named, so that a test can tell the levels of its stack. */
__attribute__((noinline, noclone)) static void spin_inner(void)
{
	asm volatile("" ::"r"(__builtin_frame_address(0)));
	while (!over)
		__builtin_ia32_pause();
}

__attribute__((noinline, noclone)) static void spin_outer(void)
{
	spin_inner();
	asm volatile("" ::: "memory");
}

static void spin(long n)
{
	printf("inner=%p outer=%p spin=%p\n", (void *)spin_inner, (void *)spin_outer, (void *)spin);
	fflush(stdout);
	arm(0, 0, 0);
	spin_outer();
	asm volatile("" ::: "memory");
}

static void on_alarm(int sig, siginfo_t *info, void *context)
{
}

/* Its alarm comes each millisecond: that takes the CPU's timer, and mostly not for the tick. */
static void own_timer(long n)
{
	struct itimerval each = {{0, 1000}, {0, 1000}};

	handle(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &each, 0);
	spin(n);
}

const struct day blame_days[] = {
    {"own-timer", own_timer},
    {"sibling-munmap", sibling_munmap},
    {"sibling-mprotect", sibling_mprotect},
    {"sibling-membarrier", sibling_membarrier},
    {"spin-till-killed", spin},
    {0, 0},
};
