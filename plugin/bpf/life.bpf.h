/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A thread's life: what its children inherit, what an exec changes, and when it leaves its core. Rare
 * events, so no test of the CPU comes first: a watched thread may be anywhere by then.
 */
#ifndef QUIETCORE_LIFE_BPF_H
#define QUIETCORE_LIFE_BPF_H

#include "entry.bpf.h"
#include "queued.bpf.h"

static __always_inline int seats(const struct qc_thread *thread)
{
	const struct qc_grant *grant = grant_of(thread);

	return grant && grant->seats;
}

/* Where its grant has seats. One that finds none is never armed, and says so. */
static __always_inline void sit_down(struct qc_thread *thread, struct task_struct *task)
{
	struct happening what = {.kind = QC_KIND_ARM_REFUSED, .detail = QC_REFUSED_SEAT};

	if (seats(thread) && take_seat(thread, task))
		emit(thread, &what, task);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(qc_fork, struct task_struct *parent, struct task_struct *child)
{
	struct qc_thread *thread = bpf_task_storage_get(&qc_threads, parent, 0, 0), *new;
	struct qc_counts *counts;
	unsigned int slot;

	if (!thread || !grant_of(thread))
		return 0;
	new = bpf_task_storage_get(&qc_threads, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!new) {
		slot = thread->slot;
		counts = bpf_map_lookup_elem(&qc_counts_map, &slot);
		if (counts)
			__sync_fetch_and_add(&counts->unwatched, 1);
		return 0;
	}
	new->slot = thread->slot;
	new->generation = thread->generation;
	/* Any thread of the runtime's init may exec the shim. A process that it starts, such as a hook, may
	 * not. */
	new->state =
	    thread->state == QC_STATE_NEW && parent->tgid == child->tgid ? QC_STATE_NEW : QC_STATE_WATCHED;
	/* It begins on its way out of fork, so its first sys_exit is nobody's entry. */
	if (new->state == QC_STATE_WATCHED)
		sit_down(new, child);
	new->in_syscall = 1;
	new->entry = QC_ENTRY_TOLD;
	remember_place(new, QC_ANY_PLACE, QC_ANY_PLACE);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(qc_exec, struct task_struct *task)
{
	struct qc_thread *thread = bpf_task_storage_get(&qc_threads, task, 0, 0);

	if (!thread)
		return 0;
	switch (thread->state) {
	case QC_STATE_NEW:
		thread->state = QC_STATE_SHIM;
		break;
	case QC_STATE_AT_EXEC:
		thread->state = QC_STATE_AT_RETURN;
		/* Elsewhere nobody would see it return; on its core it is asked again then. */
		if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))
			return execve_returns(thread);
		break;
	default:
		/* An armed thread's execve was a violation when it began. */
		disarm(thread);
		/* Another program: it settles by itself. */
		leave_seat(thread);
		sit_down(thread, task);
	}
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(qc_exit, struct task_struct *task)
{
	struct qc_thread *thread = bpf_task_storage_get(&qc_threads, task, 0, 0);

	return thread ? leave_seat(thread) : 0;
}

/* Before a thread goes to another CPU; it does not run now. */
SEC("tp_btf/sched_migrate_task")
int BPF_PROG(qc_migrate, struct task_struct *task, unsigned int to)
{
	struct qc_thread *thread = bpf_task_storage_get(&qc_threads, task, 0, 0);
	const struct qc_grant *grant;

	if (cpu_in(qc_cpus.granted, to))
		note_queued(to, task->pid, context_of(ctx));
	if (!thread)
		return 0;
	if (cpu_in(qc_cpus.granted, to) && !cpu_in(qc_cpus.granted, cpu_of(task))) {
		/* What it did on a CPU that is not granted nobody saw. */
		thread->in_syscall = came_by_syscall(user_regs(task));
		thread->entry = QC_ENTRY_TOLD;
		remember_place(thread, QC_ANY_PLACE, QC_ANY_PLACE);
	}
	if (thread->state != QC_STATE_ARMED)
		return 0;
	/* From there on none of the other programs would see what it does. */
	grant = grant_of(thread);
	if (grant && !cpu_in(grant->cpus, to))
		left_core(thread, task, to);
	return 0;
}

#endif
