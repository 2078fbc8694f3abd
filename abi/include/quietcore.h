/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 OR BSD-2-Clause */
/*
 * The prctl by which a thread asks that its kernel entries be violations: task isolation as published in 2017
 * (v16) as far as it went, and quietcore's additions. For C and C++; Rust programs: the crate quietcore-abi.
 *
 *	#include <sys/prctl.h>
 *	#include "quietcore.h"
 *
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
 * Returns 0, or -1 and errno:
 *
 *	EINVAL	unknown bits, or bits without ENABLE; a bad signal; arg3 without CLASSES; arg4 or arg5 not 0
 *	EINVAL	the thread's affinity is not exactly one CPU of its grant [1]
 *	EINVAL	nobody answers the call: this is no container with granted cores
 *	EPERM	the policy is `locked`: the program may arm by ENABLE | CLASSES with arg3 0, nothing else
 *	EPERM	CHALLENGE or ON_EXEC by a program
 *	EPERM	there is no grant [1]
 *	EAGAIN	the core is not ready [1]
 *
 * [1] Depends on the thread. Where a seccomp filter answers the call, which sees the arguments alone, it
 * returns 0, the thread is not armed, and the pod gets the Event ArmRefused.
 *
 * Number 48 is unassigned in mainline: EINVAL there, so a program may ask for it wherever it runs.
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

#endif
