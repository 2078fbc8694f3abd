use expect_test::{Expect, expect};

use super::*;
use crate::check::{Report, print::table};

/// A machine where nothing is left to wish for.
fn best() -> Facts {
    Facts {
        cores: "1-3".parse().unwrap(),
        nohz_full: "1-3".parse().ok(),
        isolated: "1-3".parse().ok(),
        btf: true,
        absent_tracepoints: Vec::new(),
        ring_buffer: true,
        task_storage: true,
        lsm: Lsm::Answers,
        signal_task: true,
        signal_thread: true,
        native_errno: Some(22),
        bpffs: true,
        lockdown: Some("[none] integrity confidentiality".to_owned()),
    }
}

#[track_caller]
fn check(facts: &Facts, status: u8, expect: Expect) {
    let cores = facts.cores.to_string();
    let (findings, verdict) = (judge(facts), verdict(facts));
    let report = Report { cores, findings, verdict, measured: Vec::new(), left_out: Vec::new() };
    expect.assert_eq(&table(&report));
    assert_eq!(report.verdict.grade.status(), status);
}

#[test]
fn the_best_machine_has_nothing_to_change() {
    check(
        &best(),
        0,
        expect![[r#"
            detecting
              BTF                                   good      /sys/kernel/btf/vmlinux
              ring buffer                           good      bpf_ringbuf_reserve
              task storage                          good      bpf_task_storage_get
              tracepoints of system calls           good      sys_enter, sys_exit
              tracepoint of page faults             good      page_fault_user
              tracepoints of interrupts             good      local_timer_entry, local_timer_exit, reschedule_entry, call_function_entry, call_function_single_entry, irq_work_entry, irq_work_exit, irq_handler_entry
              tracepoints of scheduler and signals  good      sched_switch, sched_process_fork, sched_process_exec, sched_migrate_task, signal_generate, signal_deliver
              tracepoints of context tracking       good      user_enter, user_exit
              tracepoint of NMIs                    good      nmi_handler
              tracepoint of machine checks          good      mce_record
              BPF LSM                               good      tried: the prctl has its answer
              signal to a thread                    good      bpf_send_signal_task
              native prctl                          not here  prctl(48): EINVAL: Invalid argument
              bpffs                                 good      /sys/fs/bpf

            not measured: quietcore check --cpu 1-3 --for 10s counts what enters these cores, by cause

            CPU 1-3: strict pods can run as asked
            detector Edge, provider Lsm
        "#]],
    );
}

#[test]
fn a_kernel_without_nohz_full_and_bpf_lsm_gets_the_second_best_and_hears_why() {
    let facts = Facts {
        nohz_full: None,
        isolated: "1".parse().ok(),
        absent_tracepoints: vec!["user_enter", "user_exit", "mce_record"],
        lsm: Lsm::Refused("attach qc_task_prctl: EBUSY".to_owned()),
        ..best()
    };
    check(
        &facts,
        1,
        expect![[r#"
            detecting
              BTF                                   good      /sys/kernel/btf/vmlinux
              ring buffer                           good      bpf_ringbuf_reserve
              task storage                          good      bpf_task_storage_get
              tracepoints of system calls           good      sys_enter, sys_exit
              tracepoint of page faults             good      page_fault_user
              tracepoints of interrupts             good      local_timer_entry, local_timer_exit, reschedule_entry, call_function_entry, call_function_single_entry, irq_work_entry, irq_work_exit, irq_handler_entry
              tracepoints of scheduler and signals  good      sched_switch, sched_process_fork, sched_process_exec, sched_migrate_task, signal_generate, signal_deliver
              tracepoints of context tracking       missing   no user_enter, user_exit
                                                              why: the Edge detector sees every entry by them, at no cost to other CPUs
                                                              do:  use a kernel with CONFIG_NO_HZ_FULL=y
              tracepoint of NMIs                    good      nmi_handler
              tracepoint of machine checks          not here  no mce_record
              BPF LSM                               missing   attach qc_task_prctl: EBUSY
                                                              why: a program that arms gets the exact errno by it, without no_new_privs
                                                              do:  as root, on a kernel with CONFIG_BPF_LSM=y, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y and lsm=...,bpf
              signal to a thread                    good      bpf_send_signal_task
              native prctl                          not here  prctl(48): EINVAL: Invalid argument
              bpffs                                 good      /sys/fs/bpf

            not measured: quietcore check --cpu 1-3 --for 10s counts what enters these cores, by cause

            CPU 1-3: strict pods can run, with something that is not as good
            detector Tracepoint, provider Seccomp
            - not Edge: CPU 1-3 is not in nohz_full; Tracepoint costs every system call of the machine a little
            - not Lsm: this kernel takes no BPF LSM program; Seccomp needs no_new_privs and cannot tell a thread's own errno
            - other tasks may run on CPU 2-3: it is not isolated
        "#]],
    );
}

#[test]
fn what_the_guard_cannot_do_without_is_the_verdict() {
    let reasons = |facts: Facts| {
        let verdict = verdict(&facts);
        assert_eq!((verdict.grade, verdict.detector), (Grade::Cannot, None));
        verdict.reasons.join("; ")
    };
    assert!(reasons(Facts { btf: false, ..best() }).contains("has no BTF"));
    assert!(reasons(Facts { bpffs: false, ..best() }).contains("no bpffs"));
    let fault = Facts { absent_tracepoints: vec!["page_fault_user"], ..best() };
    assert!(reasons(fault).contains("no tracepoint page_fault_user"));
    let modes = Some("none integrity [confidentiality]".to_owned());
    assert!(reasons(Facts { lockdown: modes, ..best() }).contains("confidentiality"));
}

#[test]
fn tracepoints_of_system_calls_are_missed_only_where_edge_cannot_watch() {
    let facts = Facts { absent_tracepoints: vec!["sys_enter", "sys_exit"], ..best() };
    assert_eq!(verdict(&facts).grade, Grade::AsAsked);
    assert_eq!(verdict(&Facts { nohz_full: None, ..facts }).grade, Grade::Cannot);
}

#[test]
fn an_lsm_that_was_not_tried_is_not_promised() {
    let beside = |provider| verdict(&Facts { lsm: Lsm::StrictPodsRun(provider), ..best() });
    for untried in [beside(None), beside(Some(Provider::Seccomp))] {
        assert_eq!((untried.grade, untried.provider), (Grade::NotAsGood, Some("Seccomp")));
    }
    assert_eq!(beside(Some(Provider::Lsm)).grade, Grade::AsAsked);
    let silent = verdict(&Facts { lsm: Lsm::Silent, ..best() });
    assert!(silent.reasons[0].contains("does not run BPF LSM programs"), "{silent:?}");
}
