/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Class syscall, and the prctl that arms. sys_enter does not fire for a call that seccomp or a tracer
 * stopped (kernel/entry/common.c); sys_exit does.
 */
#ifndef QUIETCORE_SYSCALL_BPF_H
#define QUIETCORE_SYSCALL_BPF_H

#include "entry.bpf.h"
#include "quietcore.h"

/* Stop, and what is ignored by default, would be a violation that nobody notices (signal(7)). */
#define BAD_SIGNALS                                                                                          \
	(1ULL << 16 /* CHLD */ | 1ULL << 17 /* CONT */ | 1ULL << 18 /* STOP */ | 1ULL << 19 /* TSTP */ |     \
	 1ULL << 20 /* TTIN */ | 1ULL << 21 /* TTOU */ | 1ULL << 22 /* URG */ | 1ULL << 27 /* WINCH */)

static __always_inline int signal_is_good(unsigned int signal)
{
	return signal == 0 || (signal <= 64 && !(BAD_SIGNALS >> (signal - 1) & 1));
}

static __always_inline int is_exempt(const struct qc_grant *grant, unsigned long nr, unsigned long option,
				     int abi)
{
	/* The 32-bit umask has the number of exit: numbers are compared for the native ABI only. */
	if (abi)
		return 0;
	if (nr == NR_EXIT || nr == NR_EXIT_GROUP || nr == NR_RT_SIGRETURN)
		return 1;
	if (nr == NR_PRCTL && (unsigned int)option == PR_TASK_ISOLATION)
		return 1;
	return nr < QC_SYSCALLS && (grant->except[nr / 64 % (QC_SYSCALLS / 64)] >> (nr % 64) & 1);
}

static __noinline int syscall_entered(struct qc_thread *thread, struct pt_regs *regs, unsigned int flags)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct qc_grant *grant = grant_of(thread);
	unsigned long nr = regs->orig_ax;
	struct happening what = {.kind = QC_KIND_SYSCALL, .class = QC_SYSCALL, .flags = flags, .detail = nr};

	if (!grant)
		return 0;
	if (task->thread_info.status & TS_COMPAT)
		what.flags |= QC_F_COMPAT;
	else if (nr != ~0UL && (nr & X32_SYSCALL_BIT))
		what.flags |= QC_F_X32;
	thread->exceptions_wait = 0;
	return entered(thread, &what, is_exempt(grant, nr, regs->di, what.flags & (QC_F_COMPAT | QC_F_X32)));
}

static __always_inline void take_signals(struct qc_thread *thread, unsigned long bits, unsigned long classes)
{
	unsigned int one = PR_TASK_ISOLATION_GET_SIG(bits);

	if (bits & PR_TASK_ISOLATION_CLASSES) {
		thread->signals[QC_SYSCALL] = classes & 0xff;
		thread->signals[QC_EXCEPTION] = classes >> 8 & 0xff;
		thread->signals[QC_INTERRUPT] = classes >> 16 & 0xff;
	} else {
		one = one ? one : SIGKILL;
		thread->signals[QC_SYSCALL] = one;
		thread->signals[QC_EXCEPTION] = one;
		thread->signals[QC_INTERRUPT] = one;
	}
}

static __always_inline int refusal(const struct qc_grant *grant, struct pt_regs *regs, unsigned long bits)
{
	unsigned long classes = regs->dx;
	unsigned long known =
	    PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES | PR_TASK_ISOLATION_SET_SIG(0x7f);
	int by_class = !!(bits & PR_TASK_ISOLATION_CLASSES);

	if ((bits & ~known) || regs->r10 || regs->r8)
		return QC_REFUSED_ARGUMENT;
	if (bits && !(bits & PR_TASK_ISOLATION_ENABLE))
		return QC_REFUSED_ARGUMENT;
	if (!signal_is_good(PR_TASK_ISOLATION_GET_SIG(bits)))
		return QC_REFUSED_ARGUMENT;
	if (by_class && (classes >> 24 || !signal_is_good(classes & 0xff) ||
			 !signal_is_good(classes >> 8 & 0xff) || !signal_is_good(classes >> 16 & 0xff)))
		return QC_REFUSED_ARGUMENT;
	if (!by_class && classes)
		return QC_REFUSED_ARGUMENT;
	if (grant->locked && (!bits || !by_class || classes))
		return QC_REFUSED_LOCKED;
	if (bits && !on_its_core(bpf_get_current_task_btf(), grant))
		return QC_REFUSED_AFFINITY;
	return 0;
}

/* prctl(PR_TASK_ISOLATION, ...) on its way back to user mode. */
static __noinline int prctl_returns(struct qc_thread *thread, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct qc_grant *grant = grant_of(thread);
	unsigned long bits = regs->si;
	struct happening what = {};

	if (!grant)
		return 0;
	if (bits & (PR_TASK_ISOLATION_CHALLENGE | PR_TASK_ISOLATION_ON_EXEC)) {
		/* What the call returned does not matter here: the shim looks at what happened. */
		if (thread->state != QC_STATE_SHIM)
			return 0;
		if (bits & PR_TASK_ISOLATION_CHALLENGE) {
			what.signal = regs->dx;
			send(thread, &what);
			thread->unsent = 0; /* the shim asks again by itself */
		} else {
			thread->state = QC_STATE_AT_EXEC;
		}
		return 0;
	}
	if (ret || (thread->state != QC_STATE_WATCHED && thread->state != QC_STATE_ARMED))
		return 0;
	what.detail = refusal(grant, regs, bits);
	if (what.detail) {
		what.kind = QC_KIND_ARM_REFUSED;
	} else if (!bits) {
		if (thread->state != QC_STATE_ARMED)
			return 0;
		disarm(thread);
		what.kind = QC_KIND_DISARMED;
	} else {
		take_signals(thread, bits, regs->dx);
		thread->exceptions_wait = 0;
		thread->state = QC_STATE_ARMED;
		what.kind = QC_KIND_ARMED;
	}
	return emit(thread, &what, task);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(qc_sys_enter, struct pt_regs *regs, long id)
{
	struct qc_thread *thread = watched();

	if (!thread)
		return 0;
	thread->in_syscall = 1;
	return syscall_entered(thread, regs, 0);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(qc_sys_exit, struct pt_regs *regs, long ret)
{
	struct qc_thread *thread = watched();
	struct happening what = {.kind = QC_KIND_ARMED};

	if (!thread)
		return 0;
	if (!thread->in_syscall)
		syscall_entered(thread, regs, QC_F_DENIED);
	thread->in_syscall = 0;
	/* A restart moves ip back, rt_sigreturn replaces every register: still the same entry. */
	if (-ERESTART_RESTARTBLOCK <= ret && ret <= -ERESTARTSYS)
		remember_place(thread, ANY_PLACE, ANY_PLACE);
	else
		remember_place(thread, regs->ip, regs->sp);
	if (thread->state == QC_STATE_AT_RETURN) {
		thread->state = QC_STATE_ARMED;
		thread->exceptions_wait = 1;
		thread->fault_ns = bpf_ktime_get_ns();
		return emit(thread, &what, bpf_get_current_task_btf());
	}
	if (regs->orig_ax == NR_PRCTL && (unsigned int)regs->di == PR_TASK_ISOLATION &&
	    !(bpf_get_current_task_btf()->thread_info.status & TS_COMPAT))
		return prctl_returns(thread, regs, ret);
	return 0;
}

#endif
