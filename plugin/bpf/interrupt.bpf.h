/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Class interrupt: only what hit user mode. What arrives while the thread is in the kernel already belongs
 * to the entry that brought it there.
 */
#ifndef QUIETCORE_INTERRUPT_BPF_H
#define QUIETCORE_INTERRUPT_BPF_H

#include "entry.bpf.h"
#include "queued.bpf.h"
#include "sent.bpf.h"

static __always_inline int interrupted(struct qc_thread *thread, unsigned short kind, int vector)
{
	struct happening what = {
	    .kind = kind, .class = QC_INTERRUPT, .irqs_off = 1, .detail = (unsigned int)vector};

	return entered(thread, &what, 0);
}

/* With its sender in this CPU's state. */
static __always_inline int interrupted_by(struct qc_thread *thread, unsigned short kind, int vector)
{
	struct happening what = {
	    .kind = kind, .class = QC_INTERRUPT, .irqs_off = 1, .detail = (unsigned int)vector};
	struct cpu_state *cpu = this_cpu();

	if (cpu)
		what.blame = &cpu->sender;
	return entered(thread, &what, 0);
}

#define VECTOR(tracepoint, of_kind)                                                                          \
	SEC("tp_btf/" #tracepoint)                                                                           \
	int BPF_PROG(qc_##tracepoint, int vector)                                                            \
	{                                                                                                    \
		struct qc_thread *thread = watched();                                                        \
                                                                                                             \
		if (!thread || !from_user(ctx, FROM_USER_VECTOR) || !tells(thread))                          \
			return 0;                                                                            \
		return interrupted(thread, of_kind, vector);                                                 \
	}

VECTOR(x86_platform_ipi_entry, QC_KIND_VECTOR)
VECTOR(spurious_apic_entry, QC_KIND_VECTOR)
VECTOR(error_apic_entry, QC_KIND_VECTOR)
VECTOR(thermal_apic_entry, QC_KIND_VECTOR)
VECTOR(threshold_apic_entry, QC_KIND_VECTOR)
VECTOR(deferred_error_apic_entry, QC_KIND_VECTOR)

SEC("tp_btf/local_timer_entry")
int BPF_PROG(qc_timers_begin, int vector)
{
	struct cpu_state *cpu;

	if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))
		return 0;
	cpu = this_cpu();
	if (cpu) {
		cpu->timers[0] = 0;
		cpu->timers[1] = 0;
	}
	return 0;
}

/* Told when it ends, with interrupts still off: by then it is known which timers were due. */
VECTOR(local_timer_exit, QC_KIND_TICK)

/* The sender is taken whatever was interrupted: else it would be blamed for the next. */
#define IPI(tracepoint, of_kind, sent_kind)                                                                  \
	SEC("tp_btf/" #tracepoint)                                                                           \
	int BPF_PROG(qc_##tracepoint, int vector)                                                            \
	{                                                                                                    \
		struct qc_thread *thread;                                                                    \
                                                                                                             \
		if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))                                    \
			return 0;                                                                            \
		take_sent(sent_kind);                                                                        \
		thread = watched();                                                                          \
		if (!thread || !from_user(ctx, FROM_USER_VECTOR) || !tells(thread))                          \
			return 0;                                                                            \
		return interrupted_by(thread, of_kind, vector);                                              \
	}

IPI(reschedule_entry, QC_KIND_RESCHEDULE, SENT_RESCHEDULE)
IPI(call_function_entry, QC_KIND_CALL_FUNCTION, SENT_CALL_FUNCTION)
IPI(call_function_single_entry, QC_KIND_CALL_FUNCTION, SENT_CALL_FUNCTION)

SEC("tp_btf/irq_work_entry")
int BPF_PROG(qc_irq_work_entry, int vector)
{
	struct cpu_state *cpu = this_cpu();
	struct qc_thread *thread;
	int ours;

	if (!cpu)
		return 0;
	/* Whichever irq_work comes next, in whatever context, is the one that sends our signal. */
	ours = cpu->own_ipi;
	cpu->own_ipi = 0;
	if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))
		return 0;
	take_sent(SENT_IRQ_WORK);
	thread = watched();
	if (!thread || !from_user(ctx, FROM_USER_VECTOR))
		return 0;
	if (ours) {
		struct pt_regs *regs = user_regs(bpf_get_current_task_btf());

		remember_place(thread, regs->ip, regs->sp);
		tells(thread);
		return 0;
	}
	return tells(thread) ? interrupted_by(thread, QC_KIND_IRQ_WORK, vector) : 0;
}

/*
 * The signals' irq_work has run, so there is room for the next one. Two interrupts without an instruction
 * in between need it: the second finds the room taken by the first.
 */
SEC("tp_btf/irq_work_exit")
int BPF_PROG(qc_irq_work_exit, int vector)
{
	struct qc_thread *thread = watched();
	struct qc_counts *counts;
	unsigned int slot;

	if (!thread || !grant_of(thread))
		return 0;
	slot = thread->slot;
	counts = bpf_map_lookup_elem(&qc_counts_map, &slot);
	if (counts)
		retry_unsent(thread, counts, 1);
	return 0;
}

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(qc_irq_handler_entry, int irq, struct irqaction *action)
{
	struct qc_thread *thread = watched();
	struct happening what = {
	    .kind = QC_KIND_DEVICE_IRQ, .class = QC_INTERRUPT, .irqs_off = 1, .detail = (unsigned int)irq};
	struct irqaction *last;
	int same_line;

	if (!thread)
		return 0;
	/* A shared line runs its actions one after the other within one entry (kernel/irq/handle.c). */
	last = (struct irqaction *)thread->action;
	same_line = last && BPF_CORE_READ(last, next) == action;
	thread->action = (unsigned long long)action;
	if (same_line || !from_user(ctx, FROM_USER_DEVICE) || !tells(thread))
		return 0;
	what.who = action->name;
	return entered(thread, &what, 0);
}

/* From an interrupt or a fault it goes on to user mode, and no tracepoint says when. */
static __noinline int switched_in(struct task_struct *task)
{
	struct qc_thread *thread;

	if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))
		return 0;
	thread = bpf_task_storage_get(&qc_threads, task, 0, 0);
	if (thread && thread->seat && !thread->in_syscall)
		seat_returns(thread, task);
	return 0;
}

/* The thread was interrupted, which is told already, and did not go to sleep: this is who took its core. */
static __noinline int came_on(struct qc_thread *thread, struct task_struct *next, unsigned int came_flags)
{
	struct happening what = {.kind = QC_KIND_CAME_ON,
				 .class = QC_INTERRUPT,
				 .action = QC_REPORT,
				 .blame = queuer_of(next),
				 .came = next,
				 .came_flags = came_flags};
	struct cpu_state *cpu = this_cpu();

	if (!grant_of(thread))
		return 0;
	if (!what.blame && cpu && thread->told == QC_TOLD_SENDER)
		what.blame = &cpu->sender;
	thread->told = QC_UNTOLD;
	return emit(thread, &what, bpf_get_current_task_btf());
}

static __noinline int leaves_its_core(struct qc_thread *thread, struct task_struct *prev,
				      struct task_struct *next)
{
	struct happening what = {.kind = QC_KIND_SWITCH, .class = QC_INTERRUPT};
	int unseen = !qc_edge && is_unseen_entry(thread, user_regs(prev));
	struct qc_thread *other;

	if (!unseen && (thread->told == QC_UNTOLD || prev->__state))
		return 0;
	other = bpf_task_storage_get(&qc_threads, next, 0, 0);
	if (other && other->slot == thread->slot && other->generation == thread->generation)
		what.came_flags = QC_CAME_WATCHED;
	if (!unseen)
		return came_on(thread, next, what.came_flags);
	what.came = next;
	what.blame = queuer_of(next);
	return entered(thread, &what, 0);
}

/*
 * Being switched out is no entry of its own: a tick, an IPI, a system call or a fault came before, and left
 * its place. Only where none of the programs here saw the entry it is counted now.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(qc_sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct qc_thread *thread = watched();

	if (thread) {
		leaves_its_core(thread, prev, next);
		if (thread->seat)
			seat_enters(thread);
	}
	/* With Edge user_enter says when. */
	return qc_edge ? 0 : switched_in(next);
}

#endif
