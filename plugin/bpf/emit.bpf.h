/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What an entry leads to: a count, a record, a signal. Nothing here decides whether there was an entry.
 */
#ifndef QUIETCORE_EMIT_BPF_H
#define QUIETCORE_EMIT_BPF_H

#include "thread.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} qc_records SEC(".maps");

/*
 * A signal sent with interrupts off is queued as irq_work, whose IPI to this CPU can fire right after the
 * return to user mode. That entry is ours: this mark, set here and taken by the next irq_work, hides it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, unsigned int);
	__type(value, unsigned int);
} qc_own_ipi SEC(".maps");

extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type,
				unsigned long long value) __weak __ksym;

/* What is known of an entry, or of a turn in the thread's story, when it happens. */
struct happening {
	unsigned short kind;
	unsigned char class;
	unsigned char irqs_off; /* a hardware interrupt: signals take the irq_work path for sure */
	unsigned int flags;
	unsigned int signal;
	unsigned int action;
	unsigned long long detail;
	unsigned long long code;
	const char *who;
};

static __always_inline void fill_pids(struct qc_record *record, struct task_struct *task)
{
	struct pid *tid = task->thread_pid;
	struct pid *tgid = task->group_leader->thread_pid;
	unsigned int level = BPF_CORE_READ(tid, level);

	record->pid_level = level < QC_PID_LEVELS ? level : QC_PID_LEVELS - 1;
#define PID_AT(i)                                                                                            \
	record->pids[i] = i <= level ? BPF_CORE_READ(tid, numbers[i].nr) : 0;                                \
	record->tgids[i] = i <= level ? BPF_CORE_READ(tgid, numbers[i].nr) : 0
	PID_AT(0);
	PID_AT(1);
	PID_AT(2);
	PID_AT(3);
#undef PID_AT
}

static __noinline int emit(struct qc_thread *thread, struct happening *what, struct task_struct *task)
{
	unsigned int slot = thread->slot;
	struct qc_counts *counts = bpf_map_lookup_elem(&qc_counts_map, &slot);
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	struct qc_record *record;

	if (!counts)
		return 0;
	record = bpf_ringbuf_reserve(&qc_records, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&counts->lost, 1);
		return 0;
	}
	record->at_ns = bpf_ktime_get_ns();
	record->start_ns = task->start_boottime;
	record->ip = regs->ip;
	record->sp = regs->sp;
	record->detail = what->detail;
	record->code = what->code;
	record->args[0] = regs->di;
	record->args[1] = regs->si;
	record->args[2] = regs->dx;
	record->args[3] = regs->r10;
	record->args[4] = regs->r8;
	record->args[5] = regs->r9;
	record->slot = slot;
	record->generation = thread->generation;
	record->reserved = 0;
	record->cpu = bpf_get_smp_processor_id();
	fill_pids(record, task);
	record->flags = what->flags;
	record->kind = what->kind;
	record->class = what->class;
	record->action = what->action;
	record->signal = what->signal;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), task->comm);
	__builtin_memset(record->who, 0, sizeof(record->who));
	if (what->who)
		bpf_probe_read_kernel_str(record->who, sizeof(record->who), what->who);
	/* No wakeup: that would be an IPI to this very CPU. The agent polls from a housekeeping CPU. */
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Returns the flags that tell what became of the signal. */
static __noinline unsigned int send(struct qc_thread *thread, struct happening *what)
{
	struct task_struct *task = bpf_get_current_task_btf();
	unsigned int signal = what->signal;
	unsigned int flags = QC_F_SIGNALLED;
	unsigned int key = 0, *own_ipi;
	void *handler = 0, *action;
	long error;

	if (signal < 1 || signal > 64)
		return 0;
	/* The element's size is asked of BTF: only a field's place, not an array's stride, is relocated. */
	action = (void *)&task->sighand->action[0];
	action += ((signal - 1) & 63) * bpf_core_type_size(struct k_sigaction);
	bpf_probe_read_kernel(&handler, sizeof(handler), &((struct k_sigaction *)action)->sa.sa_handler);
	/* A blocked signal is kept whatever its disposition (kernel/signal.c, sig_ignored). */
	if (task->blocked.sig[0] >> (signal - 1) & 1) {
		flags |= QC_F_BLOCKED;
	} else if (!handler && (task->signal->flags & SIGNAL_UNKILLABLE) && signal != SIGKILL) {
		signal = SIGKILL;
		flags |= QC_F_ESCALATED;
	}
	if (handler == (void *)1)
		flags |= QC_F_IGNORED;
	if (bpf_ksym_exists(bpf_send_signal_task))
		error = bpf_send_signal_task(task, signal, PIDTYPE_PID, 0xd0000000ULL | what->class);
	else
		error = bpf_send_signal_thread(signal);
	if (error) {
		/* -EBUSY: the CPU's one irq_work slot is taken. Never lost: the next entry tries again. */
		thread->unsent = signal;
		return (flags & ~QC_F_SIGNALLED) | QC_F_SEND_FAILED;
	}
	thread->unsent = 0;
	own_ipi = bpf_map_lookup_elem(&qc_own_ipi, &key);
	if (own_ipi && what->irqs_off)
		*own_ipi = 1;
	return flags;
}

#endif
