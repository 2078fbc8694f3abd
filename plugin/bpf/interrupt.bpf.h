/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Class interrupt: only what hit user mode. What arrives while the thread is in the kernel already belongs
 * to the entry that brought it there.
 */
#ifndef QUIETCORE_INTERRUPT_BPF_H
#define QUIETCORE_INTERRUPT_BPF_H

#include "entry.bpf.h"

static __always_inline int interrupted(struct qc_thread *thread, unsigned short kind,
				       unsigned long long number)
{
	struct happening what = {.kind = kind, .class = QC_INTERRUPT, .irqs_off = 1, .detail = number};

	return entered(thread, &what, 0);
}

#define VECTOR(tracepoint, of_kind)                                                                          \
	SEC("tp_btf/" #tracepoint)                                                                           \
	int BPF_PROG(qc_##tracepoint, int vector)                                                            \
	{                                                                                                    \
		struct qc_thread *thread = watched();                                                        \
                                                                                                             \
		if (!thread || !from_user(ctx, FROM_USER_VECTOR))                                            \
			return 0;                                                                            \
		return interrupted(thread, of_kind, vector);                                                 \
	}

VECTOR(local_timer_entry, QC_KIND_TICK)
VECTOR(reschedule_entry, QC_KIND_RESCHEDULE)
VECTOR(call_function_entry, QC_KIND_CALL_FUNCTION)
VECTOR(call_function_single_entry, QC_KIND_CALL_FUNCTION)

SEC("tp_btf/irq_work_entry")
int BPF_PROG(qc_irq_work_entry, int vector)
{
	struct qc_thread *thread = watched();
	unsigned int key = 0, *own_ipi;
	int ours;

	if (!thread)
		return 0;
	/* From kernel mode too: whichever irq_work comes next is the one that sends our signal. */
	own_ipi = bpf_map_lookup_elem(&qc_own_ipi, &key);
	ours = own_ipi && *own_ipi;
	if (ours)
		*own_ipi = 0;
	if (ours || !from_user(ctx, FROM_USER_VECTOR))
		return 0;
	return interrupted(thread, QC_KIND_IRQ_WORK, vector);
}

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(qc_irq_handler_entry, int irq, struct irqaction *action)
{
	struct qc_thread *thread = watched();
	struct happening what = {
	    .kind = QC_KIND_DEVICE_IRQ, .class = QC_INTERRUPT, .irqs_off = 1, .detail = irq};
	struct irqaction *last;
	int same_line;

	if (!thread)
		return 0;
	/* A shared line runs its actions one after the other within one entry (kernel/irq/handle.c). */
	last = (struct irqaction *)thread->action;
	same_line = last && BPF_CORE_READ(last, next) == action;
	thread->action = (unsigned long long)action;
	if (same_line || !from_user(ctx, FROM_USER_DEVICE))
		return 0;
	what.who = action->name;
	return entered(thread, &what, 0);
}

/*
 * Being switched out is no entry of its own: a tick, an IPI, a system call or a fault came before, and left
 * its place. Other saved registers mean an entry that none of the programs here saw, such as a hypervisor's
 * vector: that one is counted now.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(qc_sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct qc_thread *thread = watched();
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct happening what = {.kind = QC_KIND_SWITCH, .class = QC_INTERRUPT};

	if (!thread || thread->in_syscall || thread->entry_ip == ANY_PLACE)
		return 0;
	if (thread->entry_ip == regs->ip && thread->entry_sp == regs->sp)
		return 0;
	what.code = BPF_CORE_READ(next, thread_pid, numbers[0].nr);
	what.who = next->comm;
	return entered(thread, &what, 0);
}

/* The kernel is about to change the saved registers for a handler: still the same entry. */
SEC("tp_btf/signal_deliver")
int BPF_PROG(qc_signal_deliver, int sig)
{
	struct qc_thread *thread = watched();

	if (thread)
		remember_place(thread, ANY_PLACE, ANY_PLACE);
	return 0;
}

#endif
