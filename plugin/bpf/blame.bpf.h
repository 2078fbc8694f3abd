/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who caused what comes to a granted CPU from elsewhere. The senders' side runs on every CPU of the machine,
 * so it first asks for whom: nothing more is done for a CPU that is not granted.
 *
 * An interrupt's sender is known before the interrupt is sent, and is taken by the first program that the
 * interrupt runs, in whatever context: what is left then was sent for the next one.
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
	unsigned int tick_dependency; /* of its last tick_stop */
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

enum sent_kind {
	SENT_RESCHEDULE = 0,
	SENT_CALL_FUNCTION = 1,
	SENT_IRQ_WORK = 2,
	SENT_KINDS = 3,
};

struct sent {
	unsigned int state; /* enum writing */
	unsigned int calls; /* functions queued since the last one was taken: one interrupt runs them all */
	unsigned int others;
	unsigned int reserved;
	unsigned long long at_ns;
	struct qc_blame first;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, QC_MAX_CPUS *SENT_KINDS);
	__type(key, unsigned int);
	__type(value, struct sent);
} qc_sent SEC(".maps");

/* An interrupt that was sent so long ago has come by now, while the CPU was not granted. */
#define STALE_NS 1000000000ULL

/* Who woke a task on a granted CPU, or moved it there. A few at once, told apart by their tid. */
#define QUEUED_AT_ONCE 4

struct queued {
	unsigned int state; /* enum writing */
	unsigned int tid;
	struct qc_blame by;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, QC_MAX_CPUS *QUEUED_AT_ONCE);
	__type(key, unsigned int);
	__type(value, struct queued);
} qc_queued SEC(".maps");

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

static __always_inline struct sent *sent_to(unsigned int cpu, enum sent_kind kind)
{
	unsigned int key = cpu * SENT_KINDS + kind;

	return bpf_map_lookup_elem(&qc_sent, &key);
}

static __noinline int note_sent(unsigned int cpu, enum sent_kind kind, unsigned int context,
				unsigned long long function)
{
	struct sent *sent = sent_to(cpu, kind);

	if (!sent)
		return 0;
	if (__sync_val_compare_and_swap(&sent->state, FREE, BEING_WRITTEN) != FREE) {
		__sync_fetch_and_add(&sent->others, 1);
		return 0;
	}
	sent->at_ns = bpf_ktime_get_ns();
	blame_current(&sent->first, context, function);
	__sync_lock_test_and_set(&sent->state, WRITTEN);
	return 0;
}

/* Into this CPU's state. */
static __noinline int take_sent(enum sent_kind kind)
{
	struct sent *sent = sent_to(bpf_get_smp_processor_id(), kind);
	struct cpu_state *cpu = this_cpu();
	unsigned int calls, others;

	if (!sent || !cpu)
		return 0;
	calls = __sync_lock_test_and_set(&sent->calls, 0);
	if (sent->state != WRITTEN || bpf_ktime_get_ns() - sent->at_ns > STALE_NS) {
		__builtin_memset(&cpu->sender, 0, sizeof(cpu->sender));
	} else {
		cpu->sender = sent->first;
		others = sent->others;
		cpu->sender.others = kind == SENT_CALL_FUNCTION && calls ? calls - 1 : others;
	}
	if (sent->state == WRITTEN) {
		sent->others = 0;
		__sync_lock_test_and_set(&sent->state, FREE);
	}
	return 0;
}

/* Before each ipi_send_cpu and ipi_send_cpumask that are for function calls. raw_tp: the verifier takes no
 * pointer to a function from BTF.
 */
SEC("raw_tp/csd_queue_cpu")
int qc_csd_queue_cpu(struct bpf_raw_tracepoint_args *ctx)
{
	unsigned int to = ctx->args[0];
	struct cpu_state *cpu;
	struct sent *sent;

	if (!cpu_in(qc_cpus.granted, to))
		return 0;
	cpu = this_cpu();
	sent = sent_to(to, SENT_CALL_FUNCTION);
	if (!cpu || !sent)
		return 0;
	cpu->queued_function = ctx->args[2];
	__sync_fetch_and_add(&sent->calls, 1);
	return 0;
}

/*
 * `callback`: NULL for a reschedule, the work's function for an irq_work, which goes to the sender's own CPU
 * only, and for a function call the handler that is the same for all.
 */
SEC("tp_btf/ipi_send_cpu")
int BPF_PROG(qc_ipi_send_cpu, unsigned int to, unsigned long callsite, void *callback)
{
	struct cpu_state *cpu;

	if (!cpu_in(qc_cpus.granted, to))
		return 0;
	if (!callback)
		return note_sent(to, SENT_RESCHEDULE, context_of(ctx), 0);
	if (to == bpf_get_smp_processor_id())
		return note_sent(to, SENT_IRQ_WORK, context_of(ctx), (unsigned long long)callback);
	cpu = this_cpu();
	return cpu ? note_sent(to, SENT_CALL_FUNCTION, context_of(ctx), cpu->queued_function) : 0;
}

static __noinline int note_sent_to_word(unsigned int word, unsigned long long cpus, unsigned int context,
					unsigned long long function)
{
	for (unsigned int bit = 0; bit < 64; bit++) {
		if (cpus >> bit & 1)
			note_sent(word * 64 + bit, SENT_CALL_FUNCTION, context, function);
	}
	return 0;
}

SEC("tp_btf/ipi_send_cpumask")
int BPF_PROG(qc_ipi_send_cpumask, const struct cpumask *to, unsigned long callsite, void *callback)
{
	struct cpu_state *cpu = this_cpu();

	if (!cpu)
		return 0;
	for (unsigned int word = 0; word < QC_MAX_CPUS / 64; word++) {
		unsigned long long cpus = 0, granted = qc_cpus.granted[word];

		/* A shorter mask ends in other memory: no bit of that is granted. */
		if (!granted || bpf_probe_read_kernel(&cpus, sizeof(cpus), (void *)to + word * sizeof(cpus)))
			continue;
		if (cpus & granted)
			note_sent_to_word(word, cpus & granted, context_of(ctx), cpu->queued_function);
	}
	return 0;
}

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

/*
 * What a worker is about to run: a work that a switch interrupted, else the first of its pool
 * (kernel/workqueue.c, worker_thread).
 */
static __always_inline unsigned long long function_of_worker(struct task_struct *task)
{
	struct kthread *kthread = BPF_CORE_READ(task, worker_private);
	struct worker *worker;
	struct list_head *first;
	void *function;

	if (!(BPF_CORE_READ(task, flags) & PF_WQ_WORKER))
		return 0;
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

#endif
