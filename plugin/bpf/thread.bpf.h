/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who is watched, and who of them is armed. A thread's state lives in task storage: it follows the thread
 * through exec, dies with it, and needs no look-up by number.
 *
 *	NEW --exec--> SHIM --exec--> WATCHED <--prctl--> ARMED
 *	                 \--ON_EXEC--> AT_EXEC --exec--> AT_RETURN --return of execve--> ARMED
 *
 * NEW is the runtime's init, put here by the agent at StartContainer. What SHIM may do (challenge, arm the
 * exec) the pod's own code may not: it runs only after the second exec. Children are WATCHED.
 */
#ifndef QUIETCORE_THREAD_BPF_H
#define QUIETCORE_THREAD_BPF_H

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "kernel.h"
#include "record.h"

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct qc_thread);
} qc_threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, QC_MAX_SLOTS);
	__type(key, unsigned int);
	__type(value, struct qc_grant);
} qc_grants SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, QC_MAX_SLOTS);
	__type(key, unsigned int);
	__type(value, struct qc_counts);
} qc_counts_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, QC_SEATS);
	__type(key, unsigned int);
	__type(value, struct qc_seat);
} qc_seats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, unsigned int);
	__type(value, struct qc_tax);
} qc_tax_map SEC(".maps");

/* Which detector this is: set before it is loaded, so that the other's code is not even verified. */
const volatile unsigned char qc_edge SEC(".rodata.detector");

/* Words of a mask of this machine's CPUs, also set before. */
const volatile unsigned int qc_n_words SEC(".rodata.machine");

/* Global data, because every program on every CPU asks it first. */
struct qc_cpus qc_cpus SEC(".data.cpus");

static __always_inline int cpu_in(const unsigned long long *mask, unsigned int cpu)
{
	/* Else the compiler may test a copy of it: the verifier then knows no bound of the other. */
	barrier_var(cpu);
	return cpu < QC_MAX_CPUS && (mask[cpu / 64] >> (cpu % 64) & 1);
}

/* The current thread, when it is watched and its CPU is granted. */
static __always_inline struct qc_thread *watched(void)
{
	if (!cpu_in(qc_cpus.granted, bpf_get_smp_processor_id()))
		return 0;
	return bpf_task_storage_get(&qc_threads, bpf_get_current_task_btf(), 0, 0);
}

/* A slot that was given to another container since is not this thread's any more. */
static __always_inline struct qc_grant *grant_of(const struct qc_thread *thread)
{
	unsigned int slot = thread->slot;
	struct qc_grant *grant = bpf_map_lookup_elem(&qc_grants, &slot);

	if (!grant || !grant->live || grant->generation != thread->generation)
		return 0;
	return grant;
}

static __always_inline int on_its_core(struct task_struct *task, const struct qc_grant *grant)
{
	return task->nr_cpus_allowed == 1 && cpu_in(grant->cpus, bpf_get_smp_processor_id());
}

static __always_inline unsigned int cpu_of(struct task_struct *task)
{
	if (bpf_core_field_exists(task->thread_info.cpu))
		return task->thread_info.cpu;
	return ((struct task_struct___cpu_outside *)task)->cpu;
}

static __always_inline struct pt_regs *user_regs(struct task_struct *task)
{
	return (struct pt_regs *)bpf_task_pt_regs(task);
}

/* Every entry but a system call leaves -1 there (arch/x86/entry/entry_64.S); so does syscall(-1). */
static __always_inline int came_by_syscall(const struct pt_regs *regs)
{
	return regs->orig_ax != ~0UL;
}

/* Is the caller the first that knows what the present entry is? The other detector tells each one apart
 * itself. */
static __always_inline int tells(struct qc_thread *thread)
{
	if (!qc_edge)
		return 1;
	if (thread->entry != QC_ENTRY_OPEN)
		return 0;
	thread->entry = QC_ENTRY_TOLD;
	return 1;
}

static __always_inline void remember_place(struct qc_thread *thread, unsigned long ip, unsigned long sp)
{
	thread->entry_ip = ip;
	thread->entry_sp = sp;
}

/*
 * Is the thread in the kernel by an entry that none of the programs here saw, such as a hypervisor's vector
 * or #UD? Then its saved user registers are not those that the last entry left. Two entries with the same
 * ip and sp look like one: an unseen one in a loop of one instruction can be missed, a seen one never.
 */
static __always_inline int is_unseen_entry(const struct qc_thread *thread, const struct pt_regs *regs)
{
	if (thread->in_syscall || came_by_syscall(regs) || thread->entry_ip == QC_ANY_PLACE)
		return 0;
	return thread->entry_ip != regs->ip || thread->entry_sp != regs->sp;
}

/*
 * Did this interrupt hit user mode? Then it is the first thing on the empty kernel stack, and `ctx`, which
 * lies on that stack, is a small constant below the saved user registers. Measured on 6.12 and 6.18: timer
 * 104, call function 88, reschedule 80, device interrupt 256.
 *
 * From kernel mode it runs on the interrupt stack, or, where the handler is a simple one, further down this
 * stack: behind a second struct pt_regs (168 bytes), a return address of the interrupted function and the
 * handler's own frame of at least 72, so never below 248. The agent tests the upper bounds at start, with
 * interrupts of its own (self_test.rs): a kernel with larger frames is refused, not half guarded.
 */
#define FROM_USER_VECTOR 240
#define FROM_USER_DEVICE 400
#define from_user(ctx, limit)                                                                                \
	((unsigned long long)bpf_task_pt_regs(bpf_get_current_task_btf()) - (unsigned long long)(ctx) <      \
	 (unsigned long long)(limit))

#endif
