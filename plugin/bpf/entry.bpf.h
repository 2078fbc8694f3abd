/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One kernel entry of a watched thread: counted, and where the thread is armed, judged by its grant's rules.
 */
#ifndef QUIETCORE_ENTRY_BPF_H
#define QUIETCORE_ENTRY_BPF_H

#include "emit.bpf.h"

/* A value that no user stack pointer or instruction pointer has: "whatever it is, it is this entry". */
#define ANY_PLACE (~0ULL)

static __always_inline void remember_place(struct qc_thread *thread, unsigned long ip, unsigned long sp)
{
	thread->entry_ip = ip;
	thread->entry_sp = sp;
}

static __always_inline void disarm(struct qc_thread *thread)
{
	thread->state = QC_STATE_WATCHED;
	thread->exceptions_wait = 0;
	__builtin_memset(thread->signals, 0, sizeof(thread->signals));
}

static __noinline int left_core(struct qc_thread *thread, struct task_struct *task, unsigned int cpu)
{
	struct happening what = {.kind = QC_KIND_LEFT_CORE, .flags = QC_F_DISARMED, .detail = cpu};

	disarm(thread);
	return emit(thread, &what, task);
}

/* For an armed thread. `what` says which entry; its action, signal and flags are filled in here. */
static __noinline int judge(struct qc_thread *thread, const struct qc_grant *grant, struct happening *what)
{
	struct task_struct *task = bpf_get_current_task_btf();
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
	if (what->action == QC_COUNT)
		return 0;
	if (what->action == QC_SIGNAL) {
		/* In Audit too, so that Audit predicts Enforce. */
		if (!grant->continuous) {
			disarm(thread);
			what->flags |= QC_F_DISARMED;
		}
		if (grant->enforce) {
			what->flags |= send(thread, what);
			if (what->flags & QC_F_SIGNALLED)
				__sync_fetch_and_add(&counts->signals, 1);
		} else {
			what->flags |= QC_F_AUDIT;
		}
	} else {
		what->signal = 0;
	}
	return emit(thread, what, task);
}

/* Every entry of a watched thread comes by here once; `exempt` ones are counted and never judged. */
static __noinline int entered(struct qc_thread *thread, struct happening *what, int exempt)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	const struct qc_grant *grant = grant_of(thread);
	unsigned int slot = thread->slot;
	struct qc_counts *counts = bpf_map_lookup_elem(&qc_counts_map, &slot);

	if (!grant || !counts)
		return 0;
	__sync_fetch_and_add(&counts->entries[what->class & 3], 1);
	remember_place(thread, regs->ip, regs->sp);
	if (thread->unsent) {
		struct happening again = {
		    .class = what->class, .signal = thread->unsent, .irqs_off = what->irqs_off};

		if (send(thread, &again) & QC_F_SIGNALLED)
			__sync_fetch_and_add(&counts->signals, 1);
	}
	if (thread->state != QC_STATE_ARMED)
		return 0;
	if (!on_its_core(task, grant))
		return left_core(thread, task, bpf_get_smp_processor_id());
	if (exempt)
		return 0;
	return judge(thread, grant, what);
}

#endif
