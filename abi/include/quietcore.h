/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 OR BSD-2-Clause */
/*
 * NAME
 *	prctl(PR_TASK_ISOLATION) - ask that this thread's kernel entries be violations
 *
 * SYNOPSIS
 *	#include <errno.h>
 *	#include <signal.h>
 *	#include <sys/prctl.h>
 *	#include "quietcore.h"
 *
 *	int prctl(PR_TASK_ISOLATION, unsigned long bits, unsigned long signals, 0, 0);
 *
 *	For C and C++; Rust programs: the crate quietcore-abi, which has the same under the same names.
 *
 * DESCRIPTION
 *	prctl(PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES,
 *	      PR_TASK_ISOLATION_SIGNALS(SIGUSR1, SIGUSR2, 0), 0, 0);	arms the calling thread
 *	prctl(PR_TASK_ISOLATION, 0, 0, 0, 0);				disarms it
 *
 * From the return of the first call on, each entry of the thread into the kernel is a violation, and brings
 * the signal of its class before the next user instruction:
 *
 *	syscall		a system call, also one that a seccomp filter denies
 *	exception	a page fault and every other trap
 *	interrupt	the timer tick, a device, another CPU, another task
 *
 * Never a violation: exit, exit_group, rt_sigreturn, this prctl, and what the policy excepts. It is
 * detection: the system call has run when the signal comes. Under `arm.after: OneShot`, the default, a
 * violation disarms the thread, so that its handler may enter the kernel, and it arms again when it is
 * ready; under Continuous it stays armed. Arming does not pass to threads and processes that the thread
 * makes, nor over execve(2). Map and touch all memory before, the handlers' too: mlockall(2).
 *
 * With CLASSES arg3 holds one signal for each class; 0 leaves a class to the policy's action. Without it, as
 * in v16, SET_SIG chooses one signal for all three, SIGKILL where it is 0, and arg3 must be 0. Signals that
 * stop the process or are ignored by default are not taken: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
 * Where the policy's mode is Audit the call is answered in the same way, and no signal is sent.
 *
 * READING THE SIGNAL
 * A handler with SA_SIGINFO, and sigwaitinfo(2), get of a violation:
 *
 *	si_signo	the signal that was chosen: on every kernel it can tell the class
 *	si_code		SI_KERNEL; no other process can send that
 *	si_pid, si_uid	0
 *	si_value	since Linux 6.13: class, cause and detail, in 32 bits; before: 0
 *
 * PR_TASK_ISOLATION_VALUE(info) is that number, or 0: then the signal is no violation, or the kernel is
 * older. PR_TASK_ISOLATION_CLASS, _CAUSE and _DETAIL take it apart, and a 0 becomes the class 0 and the cause
 * UNKNOWN. The causes and what their detail is:
 *
 *	SYSCALL		its number, as in <sys/syscall.h>
 *	SYSCALL32	its number as i386 has it: int $0x80, or a 32-bit program
 *	PAGE_FAULT	how, in bits: PR_TASK_ISOLATION_FAULT_*
 *	TRAP		the signal that the kernel makes of it, SIGILL for example; 0: it fixed it up silently
 *	TICK		the local timer's interrupt: its vector
 *	RESCHEDULE	another CPU wants this one to look for another task: the vector
 *	CALL_FUNCTION	another CPU has this one run a kernel function, as munmap(2), mprotect(2) and
 *			membarrier(2) of another thread do: the vector
 *	IRQ_WORK	work that this CPU put off: the vector
 *	DEVICE		the interrupt's number, as in /proc/interrupts
 *	VECTOR		another interrupt: its vector; 0: not known
 *	SWITCH		another task took the core, and by which interrupt was not seen: 0
 *	UNKNOWN		one of several that came at once: 0. The class is known
 *
 * A detail of PR_TASK_ISOLATION_DETAIL_NONE does not fit into 16 bits, as that of syscall(-1). Later versions
 * may add causes: take what you do not know as UNKNOWN. What is too long for a signal (the fault's address,
 * who sent the interrupt, the user stack) the pod's Event says.
 *
 * The handler's third argument, a ucontext_t, says where it was (uc_mcontext.gregs[REG_RIP] on x86-64):
 *
 *	syscall		the instruction after the system call's; its result is in REG_RAX
 *	exception	the instruction that faulted: it is executed when the handler returns. Where the
 *			kernel makes a signal of it (SIGILL, SIGSEGV), that signal's handler, about to run;
 *			where it fixed it up silently, the next instruction
 *	interrupt	the interrupted instruction: not yet executed
 *
 * RETURN VALUE
 *	0, or -1 and errno.
 *
 * ERRORS
 *	EINVAL	unknown bits, or bits without ENABLE; a bad signal; arg3 without CLASSES; arg4 or arg5 not 0
 *	EINVAL	the thread's affinity is not exactly one CPU of its grant [1]: sched_setaffinity(2) first
 *	EINVAL	nobody answers the call: this is no container with granted cores
 *	EPERM	the policy is `locked`: the program may arm by ENABLE | CLASSES with arg3 0, nothing else
 *	EPERM	CHALLENGE or ON_EXEC by a program
 *	EPERM	there is no grant [1]
 *	EAGAIN	the core's tick cannot stop now, and a tick would bring a signal: call again until it can [2]
 *
 * [1] Depends on the thread. Where a seccomp filter answers the call, which sees the arguments alone, it
 * returns 0, the thread is not armed, and the pod gets the Event ArmRefused.
 * [2] Where a BPF LSM program answers the call, on a core in nohz_full. Elsewhere the thread is armed, and
 * the tick is its first violation.
 *
 * NOTES
 * Number 48 is unassigned in mainline: EINVAL there, so a program may ask for it wherever it runs. The ABI is
 * task isolation as published in 2017 (v16) as far as it went, and quietcore's additions.
 *
 * The macros below are async-signal-safe: they read `info` and call nothing. Under Continuous a handler that
 * enters the kernel makes violations of its own, without end where it is sent a signal for each: store the
 * value, return, and print it when the thread is disarmed. Of a standard signal (SIGUSR1) that is pending the
 * kernel keeps the first only; real-time signals (SIGRTMIN + n) come once for each violation, in their order.
 *
 * A system call that would sleep is interrupted by its own signal: EINTR. So no SA_RESTART: it would only be
 * made again, under Continuous without end.
 *
 * The value does not reach a 32-bit program, nor signalfd(2).
 *
 * EXAMPLE
 *	static volatile sig_atomic_t told, value;
 *
 *	static void on_violation(int sig, siginfo_t *info, void *context)
 *	{
 *		value = (int)PR_TASK_ISOLATION_VALUE(info);
 *		told = sig;
 *	}
 *
 *	int main(void)
 *	{
 *		struct sigaction action = {.sa_sigaction = on_violation, .sa_flags = SA_SIGINFO};
 *
 *		sigaction(SIGUSR1, &action, 0);
 *		sigaction(SIGUSR2, &action, 0);
 *		mlockall(MCL_CURRENT | MCL_FUTURE);
 *		while (prctl(PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES,
 *			     PR_TASK_ISOLATION_SIGNALS(SIGUSR1, SIGUSR2, 0), 0, 0))
 *			if (errno != EAGAIN)
 *				err(1, "prctl(PR_TASK_ISOLATION)");
 *		while (!told)
 *			poll_the_ring();
 *		prctl(PR_TASK_ISOLATION, 0, 0, 0, 0);
 *		if (PR_TASK_ISOLATION_CAUSE(value) == PR_TASK_ISOLATION_CAUSE_SYSCALL)
 *			printf("system call %u\n", PR_TASK_ISOLATION_DETAIL(value));
 *		else
 *			printf("%s\n", strsignal(told));
 *	}
 *
 * A whole one: examples/poll-loop in quietcore's repository.
 */
#ifndef QUIETCORE_H
#define QUIETCORE_H

#define PR_TASK_ISOLATION 48
#define PR_TASK_ISOLATION_ENABLE (1 << 0)
/* arg3 holds one signal for each class */
#define PR_TASK_ISOLATION_CLASSES (1 << 1)
/* arg3 is a signal: raise it now, arm nothing. Only for the shim; EPERM after its exec */
#define PR_TASK_ISOLATION_CHALLENGE (1 << 2)
/* arm at the next exec. Only for the shim; EPERM after its exec */
#define PR_TASK_ISOLATION_ON_EXEC (1 << 3)
/* v16: one signal for all classes; 0 is SIGKILL */
#define PR_TASK_ISOLATION_SET_SIG(sig) (((sig)&0x7f) << 8)
#define PR_TASK_ISOLATION_GET_SIG(bits) (((bits) >> 8) & 0x7f)

/* arg3 with PR_TASK_ISOLATION_CLASSES */
#define PR_TASK_ISOLATION_SIGNALS(syscall, exception, interrupt)                                             \
	((unsigned long)(syscall) | (unsigned long)(exception) << 8 | (unsigned long)(interrupt) << 16)

/* Of a siginfo_t *: the value of a violation's signal, an unsigned int; 0 for any other signal */
#define PR_TASK_ISOLATION_VALUE(info)                                                                        \
	((info)->si_code == SI_KERNEL &&                                                                     \
		 PR_TASK_ISOLATION_IS_VALUE((unsigned long)(info)->si_value.sival_ptr)                       \
	     ? (unsigned int)(info)->si_value.sival_int                                                      \
	     : 0U)

/* Tag, class, cause and detail: 4, 4, 8 and 16 bits, the tag at the top. */
#define PR_TASK_ISOLATION_MAKE_VALUE(class_, cause, detail)                                                  \
	(0xd0000000U | (unsigned int)(class_) << 24 | (unsigned int)(cause) << 16 | (unsigned int)(detail))
#define PR_TASK_ISOLATION_IS_VALUE(value) ((value) >> 28 == 0xdU)
#define PR_TASK_ISOLATION_CLASS(value) ((unsigned int)(value) >> 24 & 0xfU)
#define PR_TASK_ISOLATION_CAUSE(value) ((unsigned int)(value) >> 16 & 0xffU)
#define PR_TASK_ISOLATION_DETAIL(value) ((unsigned int)(value)&0xffffU)

#define PR_TASK_ISOLATION_CLASS_SYSCALL 1
#define PR_TASK_ISOLATION_CLASS_EXCEPTION 2
#define PR_TASK_ISOLATION_CLASS_INTERRUPT 3

#define PR_TASK_ISOLATION_CAUSE_UNKNOWN 0
#define PR_TASK_ISOLATION_CAUSE_SYSCALL 1
#define PR_TASK_ISOLATION_CAUSE_SYSCALL32 2
#define PR_TASK_ISOLATION_CAUSE_PAGE_FAULT 3
#define PR_TASK_ISOLATION_CAUSE_TRAP 4
#define PR_TASK_ISOLATION_CAUSE_TICK 5
#define PR_TASK_ISOLATION_CAUSE_RESCHEDULE 6
#define PR_TASK_ISOLATION_CAUSE_CALL_FUNCTION 7
#define PR_TASK_ISOLATION_CAUSE_IRQ_WORK 8
#define PR_TASK_ISOLATION_CAUSE_DEVICE 9
#define PR_TASK_ISOLATION_CAUSE_VECTOR 10
#define PR_TASK_ISOLATION_CAUSE_SWITCH 11

/* detail of PAGE_FAULT, in bits: the page is there, and its protection forbids it; else it is not mapped in
 */
#define PR_TASK_ISOLATION_FAULT_PROTECTION 0x1
#define PR_TASK_ISOLATION_FAULT_WRITE 0x2
/* of an instruction */
#define PR_TASK_ISOLATION_FAULT_FETCH 0x10
/* detail: does not fit */
#define PR_TASK_ISOLATION_DETAIL_NONE 0xffff

#endif
