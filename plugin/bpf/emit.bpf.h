/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What an entry leads to: a record, a signal. Nothing here decides whether there was an entry.
 */
#ifndef QUIETCORE_EMIT_BPF_H
#define QUIETCORE_EMIT_BPF_H

#include "blame.bpf.h"
#include "quietcore.h"

/* 4,599 records: what a program that enters the kernel as fast as it can makes in some milliseconds. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
} qc_records SEC(".maps");

/* Linux 6.13; its value reaches the handler as si_value, which bpf_send_signal_thread cannot carry. */
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
	const struct qc_blame *blame;
	struct task_struct *came;
	unsigned int came_flags;
	unsigned int value; /* what the signal carries */
};

_Static_assert(PR_TASK_ISOLATION_CLASS_SYSCALL == QC_SYSCALL + 1 &&
		   PR_TASK_ISOLATION_CLASS_EXCEPTION == QC_EXCEPTION + 1 &&
		   PR_TASK_ISOLATION_CLASS_INTERRUPT == QC_INTERRUPT + 1,
	       "0 is for a signal that carries nothing");

/* The causes are for programs, and stay; the kinds are the records' own. */
static __always_inline unsigned int public_cause(const struct happening *what)
{
	switch (what->kind) {
	case QC_KIND_SYSCALL:
		return what->flags & QC_F_COMPAT ? PR_TASK_ISOLATION_CAUSE_SYSCALL32
						 : PR_TASK_ISOLATION_CAUSE_SYSCALL;
	case QC_KIND_PAGE_FAULT:
		return PR_TASK_ISOLATION_CAUSE_PAGE_FAULT;
	case QC_KIND_TRAP:
		return PR_TASK_ISOLATION_CAUSE_TRAP;
	case QC_KIND_TICK:
		return PR_TASK_ISOLATION_CAUSE_TICK;
	case QC_KIND_RESCHEDULE:
		return PR_TASK_ISOLATION_CAUSE_RESCHEDULE;
	case QC_KIND_CALL_FUNCTION:
		return PR_TASK_ISOLATION_CAUSE_CALL_FUNCTION;
	case QC_KIND_IRQ_WORK:
		return PR_TASK_ISOLATION_CAUSE_IRQ_WORK;
	case QC_KIND_DEVICE_IRQ:
		return PR_TASK_ISOLATION_CAUSE_DEVICE;
	case QC_KIND_VECTOR:
		return PR_TASK_ISOLATION_CAUSE_VECTOR;
	case QC_KIND_SWITCH:
		return PR_TASK_ISOLATION_CAUSE_SWITCH;
	}
	return PR_TASK_ISOLATION_CAUSE_UNKNOWN;
}

static __always_inline unsigned int public_value(const struct happening *what)
{
	unsigned long long detail = what->kind == QC_KIND_PAGE_FAULT ? what->code : what->detail;

	if (detail > PR_TASK_ISOLATION_DETAIL_NONE)
		detail = PR_TASK_ISOLATION_DETAIL_NONE;
	return PR_TASK_ISOLATION_MAKE_VALUE(what->class + 1, public_cause(what), detail);
}

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

static __always_inline void fill_registers(struct qc_record *record, struct task_struct *task,
					   unsigned int flags)
{
	struct pt_regs *regs = user_regs(task);
	int compat = flags & QC_F_COMPAT; /* arch/x86/entry/entry_64_compat.S: which registers carry what */

	record->ip = regs->ip;
	record->sp = regs->sp;
	record->args[0] = compat ? (unsigned int)regs->bx : regs->di;
	record->args[1] = compat ? (unsigned int)regs->cx : regs->si;
	record->args[2] = compat ? (unsigned int)regs->dx : regs->dx;
	record->args[3] = compat ? (unsigned int)regs->si : regs->r10;
	record->args[4] = compat ? (unsigned int)regs->di : regs->r8;
	record->args[5] = compat ? (unsigned int)regs->bp : regs->r9;
}

static __always_inline struct qc_record *new_record(unsigned int slot, unsigned int generation)
{
	struct qc_record *record = bpf_ringbuf_reserve(&qc_records, sizeof(*record), 0);
	struct qc_counts *counts;

	if (record) {
		record->slot = slot;
		record->generation = generation;
		record->at_ns = bpf_ktime_get_ns();
		record->cpu = bpf_get_smp_processor_id();
		return record;
	}
	counts = bpf_map_lookup_elem(&qc_counts_map, &slot);
	if (counts)
		__sync_fetch_and_add(&counts->lost, 1);
	return 0;
}

/* No wakeup: that would be an IPI to this very CPU. The agent polls from a housekeeping CPU. */
static __always_inline void submit(struct qc_record *record)
{
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

/* The user stack is the current task's: of another there is none to be had. */
static __always_inline void fill_frames(struct qc_record *record, struct task_struct *task)
{
	long size;

	record->n_frames = 0;
	if (task != bpf_get_current_task_btf())
		return;
	/* The first is the ip. */
	size = bpf_get_task_stack(task, record->frames, sizeof(record->frames), BPF_F_USER_STACK | 1);
	if (size > 0)
		record->n_frames = size / sizeof(record->frames[0]);
}

static __always_inline void fill_cause(struct qc_record *record, const struct happening *what)
{
	struct task_struct *came = what->came;
	struct cpu_state *cpu = this_cpu();

	if (what->blame)
		record->blame = *what->blame;
	if (what->kind == QC_KIND_ARM_REFUSED && cpu)
		record->tick_dependency = cpu->tick_dependency;
	if (what->kind == QC_KIND_TICK && cpu) {
		record->tick_dependency = cpu->tick_dependency;
		record->timers[0] = cpu->timers[0];
		record->timers[1] = cpu->timers[1];
	}
	if (!came)
		return;
	fill_task(&record->came, came);
	record->came_to = function_of_worker(came);
	record->came_flags = what->came_flags;
	if (BPF_CORE_READ(came, flags) & PF_KTHREAD)
		record->came_flags |= QC_CAME_KTHREAD;
}

static __noinline int emit(struct qc_thread *thread, struct happening *what, struct task_struct *task)
{
	struct qc_record *record = new_record(thread->slot, thread->generation);

	if (!record)
		return 0;
	record->start_ns = task->start_boottime;
	record->detail = what->detail;
	record->code = what->code;
	fill_registers(record, task, what->flags);
	if (what->kind == QC_KIND_ARMED)
		record->args[0] = thread->signals[QC_SYSCALL] | thread->signals[QC_EXCEPTION] << 8 |
				  thread->signals[QC_INTERRUPT] << 16;
	fill_pids(record, task);
	record->flags = what->flags;
	record->kind = what->kind;
	record->class = what->class;
	record->action = what->action;
	record->signal = what->signal;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), task->comm);
	__builtin_memset((char *)record + offsetof(struct qc_record, who), 0,
			 sizeof(*record) - offsetof(struct qc_record, who));
	record->cgroup = cgroup_of(task);
	if (what->who)
		bpf_probe_read_kernel_str(record->who, sizeof(record->who), what->who);
	fill_cause(record, what);
	fill_frames(record, task);
	submit(record);
	return 0;
}

/* To the current thread. Returns the flags that tell what became of the signal. */
static __noinline unsigned int send(struct happening *what)
{
	struct task_struct *task = bpf_get_current_task_btf();
	unsigned int signal = what->signal, flags = QC_F_SIGNALLED;
	struct cpu_state *cpu = this_cpu();
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
	} else if (!handler && (task->signal->flags & SIGNAL_UNKILLABLE) && signal != SIGKILL &&
		   signal != SIGSTOP) {
		signal = SIGKILL;
		flags |= QC_F_ESCALATED;
	}
	if (handler == SIG_IGN)
		flags |= QC_F_IGNORED;
	if (bpf_ksym_exists(bpf_send_signal_task))
		error = bpf_send_signal_task(task, signal, PIDTYPE_PID, what->value);
	else
		error = bpf_send_signal_thread(signal);
	/* -EBUSY: the CPU's one irq_work for signals is taken. */
	if (error)
		return (flags & ~QC_F_SIGNALLED) | QC_F_SEND_FAILED;
	if (cpu && what->irqs_off)
		cpu->own_ipi = 1;
	return flags;
}

#endif
