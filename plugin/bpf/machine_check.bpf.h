/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Class machineCheck: the hardware's doing, counted and reported, never a signal.
 */
#ifndef QUIETCORE_MACHINE_CHECK_BPF_H
#define QUIETCORE_MACHINE_CHECK_BPF_H

#include "entry.bpf.h"

#define SAME_NMI_NS 100000

/*
 * Every handler of the list runs for every NMI (arch/x86/kernel/nmi.c), so the list's first one counts it.
 * Which that is shows after a pause: the handlers of one NMI follow each other at once. An NMI of kernel
 * mode has a stack of its own, one of user mode runs on the thread's (asm_exc_nmi).
 */
SEC("tp_btf/nmi_handler")
int BPF_PROG(qc_nmi_handler, void *handler, long long delta_ns, int handled)
{
	struct happening what = {.kind = QC_KIND_NMI, .class = QC_MACHINE_CHECK};
	unsigned long long now = bpf_ktime_get_ns(), address = (unsigned long long)handler;
	struct qc_thread *thread = watched();
	struct cpu_state *cpu = this_cpu();
	int first;

	if (!thread || !cpu)
		return 0;
	first = cpu->first_nmi_handler == address || now - delta_ns - cpu->last_nmi_ns > SAME_NMI_NS;
	cpu->last_nmi_ns = now;
	if (!first)
		return 0;
	cpu->first_nmi_handler = address;
	if (!from_user(ctx, THREAD_SIZE))
		return 0;
	return entered(thread, &what, 0);
}

/*
 * Logged later, by a worker on any CPU: the record knows only where it happened. `error` is a struct mce, or
 * since 6.13 a struct mce_hw_err, which begins with one.
 */
SEC("tp_btf/mce_record")
int BPF_PROG(qc_mce_record, struct mce *error)
{
	unsigned int on = BPF_CORE_READ(error, extcpu), slot;
	struct qc_counts *counts;
	struct qc_grant *grant;
	struct qc_record *record;

	if (on >= QC_MAX_CPUS || !cpu_in(qc_cpus.granted, on) || (BPF_CORE_READ(error, cs) & 3) != 3)
		return 0;
	slot = qc_cpus.slots[on];
	grant = bpf_map_lookup_elem(&qc_grants, &slot);
	counts = bpf_map_lookup_elem(&qc_counts_map, &slot);
	if (!grant || !counts || !grant->live)
		return 0;
	__sync_fetch_and_add(&counts->entries[QC_MACHINE_CHECK], 1);
	if (grant->actions[QC_MACHINE_CHECK] < QC_REPORT)
		return 0;
	record = new_record(slot, grant->generation);
	if (!record)
		return 0;
	__builtin_memset((char *)record + offsetof(struct qc_record, start_ns), 0,
			 offsetof(struct qc_record, slot) - offsetof(struct qc_record, start_ns));
	__builtin_memset(record->pids, 0, sizeof(record->pids));
	__builtin_memset(record->tgids, 0, sizeof(record->tgids));
	__builtin_memset(record->comm, 0, sizeof(record->comm));
	__builtin_memset((char *)record + offsetof(struct qc_record, who), 0,
			 sizeof(*record) - offsetof(struct qc_record, who));
	record->n_frames = 0;
	record->ip = BPF_CORE_READ(error, ip);
	record->detail = BPF_CORE_READ(error, bank);
	record->code = BPF_CORE_READ(error, status);
	record->cpu = on;
	record->pid_level = 0;
	record->flags = 0;
	record->kind = QC_KIND_MCE;
	record->class = QC_MACHINE_CHECK;
	record->action = QC_REPORT;
	record->signal = 0;
	submit(record);
	return 0;
}

#endif
