/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Strictness begins and ends here: prctl(PR_TASK_ISOLATION, ...) and the shim's exec, both on their way back
 * to user mode. From there on, and not before, an entry of the thread can be a violation.
 */
#ifndef QUIETCORE_ARM_BPF_H
#define QUIETCORE_ARM_BPF_H

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

static __always_inline int is_isolation_prctl(const struct pt_regs *regs)
{
	return (int)regs->orig_ax == NR_PRCTL && (unsigned int)regs->di == PR_TASK_ISOLATION;
}

static __always_inline void take_ask(struct qc_thread *thread, const struct pt_regs *regs)
{
	thread->ask.bits = regs->si;
	thread->ask.classes = regs->dx;
	thread->ask.arg4 = regs->r10;
	thread->ask.arg5 = regs->r8;
}

static __always_inline void take_signals(struct qc_thread *thread)
{
	unsigned long bits = thread->ask.bits, classes = thread->ask.classes;
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

/* Where a filter answers it has refused most of this already; but the pod's own filter may have answered. */
static __always_inline int refusal(const struct qc_grant *grant, const struct qc_ask *ask)
{
	unsigned long bits = ask->bits, classes = ask->classes;
	unsigned long known =
	    PR_TASK_ISOLATION_ENABLE | PR_TASK_ISOLATION_CLASSES | PR_TASK_ISOLATION_SET_SIG(0x7f);
	int by_class = !!(bits & PR_TASK_ISOLATION_CLASSES);

	if ((bits & ~known) || ask->arg4 || ask->arg5)
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

/* What these two return does not matter: the shim looks at what happened. */
static __always_inline void shim_asks(struct qc_thread *thread, unsigned long bits, unsigned int signal)
{
	struct happening what = {.signal = signal};

	if (thread->state != QC_STATE_SHIM)
		return;
	if (bits & PR_TASK_ISOLATION_CHALLENGE)
		send(&what);
	else
		thread->state = QC_STATE_AT_EXEC;
}

static __noinline int prctl_returns(struct qc_thread *thread, int ret)
{
	const struct qc_grant *grant = grant_of(thread);
	unsigned long bits = thread->ask.bits;
	struct happening what = {};

	if (!grant)
		return 0;
	if (bits & (PR_TASK_ISOLATION_CHALLENGE | PR_TASK_ISOLATION_ON_EXEC)) {
		shim_asks(thread, bits, thread->ask.classes);
		return 0;
	}
	/* Not 0: nobody answered the call (EINVAL), or the filter refused it. */
	if (ret || (thread->state != QC_STATE_WATCHED && thread->state != QC_STATE_ARMED))
		return 0;
	what.detail = refusal(grant, &thread->ask);
	if (what.detail) {
		what.kind = QC_KIND_ARM_REFUSED;
	} else if (!bits) {
		if (thread->state != QC_STATE_ARMED)
			return 0;
		disarm(thread);
		what.kind = QC_KIND_DISARMED;
	} else {
		take_signals(thread);
		thread->exceptions_wait = 0;
		arm(thread);
		what.kind = QC_KIND_ARMED;
	}
	return emit(thread, &what, bpf_get_current_task_btf());
}

/*
 * Would the tick that this core cannot stop now bring a signal? Then it is not ready; the caller may try
 * again. Only where somebody can tell it so, and where ticks can stop at all.
 */
static __always_inline int core_ticks(const struct qc_grant *grant, const struct qc_ask *ask)
{
	struct cpu_state *cpu = this_cpu();
	int by_class = !!(ask->bits & PR_TASK_ISOLATION_CLASSES);

	if (!qc_edge || !(ask->bits & PR_TASK_ISOLATION_ENABLE) || !cpu)
		return 0;
	if (by_class && !(ask->classes >> 16 & 0xff) && grant->actions[QC_INTERRUPT] < QC_SIGNAL)
		return 0;
	return !!(cpu->tick_dependency & ~QC_TICK_KNOWN);
}

static __always_inline int errno_of(unsigned int refusal)
{
	switch (refusal) {
	case QC_REFUSED_LOCKED:
		return -EPERM;
	case QC_REFUSED_TICK:
		return -EAGAIN;
	default:
		return -EINVAL;
	}
}

/*
 * Provider Lsm: the errno itself. A 0 would mean "not decided" to the LSM's trampoline, and the call would go
 * on to fail; only the low half of what is returned here reaches the caller (tested at start, self_test.rs).
 */
#define ANSWER_ZERO (1UL << 32)

SEC("lsm/task_prctl")
long BPF_PROG(qc_task_prctl, int option, unsigned long arg2, unsigned long arg3, unsigned long arg4,
	      unsigned long arg5)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct qc_ask ask = {.bits = arg2, .classes = arg3, .arg4 = arg4, .arg5 = arg5};
	struct happening what = {.kind = QC_KIND_ARM_REFUSED};
	const struct qc_grant *grant;
	struct qc_thread *thread;

	if (option != PR_TASK_ISOLATION)
		return -ENOSYS;
	thread = bpf_task_storage_get(&qc_threads, task, 0, 0);
	if (!thread)
		return -EPERM;
	grant = grant_of(thread);
	if (!grant)
		return -EPERM;
	if (arg2 & (PR_TASK_ISOLATION_CHALLENGE | PR_TASK_ISOLATION_ON_EXEC))
		return thread->state == QC_STATE_SHIM ? ANSWER_ZERO : -EPERM;
	what.detail = refusal(grant, &ask);
	if (!what.detail && core_ticks(grant, &ask))
		what.detail = QC_REFUSED_TICK;
	if (!what.detail)
		return ANSWER_ZERO;
	thread->ask = ask;
	if (what.detail != QC_REFUSED_TICK || !thread->told_not_ready)
		emit(thread, &what, task);
	thread->told_not_ready |= what.detail == QC_REFUSED_TICK;
	return errno_of(what.detail);
}

/* The shim asked for it; the program's first instruction comes next. */
static __noinline int execve_returns(struct qc_thread *thread)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct qc_grant *grant = grant_of(thread);
	struct happening what = {.kind = QC_KIND_ARMED};

	thread->state = QC_STATE_WATCHED;
	if (!grant)
		return 0;
	if (on_its_core(task, grant)) {
		arm(thread);
		thread->exceptions_wait = 1;
		thread->fault_ns = bpf_ktime_get_ns();
	} else {
		what.kind = QC_KIND_ARM_REFUSED;
		what.detail = QC_REFUSED_AFFINITY;
	}
	return emit(thread, &what, task);
}

#endif
