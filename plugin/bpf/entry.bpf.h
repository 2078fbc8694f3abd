/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One kernel entry of a watched thread: counted, and where the thread is armed, judged by its grant's rules.
 */
#ifndef QUIETCORE_ENTRY_BPF_H
#define QUIETCORE_ENTRY_BPF_H

#include "emit.bpf.h"
#include "seat.bpf.h"

static __always_inline void arm(struct qc_thread *thread)
{
	unsigned int slot = thread->slot;
	struct qc_counts *counts = bpf_map_lookup_elem(&qc_counts_map, &slot);
	struct qc_seat *seat = seat_of(thread);

	thread->state = QC_STATE_ARMED;
	if (seat)
		seat->armed = 1;
	if (counts && !counts->first_armed_ns)
		__sync_val_compare_and_swap(&counts->first_armed_ns, 0, bpf_ktime_get_boot_ns());
}

static __always_inline void disarm(struct qc_thread *thread)
{
	struct qc_seat *seat = seat_of(thread);

	thread->state = QC_STATE_WATCHED;
	thread->exceptions_wait = 0;
	if (seat) {
		seat->armed = 0;
		seat->done = 1;
	}
	__builtin_memset(thread->signals, 0, sizeof(thread->signals));
}

static __always_inline void sent(struct qc_thread *thread, struct qc_counts *counts, unsigned int signal)
{
	__sync_fetch_and_add(&counts->signals, 1);
	if (signal == SIGSTOP)
		thread->frozen = 1;
}

static __noinline int left_core(struct qc_thread *thread, struct task_struct *task, unsigned int cpu)
{
	struct happening what = {.kind = QC_KIND_LEFT_CORE, .flags = QC_F_DISARMED, .detail = cpu};

	disarm(thread);
	return emit(thread, &what, task);
}

/*
 * One a time: with interrupts off the kernel has room for one signal only. Of several that wait the value of
 * the last is known.
 */
static __noinline int retry_unsent(struct qc_thread *thread, struct qc_counts *counts, int irqs_off)
{
	struct happening again = {.irqs_off = irqs_off};

	for (int class = 0; class < QC_MACHINE_CHECK; class ++) {
		if (!thread->unsent[class])
			continue;
		again.class = class;
		again.signal = thread->unsent_signals[class];
		again.value =
		    thread->unsent[class] == 1
			? thread->unsent_values[class]
			: PR_TASK_ISOLATION_MAKE_VALUE(class + 1, PR_TASK_ISOLATION_CAUSE_UNKNOWN, 0);
		if (send(&again) & QC_F_SIGNALLED) {
			thread->unsent[class]--;
			sent(thread, counts, again.signal);
		}
		return 0;
	}
	return 0;
}

/* Fewer than the policy allows in the present window: only counted. Of each thread by itself. */
static __always_inline int within_budget(struct qc_thread *thread, const struct qc_grant *grant,
					 unsigned int class)
{
	unsigned long long now;

	class &= 3;
	if (!grant->budget_ns[class])
		return 0;
	now = bpf_ktime_get_ns();
	if (now - thread->window_ns[class] >= grant->budget_ns[class]) {
		thread->window_ns[class] = now;
		thread->in_window[class] = 0;
	}
	if (thread->in_window[class] >= grant->budget_entries[class])
		return 0;
	thread->in_window[class]++;
	return 1;
}

/* Zero, or why the policy's mode sends nothing. */
static __always_inline unsigned int not_enforced(const struct qc_grant *grant, const struct qc_counts *counts)
{
	if (!grant->enforce)
		return QC_F_AUDIT;
	if (grant->enforce_ns && bpf_ktime_get_boot_ns() - counts->first_armed_ns >= grant->enforce_ns)
		return QC_F_EXPIRED;
	return 0;
}

/* For an armed thread. `what` says which entry; its action, signal and flags are filled in here. */
static __noinline int judge(struct qc_thread *thread, const struct qc_grant *grant, struct happening *what)
{
	unsigned int slot = thread->slot, class = what->class & 3;
	struct qc_counts *counts = bpf_map_lookup_elem(&qc_counts_map, &slot);

	what->action = grant->actions[class];
	what->signal = grant->signals[class];
	if (thread->signals[class]) {
		what->action = QC_SIGNAL;
		what->signal = thread->signals[class];
	}
	if (class == QC_MACHINE_CHECK && what->action > QC_REPORT)
		what->action = QC_REPORT;
	if (what->action == QC_IGNORE || !counts)
		return 0;
	__sync_fetch_and_add(&counts->violations[class], 1);
	if (what->action == QC_COUNT || within_budget(thread, grant, class))
		return 0;
	if (what->action == QC_FREEZE)
		what->signal = SIGSTOP;
	if (what->action >= QC_SIGNAL) {
		unsigned int why_not = not_enforced(grant, counts);

		/* In Audit too, so that Audit predicts Enforce. */
		if (!grant->continuous) {
			disarm(thread);
			what->flags |= QC_F_DISARMED;
		}
		if (!why_not) {
			what->value = public_value(what);
			what->flags |= send(what);
			if (what->flags & QC_F_SIGNALLED) {
				sent(thread, counts, what->signal);
			} else {
				thread->unsent[class]++;
				thread->unsent_signals[class] = what->signal;
				thread->unsent_values[class] = what->value;
			}
		} else {
			what->flags |= why_not;
		}
	} else {
		what->signal = 0;
	}
	if (class == QC_INTERRUPT && what->kind != QC_KIND_SWITCH)
		thread->told = what->blame ? QC_TOLD_SENDER : QC_TOLD;
	return emit(thread, what, bpf_get_current_task_btf());
}

/* The agent may have armed the thread meanwhile, from another CPU: then this entry is the first to be judged.
 */
static __noinline int look_at_seat(struct qc_thread *thread, const struct qc_grant *grant,
				   const struct happening *what, int exempt)
{
	struct qc_seat *seat = seat_of(thread);
	unsigned int class = what->class & 3;

	if (!seat)
		return 0;
	seat->on_core = on_its_core(bpf_get_current_task_btf(), grant);
	if (seat->arm_ns == seat->last_ns && !seat->done && thread->state == QC_STATE_WATCHED)
		arm(thread);
	if (!exempt && grant->restless[class]) {
		seat->in_class = class;
		seat->last_ns = bpf_ktime_get_ns();
	}
	return 0;
}

/* Every entry of a watched thread comes by here once; `exempt` ones are counted and never judged. */
static __noinline int entered(struct qc_thread *thread, struct happening *what, int exempt)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *regs = user_regs(task);
	const struct qc_grant *grant = grant_of(thread);
	unsigned int slot = thread->slot;
	struct qc_counts *counts = bpf_map_lookup_elem(&qc_counts_map, &slot);

	if (!grant || !counts)
		return 0;
	__sync_fetch_and_add(&counts->entries[what->class & 3], 1);
	thread->told = QC_UNTOLD;
	remember_place(thread, regs->ip, regs->sp);
	thread->frozen = 0;
	retry_unsent(thread, counts, what->irqs_off);
	if (thread->seat)
		look_at_seat(thread, grant, what, exempt);
	if (thread->state != QC_STATE_ARMED)
		return 0;
	if (!on_its_core(task, grant))
		return left_core(thread, task, bpf_get_smp_processor_id());
	if (exempt)
		return 0;
	return judge(thread, grant, what);
}

#endif
