/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who sends interrupts to a granted CPU. These programs run on every CPU of the machine, so they first ask
 * for whom: nothing more is done for a CPU that is not granted.
 *
 * A sender is known before its interrupt is sent, and is taken by the first program that the interrupt runs,
 * whatever it interrupted: what is noted after that was sent for the next one.
 */
#ifndef QUIETCORE_SENT_BPF_H
#define QUIETCORE_SENT_BPF_H

#include "blame.bpf.h"

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
	__uint(max_entries,
	       SENT_KINDS); /* of each CPU: the agent multiplies it before it loads the programs */
	__type(key, unsigned int);
	__type(value, struct sent);
} qc_sent SEC(".maps");

/* An interrupt that was sent so long ago has come by now, while the CPU was not granted. */
#define STALE_NS 1000000000ULL

static __always_inline struct sent *sent_to(unsigned int cpu, enum sent_kind kind)
{
	unsigned int key = cpu * SENT_KINDS + kind;

	return bpf_map_lookup_elem(&qc_sent, &key);
}

/* Not static: the verifier looks at it once, and not at each turn of the loops that call it. */
__noinline int note_sent(unsigned int cpu, enum sent_kind kind, unsigned int context,
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

__noinline int note_sent_to_word(unsigned int word, unsigned long long cpus, unsigned int context,
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
	for (unsigned int word = 0; word < QC_MAX_CPUS / 64 && word < qc_n_words; word++) {
		unsigned long long cpus = 0, granted = qc_cpus.granted[word];

		/* A shorter mask ends in other memory: no bit of that is granted. */
		if (!granted || bpf_probe_read_kernel(&cpus, sizeof(cpus), (void *)to + word * sizeof(cpus)))
			continue;
		if (cpus & granted)
			note_sent_to_word(word, cpus & granted, context_of(ctx), cpu->queued_function);
	}
	return 0;
}

#endif
