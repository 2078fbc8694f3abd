/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * arm.at: Settled. A thread that nobody prepared cannot say when it is ready: the agent sees it from another
 * CPU, by the time of its last entry, and arms it by a store. A program that is quiet stays quiet meanwhile.
 */
#ifndef QUIETCORE_SEAT_BPF_H
#define QUIETCORE_SEAT_BPF_H

#include "thread.bpf.h"

/* Where the search for a free seat begins; goes round and round. */
unsigned int qc_next_seat;
#define SEATS_TRIED 64

static __always_inline struct qc_seat *seat_of(const struct qc_thread *thread)
{
	unsigned int seat = thread->seat;

	return seat ? bpf_map_lookup_elem(&qc_seats, &seat) : 0;
}

static __always_inline void name_seat(struct qc_seat *seat, struct task_struct *task)
{
	struct pid *tid = task->thread_pid;
	unsigned int level = BPF_CORE_READ(tid, level);

	seat->pid_level = level < QC_PID_LEVELS ? level : QC_PID_LEVELS - 1;
#define PID_AT(i) seat->pids[i] = i <= level ? BPF_CORE_READ(tid, numbers[i].nr) : 0
	PID_AT(0);
	PID_AT(1);
	PID_AT(2);
	PID_AT(3);
#undef PID_AT
	seat->tgid = BPF_CORE_READ(task, group_leader, thread_pid, numbers[0].nr);
	seat->start_ns = task->start_boottime;
}

/* A container that makes threads without end leaves seats for the others. */
static __always_inline int may_sit(struct qc_counts *counts)
{
	if (__sync_fetch_and_add(&counts->seated, 1) < QC_SEATS_EACH)
		return 1;
	__sync_fetch_and_add(&counts->seated, -1);
	return 0;
}

/* At a fork or an execve: it is in the kernel. */
static __noinline int take_seat(struct qc_thread *thread, struct task_struct *task)
{
	unsigned int slot = thread->slot;
	struct qc_counts *counts = bpf_map_lookup_elem(&qc_counts_map, &slot);
	struct qc_seat *seat;

	if (thread->seat)
		return 0;
	if (!counts || !may_sit(counts))
		return -1;
	for (int i = 0; i < SEATS_TRIED; i++) {
		unsigned int number = __sync_fetch_and_add(&qc_next_seat, 1) % (QC_SEATS - 1) + 1;

		seat = bpf_map_lookup_elem(&qc_seats, &number);
		if (!seat || seat->slot || __sync_val_compare_and_swap(&seat->slot, 0, thread->slot))
			continue;
		name_seat(seat, task);
		seat->generation = thread->generation;
		seat->last_ns = bpf_ktime_get_ns();
		seat->arm_ns = 0;
		seat->inside_ns = seat->last_ns;
		seat->restless_ns = seat->last_ns;
		seat->armed = 0;
		seat->done = 0;
		seat->on_core = 0;
		seat->in_class = QC_SYSCALL;
		seat->told = 0;
		seat->taken = 1;
		thread->seat = number;
		return 0;
	}
	__sync_fetch_and_add(&counts->seated, -1);
	return -1;
}

static __noinline int leave_seat(struct qc_thread *thread)
{
	struct qc_seat *seat = seat_of(thread);
	unsigned int slot = thread->slot;
	struct qc_counts *counts = bpf_map_lookup_elem(&qc_counts_map, &slot);

	if (!seat)
		return 0;
	/* A later holder of the slot counts from 0. */
	if (counts && grant_of(thread))
		__sync_fetch_and_add(&counts->seated, -1);
	thread->seat = 0;
	seat->taken = 0;
	/* Last: from here on it is free. */
	seat->slot = 0;
	return 0;
}

/* It leaves user mode, or is switched out. */
static __noinline int seat_enters(struct qc_thread *thread)
{
	struct qc_seat *seat = seat_of(thread);

	if (seat && !seat->inside_ns)
		seat->inside_ns = bpf_ktime_get_ns();
	return 0;
}

/*
 * It goes back to user mode. Where it slept or stood still for as long as it would have to be quiet, its
 * quiet begins anew: what does not run keeps no promise. Its affinity may be another than when it came.
 */
static __noinline int seat_returns(struct qc_thread *thread, struct task_struct *task)
{
	struct qc_seat *seat = seat_of(thread);
	const struct qc_grant *grant = grant_of(thread);
	unsigned long long now, came;

	if (!seat || !grant || !seat->inside_ns)
		return 0;
	now = bpf_ktime_get_ns();
	came = seat->inside_ns;
	if (now - came >= grant->settle_ns) {
		seat->last_ns = now;
		seat->restless_ns = now;
	} else if (seat->last_ns >= came) {
		seat->last_ns = now;
	}
	seat->on_core = on_its_core(task, grant);
	seat->inside_ns = 0;
	return 0;
}

#endif
