/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Class syscall. sys_enter does not fire for a call that seccomp or a tracer stopped
 * (kernel/entry/common.c); sys_exit does.
 */
#ifndef QUIETCORE_SYSCALL_BPF_H
#define QUIETCORE_SYSCALL_BPF_H

#include "arm.bpf.h"

static __always_inline int is_exempt(const struct qc_grant *grant, unsigned int nr, unsigned int option,
				     int foreign_abi)
{
	/* The 32-bit umask has the number of exit: numbers are compared for the native ABI only. */
	if (foreign_abi)
		return 0;
	if (nr == NR_EXIT || nr == NR_EXIT_GROUP || nr == NR_RT_SIGRETURN)
		return 1;
	if (nr == NR_PRCTL && option == PR_TASK_ISOLATION)
		return 1;
	return nr < QC_SYSCALLS && (grant->except[nr / 64 % (QC_SYSCALLS / 64)] >> (nr % 64) & 1);
}

static __noinline int syscall_entered(struct qc_thread *thread, struct pt_regs *regs, unsigned int flags,
				      int irqs_off)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const struct qc_grant *grant = grant_of(thread);
	/* The kernel looks at the low half only (arch/x86/entry/entry_64.S: movslq %eax, %rsi). */
	int nr = regs->orig_ax;
	struct happening what = {
	    .kind = QC_KIND_SYSCALL, .class = QC_SYSCALL, .flags = flags, .irqs_off = irqs_off, .detail = nr};

	if (!grant)
		return 0;
	if (task->thread_info.status & TS_COMPAT)
		what.flags |= QC_F_COMPAT;
	else if (!(flags & QC_F_COMPAT) && nr >= 0 && (nr & X32_SYSCALL_BIT))
		what.flags |= QC_F_X32;
	thread->exceptions_wait = 0;
	return entered(thread, &what, is_exempt(grant, nr, regs->di, what.flags & (QC_F_COMPAT | QC_F_X32)));
}

SEC("tp_btf/sys_enter")
int BPF_PROG(qc_sys_enter, struct pt_regs *regs, long id)
{
	struct qc_thread *thread = watched();

	if (!thread)
		return 0;
	thread->in_syscall = 1;
	if (thread->seat)
		seat_enters(thread);
	return syscall_entered(thread, regs, 0, 0);
}

/*
 * On a CPU that is not granted nothing is seen but this: a filter that answers the prctl does not look where,
 * so its caller would believe to be armed. Its owner hears that it is not. The shim asks on a granted one.
 */
static __always_inline int would_arm(const struct pt_regs *regs, long ret)
{
	return !ret && is_isolation_prctl(regs) && (regs->si & PR_TASK_ISOLATION_ENABLE) &&
	       !(regs->si & PR_TASK_ISOLATION_ON_EXEC);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(qc_sys_exit, struct pt_regs *regs, long ret)
{
	int elsewhere = !cpu_in(qc_cpus.granted, bpf_get_smp_processor_id());
	struct task_struct *task = bpf_get_current_task_btf();
	struct qc_thread *thread;

	if (elsewhere && !would_arm(regs, ret))
		return 0;
	thread = bpf_task_storage_get(&qc_threads, task, 0, 0);
	if (!thread)
		return 0;
	if (!elsewhere) {
		if (!thread->in_syscall)
			syscall_entered(thread, regs, QC_F_DENIED, 0);
		thread->in_syscall = 0;
		/* rt_sigreturn and execve replace every register: still the same entry. */
		remember_place(thread, regs->ip, regs->sp);
		if (thread->seat)
			seat_returns(thread, task);
		if (thread->state == QC_STATE_AT_RETURN)
			return execve_returns(thread);
	}
	if (!is_isolation_prctl(regs) || task->thread_info.status & TS_COMPAT)
		return 0;
	take_ask(thread, regs);
	return prctl_returns(thread, ret);
}

#endif
