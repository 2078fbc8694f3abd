/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who puts tasks on a granted CPU: wakes them there, or moves them there. For the day when one of them takes
 * the core from a thread that was interrupted.
 */
#ifndef QUIETCORE_QUEUED_BPF_H
#define QUIETCORE_QUEUED_BPF_H

#include "blame.bpf.h"

/* A few at once on one CPU, told apart by their tid. */
#define QUEUED_AT_ONCE 4

struct queued {
	unsigned int state; /* enum writing */
	unsigned int tid;
	struct qc_blame by;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries,
	       QUEUED_AT_ONCE); /* of each CPU: the agent multiplies it before it loads the programs */
	__type(key, unsigned int);
	__type(value, struct queued);
} qc_queued SEC(".maps");

static __noinline int note_queued(unsigned int cpu, unsigned int tid, unsigned int context)
{
	unsigned int key = cpu * QUEUED_AT_ONCE + tid % QUEUED_AT_ONCE;
	struct queued *queued = bpf_map_lookup_elem(&qc_queued, &key);

	if (!queued || __sync_lock_test_and_set(&queued->state, BEING_WRITTEN) == BEING_WRITTEN)
		return 0;
	queued->tid = tid;
	blame_current(&queued->by, context, 0);
	__sync_lock_test_and_set(&queued->state, WRITTEN);
	return 0;
}

/* Only with the Tracepoint detector: 3 % of every wakeup of the machine is more than Edge may cost. */
SEC("tp_btf/sched_waking")
int BPF_PROG(qc_waking, struct task_struct *task)
{
	unsigned int cpu = cpu_of(task);

	if (!cpu_in(qc_cpus.granted, cpu))
		return 0;
	return note_queued(cpu, task->pid, context_of(ctx));
}

/* NULL: nobody that was seen. Told once: who is preempted and comes back was queued by nobody. */
static __always_inline struct qc_blame *queuer_of(struct task_struct *task)
{
	unsigned int tid = BPF_CORE_READ(task, pid);
	unsigned int key = bpf_get_smp_processor_id() * QUEUED_AT_ONCE + tid % QUEUED_AT_ONCE;
	struct queued *queued = bpf_map_lookup_elem(&qc_queued, &key);

	if (!queued || queued->tid != tid ||
	    __sync_val_compare_and_swap(&queued->state, WRITTEN, FREE) != WRITTEN)
		return 0;
	return &queued->by;
}

#endif
