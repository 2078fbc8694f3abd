/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 OR BSD-2-Clause */
/*
 * The prctl by which a program asks for strictness: task isolation as published in 2017 (v16), and
 * quietcore's additions. Number 48 is unassigned in mainline, so an unwatched program gets EINVAL.
 *
 *	prctl(PR_TASK_ISOLATION, PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES,
 *	      PR_TASK_ISOLATION_SIGNALS(SIGUSR1, SIGUSR2, 0), 0, 0);
 *	prctl(PR_TASK_ISOLATION, 0, 0, 0, 0);	disarms
 *
 * Errors: EINVAL (unknown bits, arg4 or arg5 not 0, bad signal, affinity is not one granted CPU),
 * EPERM (no grant, or the policy is locked), EAGAIN (the core is not ready). Where a seccomp filter
 * answers the call, a refusal that depends on the thread is reported as an Event and 0 is returned.
 */
#ifndef QUIETCORE_H
#define QUIETCORE_H

#define PR_TASK_ISOLATION 48
#define PR_TASK_ISOLATION_ENABLE (1 << 0)
/* arg3 holds one signal for each class; a 0 byte keeps the policy's action for that class */
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
