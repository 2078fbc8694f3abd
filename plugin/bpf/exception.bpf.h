/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Class exception: page faults by their tracepoint; the others have none, and show themselves by the signal
 * that the kernel makes of them. What it fixes up without a signal (UMIP) only the Edge detector sees.
 */
#ifndef QUIETCORE_EXCEPTION_BPF_H
#define QUIETCORE_EXCEPTION_BPF_H

#include "entry.bpf.h"

SEC("tp_btf/page_fault_user")
int BPF_PROG(qc_page_fault_user, unsigned long address, struct pt_regs *regs, unsigned long error_code)
{
	struct qc_thread *thread = watched();
	struct happening what = {
	    .kind = QC_KIND_PAGE_FAULT, .class = QC_EXCEPTION, .detail = address, .code = error_code};
	unsigned long long now, waited;

	if (!thread || !tells(thread))
		return 0;
	if (thread->exceptions_wait) {
		/* After an execve no page is mapped: the first fetch always faults. */
		const struct qc_grant *grant = grant_of(thread);

		now = bpf_ktime_get_ns();
		waited = now - thread->fault_ns;
		thread->fault_ns = now;
		if (!grant || waited < grant->settle_ns)
			return entered(thread, &what, 1);
		thread->exceptions_wait = 0;
	}
	return entered(thread, &what, 0);
}

/* Is this what the kernel makes of an exception other than a page fault (arch/x86/kernel/traps.c)? */
static __always_inline int is_trap(int sig, const struct siginfo_head *info)
{
	if (info->code == SI_KERNEL)
		return (sig == SIGILL || sig == SIGTRAP || sig == SIGBUS || sig == SIGFPE ||
			sig == SIGSEGV) &&
		       !PR_TASK_ISOLATION_IS_VALUE(info->value); /* of all 64 bits: no address is one */
	if (sig == SIGILL || sig == SIGTRAP || sig == SIGFPE)
		return info->code > 0;
	return (sig == SIGBUS && info->code == BUS_ADRALN) || (sig == SIGSEGV && info->code == SEGV_CPERR);
}

SEC("tp_btf/signal_generate")
int BPF_PROG(qc_signal_generate, int sig, struct kernel_siginfo *info, struct task_struct *task)
{
	struct qc_thread *thread = watched();
	struct happening what = {.kind = QC_KIND_TRAP, .class = QC_EXCEPTION, .detail = (unsigned int)sig};
	struct task_struct *current = bpf_get_current_task_btf();
	struct siginfo_head head = {};

	if (!thread || task != current || (!qc_edge && thread->in_syscall) ||
	    came_by_syscall(user_regs(current)))
		return 0;
	/* 0 and 1 stand for signals that carry no siginfo; reading them fails. */
	if (bpf_probe_read_kernel(&head, sizeof(head), info) || !is_trap(sig, &head))
		return 0;
	if (!tells(thread))
		return 0;
	return entered(thread, &what, 0);
}

/*
 * About to be delivered. The saved registers become the handler's: still the same entry. A signal can be
 * what shows an entry that nobody saw.
 */
SEC("tp_btf/signal_deliver")
int BPF_PROG(qc_signal_deliver, int sig)
{
	struct qc_thread *thread = watched();
	struct happening what = {.kind = QC_KIND_VECTOR, .class = QC_INTERRUPT};

	if (!thread)
		return 0;
	if (thread->asks == QC_ASKED) {
		thread->answer = user_regs(bpf_get_current_task_btf())->ax;
		thread->asks = QC_ANSWERED;
	}
	if (qc_edge)
		return 0;
	if (is_unseen_entry(thread, user_regs(bpf_get_current_task_btf())))
		entered(thread, &what, 0);
	remember_place(thread, QC_ANY_PLACE, QC_ANY_PLACE);
	return 0;
}

#endif
