/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who caused what comes to a granted CPU from elsewhere: how a task is named, and what it has to do with it.
 * Who sent an interrupt: sent.bpf.h; who put a task on the core: queued.bpf.h.
 */
#ifndef QUIETCORE_BLAME_BPF_H
#define QUIETCORE_BLAME_BPF_H

#include "thread.bpf.h"

/* Of one CPU; only programs on that CPU touch it. */
struct cpu_state {
	/*
	 * A signal sent with interrupts off is queued as irq_work, whose IPI to this CPU can fire right
	 * after the return to user mode. That entry is ours: this mark hides it.
	 */
	unsigned int own_ipi;
	unsigned int tick_dependency;	      /* of its last tick_stop */
	unsigned long long timers[QC_TIMERS]; /* due in its last local timer interrupt */
	unsigned long long first_nmi_handler;
	unsigned long long last_nmi_ns;
	unsigned long long
	    queued_function;	/* of the last function call that this CPU queued for a granted one */
	struct qc_blame sender; /* of the last interrupt that this CPU took from another */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, unsigned int);
	__type(value, struct cpu_state);
} qc_cpu_state SEC(".maps");

static __always_inline struct cpu_state *this_cpu(void)
{
	unsigned int key = 0;

	return bpf_map_lookup_elem(&qc_cpu_state, &key);
}

/* Whoever finds it free writes; nobody waits. */
enum writing {
	FREE = 0,
	BEING_WRITTEN = 1,
	WRITTEN = 2,
};

/*
 * The preemption counter would tell, but a variable can be found only in kernels with KALLSYMS_ALL. An
 * interrupt of kernel mode, and every softirq, runs on a stack of its own, where `ctx` lies then.
 */
static __always_inline unsigned int context_of(void *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (!from_user(ctx, THREAD_SIZE))
		return QC_IN_INTERRUPT;
	return task->flags & PF_KTHREAD || came_by_syscall(user_regs(task)) ? QC_IN_TASK : QC_CONTEXT_UNKNOWN;
}

/* On a v1 and v2 hybrid the default hierarchy knows no pods; the cpuset's does, on every node. */
static __always_inline unsigned long long cgroup_of(struct task_struct *task)
{
	struct css_set *sets = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *cpuset = 0;
	void *place;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, cpuset_cgrp_id))
		return 0;
	place = (void *)sets + bpf_core_field_offset(struct css_set, subsys);
	place += bpf_core_enum_value(enum cgroup_subsys_id, cpuset_cgrp_id) * sizeof(void *);
	bpf_probe_read_kernel(&cpuset, sizeof(cpuset), place);
	return BPF_CORE_READ(cpuset, cgroup, kn, id);
}

static __always_inline void fill_task(struct qc_task *to, struct task_struct *task)
{
	to->cgroup = cgroup_of(task);
	to->tid = BPF_CORE_READ(task, pid);
	to->tgid = BPF_CORE_READ(task, tgid);
	bpf_probe_read_kernel(to->comm, sizeof(to->comm), task->comm);
}

static __noinline int blame_current(struct qc_blame *blame, unsigned int context, unsigned long long function)
{
	fill_task(&blame->by, bpf_get_current_task_btf());
	blame->function = function;
	blame->cpu = bpf_get_smp_processor_id();
	blame->context = context;
	blame->known = 1;
	return 0;
}

/*
 * What a worker is about to run: a work that a switch interrupted, else the first of its pool
 * (kernel/workqueue.c, worker_thread).
 */
static __always_inline unsigned long long function_of_worker(struct task_struct *task)
{
	struct list_head *first;
	struct kthread *kthread;
	struct worker *worker;
	void *function;

	/* Linux 5.17 */
	if (!bpf_core_field_exists(struct task_struct, worker_private) ||
	    !(BPF_CORE_READ(task, flags) & PF_WQ_WORKER))
		return 0;
	kthread = BPF_CORE_READ(task, worker_private);
	worker = BPF_CORE_READ(kthread, data);
	function = BPF_CORE_READ(worker, current_func);
	if (function)
		return (unsigned long long)function;
	first = BPF_CORE_READ(worker, pool, worklist.next);
	if (first ==
	    (void *)BPF_CORE_READ(worker, pool) + bpf_core_field_offset(struct worker_pool, worklist))
		return 0;
	first = (void *)first - bpf_core_field_offset(struct work_struct, entry);
	return (unsigned long long)BPF_CORE_READ((struct work_struct *)first, func);
}

/* Why a core in nohz_full ticks. On every other it ticks because all do. */
SEC("tp_btf/tick_stop")
int BPF_PROG(qc_tick_stop, int success, int dependency)
{
	struct cpu_state *cpu;

	if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))
		return 0;
	cpu = this_cpu();
	if (cpu)
		cpu->tick_dependency = dependency | QC_TICK_KNOWN;
	return 0;
}

/* The tick is one of them. */
SEC("tp_btf/hrtimer_expire_entry")
int BPF_PROG(qc_timer_is_due, struct hrtimer *timer)
{
	struct cpu_state *cpu;

	if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))
		return 0;
	cpu = this_cpu();
	if (!cpu)
		return 0;
	if (!cpu->timers[0])
		cpu->timers[0] = (unsigned long long)timer->function;
	else if (!cpu->timers[1])
		cpu->timers[1] = (unsigned long long)timer->function;
	return 0;
}

#endif
