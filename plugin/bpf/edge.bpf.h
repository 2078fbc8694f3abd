/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The Edge detector: context_tracking:user_exit and user_enter fire at every entry and every return of a
 * CPU in nohz_full, and on no other CPU. NMIs alone pass neither.
 *
 * user_exit opens an entry; the tracepoint within it that knows what it is tells it; user_enter, the last
 * thing before user mode, closes it. What nobody told by then is an exception that the kernel fixed up.
 */
#ifndef QUIETCORE_EDGE_BPF_H
#define QUIETCORE_EDGE_BPF_H

#include "syscall.bpf.h"

SEC("tp_btf/user_exit")
int BPF_PROG(qc_user_exit)
{
	struct qc_thread *thread = watched();
	struct pt_regs *regs;

	if (!thread)
		return 0;
	regs = user_regs(bpf_get_current_task_btf());
	remember_place(thread, regs->ip, regs->sp);
	if (thread->seat)
		seat_enters(thread);
	if (!came_by_syscall(regs)) {
		thread->entry = QC_ENTRY_OPEN;
		return 0;
	}
	thread->entry = QC_ENTRY_TOLD;
	if (is_isolation_prctl(regs)) {
		take_ask(thread, regs);
		thread->asks = QC_ASKED;
	}
	/* TS_COMPAT is not set yet. A 64-bit program's int 0x80 comes without a number: told at its return.
	 */
	return syscall_entered(thread, regs, regs->cs == USER32_CS ? QC_F_COMPAT : 0, 1);
}

/* The two bytes before the place where it entered: does a system call instruction end there? */
static __always_inline int after_syscall_instruction(const struct qc_thread *thread)
{
	unsigned char before[2] = {};

	if (bpf_probe_read_user(before, sizeof(before), (void *)(thread->entry_ip - sizeof(before))))
		return 0;
	return before[0] == 0x0f && before[1] == 0x05;
}

/*
 * After int 0x80 the number is in orig_ax by now; after syscall(-1) it is -1 still, as after an exception,
 * and the instruction tells. The kernel knows no call -1, so it never is more than an entry.
 */
static __noinline int nobody_told(struct qc_thread *thread, struct pt_regs *regs)
{
	struct happening trap = {.kind = QC_KIND_TRAP, .class = QC_EXCEPTION, .irqs_off = 1};

	if (came_by_syscall(regs))
		return syscall_entered(thread, regs, QC_F_COMPAT, 1);
	if (after_syscall_instruction(thread))
		return syscall_entered(thread, regs, 0, 1);
	return entered(thread, &trap, 0);
}

SEC("tp_btf/user_enter")
int BPF_PROG(qc_user_enter)
{
	struct qc_thread *thread = watched();
	struct pt_regs *regs;

	if (!thread)
		return 0;
	regs = user_regs(bpf_get_current_task_btf());
	if (thread->entry == QC_ENTRY_OPEN)
		nobody_told(thread, regs);
	thread->entry = QC_IN_USER;
	if (thread->seat)
		seat_returns(thread, bpf_get_current_task_btf());
	if (thread->state == QC_STATE_AT_RETURN)
		return execve_returns(thread);
	if (thread->asks == QC_ASKS_NOTHING)
		return 0;
	if (thread->asks == QC_ASKED)
		thread->answer = regs->ax;
	thread->asks = QC_ASKS_NOTHING;
	return prctl_returns(thread, thread->answer);
}

#endif
