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

static __noinline int take_seat(struct qc_thread *thread, struct task_struct *task)
{
	struct qc_seat *seat;

	if (thread->seat)
		return 0;
	for (int i = 0; i < SEATS_TRIED; i++) {
		unsigned int number = __sync_fetch_and_add(&qc_next_seat, 1) % (QC_SEATS - 1) + 1;

		seat = bpf_map_lookup_elem(&qc_seats, &number);
		if (!seat || seat->slot || __sync_val_compare_and_swap(&seat->slot, 0, thread->slot))
			continue;
		seat->tid = BPF_CORE_READ(task, thread_pid, numbers[0].nr);
		seat->start_ns = task->start_boottime;
		seat->generation = thread->generation;
		seat->last_ns = bpf_ktime_get_ns();
		seat->armed = 0;
		seat->done = 0;
		seat->taken = 1;
		thread->seat = number;
		return 0;
	}
	return -1;
}

static __noinline int leave_seat(struct qc_thread *thread)
{
	struct qc_seat *seat = seat_of(thread);

	if (!seat)
		return 0;
	thread->seat = 0;
	seat->taken = 0;
	seat->armed = 0;
	/* Last: from here on it is free. */
	seat->slot = 0;
	return 0;
}

#endif
