/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Class exception: page faults by their tracepoint; the others have none, and show themselves by the signal
 * that the kernel makes of them. What it fixes up without a signal (UMIP) stays unseen by this detector.
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

	if (!thread)
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

#define SIGNALS_OF_EXCEPTIONS                                                                                \
	(1 << 4 /* ILL */ | 1 << 5 /* TRAP */ | 1 << 7 /* BUS */ | 1 << 8 /* FPE */ | 1 << 11 /* SEGV */)

/*
 * A signal is about to be delivered; the thread came into the kernel by some entry. After this the saved
 * registers are the handler's: still the same entry.
 */
SEC("tp_btf/signal_deliver")
int BPF_PROG(qc_signal_deliver, int sig)
{
	struct qc_thread *thread = watched();
	struct happening what = {.kind = QC_KIND_VECTOR, .class = QC_INTERRUPT};

	if (!thread)
		return 0;
	if (is_unseen_entry(thread, user_regs(bpf_get_current_task_btf()))) {
		if (sig > 0 && sig < 32 && (SIGNALS_OF_EXCEPTIONS >> sig & 1)) {
			what.kind = QC_KIND_TRAP;
			what.class = QC_EXCEPTION;
			what.detail = sig;
		}
		entered(thread, &what, 0);
	}
	remember_place(thread, QC_ANY_PLACE, QC_ANY_PLACE);
	return 0;
}

#endif
