//! The program of the end-to-end tests, with the guard alone.

use crate::stand::{Stand, enforce, kinds, story};
use quietcore::policy::effective::{Action, ArmAfter, ArmAt};

const SIGUSR1: u8 = 10;
const SIGUSR2: u8 = 12;
const SIGKILL: i32 = 9;
/// `struct qc_record.flags`, as the header has them.
use quietcore::guard::abi::{
    QC_F_AUDIT, QC_F_BLOCKED, QC_F_DISARMED, QC_F_ESCALATED, QC_F_IGNORED, QC_F_SIGNALLED, QC_KIND_ARMED,
    QC_KIND_DISARMED, QC_KIND_PAGE_FAULT, QC_KIND_SYSCALL, QC_KIND_TICK,
};
use quietcore::guard::detector::Detector;

const NR_GETPPID: u64 = 110;

#[test]
fn a_system_call_brings_its_signal_before_the_next_instruction() {
    let stand = Stand::new();
    let run = stand
        .run(&enforce([Action::Signal(SIGUSR1), Action::Report, Action::Count, Action::Report]), "syscall");
    let record = run.only(QC_KIND_SYSCALL);
    assert_eq!((record.detail, record.signal), (NR_GETPPID, u32::from(SIGUSR1)));
    assert_eq!(record.flags, QC_F_SIGNALLED | QC_F_DISARMED);
    assert_eq!(run.told("last"), "10");
    assert_eq!(run.told("signals"), "1");
    assert_eq!(run.told("ip"), format!("{:#x}", record.ip));
}

#[test]
fn a_page_fault_brings_its_signal_at_the_faulting_instruction() {
    let stand = Stand::new();
    let run = stand
        .run(&enforce([Action::Report, Action::Signal(SIGUSR2), Action::Count, Action::Report]), "exception");
    let record = run.only(QC_KIND_PAGE_FAULT);
    assert_eq!((run.told("last").as_str(), run.told("signals").as_str()), ("12", "1"));
    assert_eq!(run.told("ip"), format!("{:#x}", record.ip));
    assert_eq!(record.detail % 4096, 0);
}

#[test]
fn every_tick_is_one_signal_and_our_own_ipi_is_none() {
    let stand = Stand::new();
    let mut policy = enforce([Action::Ignore, Action::Ignore, Action::Report, Action::Report]);
    policy.arm_after = ArmAfter::Continuous;
    let run = stand.run(&policy, "ticks");
    let interrupts: Vec<_> =
        run.records.iter().filter(|record| record.class == 2 && record.kind < 16).collect();
    // Some found no room at once, and were sent right after: flags alone do not tell.
    assert_eq!(run.told("signals"), interrupts.len().to_string(), "{:?}", kinds(&run.records));
    assert_eq!(run.counts.signals, interrupts.len() as u64);
    let ticks = interrupts.iter().filter(|record| u32::from(record.kind) == QC_KIND_TICK).count();
    match stand.guard().detector {
        Detector::Tracepoint => assert!(100 < ticks, "two seconds have hundreds of ticks: {ticks}"),
        Detector::Edge => assert!(ticks < 10, "a core in nohz_full that runs one thread has none: {ticks}"),
    }
}

#[test]
fn a_thread_that_keeps_its_promise_is_told_nothing() {
    let stand = Stand::new();
    let policy = enforce([Action::Signal(SIGUSR1), Action::Signal(SIGUSR2), Action::Count, Action::Report]);
    let run = stand.run(&policy, "quiet");
    assert_eq!(run.told("signals"), "0");
    assert_eq!(story(&run.records), [QC_KIND_ARMED, QC_KIND_DISARMED]);
}

#[test]
fn audit_reports_what_enforce_would_have_signalled() {
    let stand = Stand::new();
    let mut policy = enforce([Action::Signal(SIGUSR1), Action::Report, Action::Count, Action::Report]);
    policy.enforce = false;
    let run = stand.run(&policy, "syscall");
    assert_eq!(run.told("signals"), "0");
    assert_eq!(run.only(QC_KIND_SYSCALL).flags, QC_F_AUDIT | QC_F_DISARMED);
}

#[test]
fn a_blocked_signal_stays_pending_and_the_record_says_so() {
    let stand = Stand::new();
    let run = stand
        .run(&enforce([Action::Signal(SIGUSR1), Action::Report, Action::Count, Action::Report]), "blocked");
    assert_eq!(run.told("pending"), "1");
    assert_ne!(run.only(QC_KIND_SYSCALL).flags & QC_F_BLOCKED, 0);
}

#[test]
fn a_child_of_an_armed_thread_is_watched_and_not_armed() {
    let stand = Stand::new();
    let mut policy = enforce([Action::Signal(SIGUSR1), Action::Ignore, Action::Ignore, Action::Report]);
    policy.except = vec![56, 57, 58]; // clone, fork, vfork
    let run = stand.run(&policy, "fork");
    assert_eq!(run.told("child_signals"), "0");
    // The parent's wait for it is the violation.
    assert_eq!(run.told("signals"), "1");
    assert!(run.counts.entries[0] > 100, "{:?}", run.counts);
}

#[test]
fn an_exec_by_an_armed_thread_is_a_violation_and_the_new_image_is_not_armed() {
    let stand = Stand::new();
    let mut policy = enforce([Action::Signal(SIGUSR1), Action::Ignore, Action::Ignore, Action::Report]);
    policy.arm_after = ArmAfter::Continuous;
    let run = stand.run(&policy, "exec");
    assert_eq!(run.told("after-exec"), "fine");
    let record = run.only(QC_KIND_SYSCALL);
    assert_eq!(record.detail, 59);
    assert_ne!(record.flags & QC_F_IGNORED, 0);
}

#[test]
fn the_init_of_a_pid_namespace_is_killed_where_it_would_have_heard_nothing() {
    let stand = Stand::new();
    let policy = enforce([Action::Signal(SIGUSR1), Action::Report, Action::Count, Action::Report]);
    let run = stand.run_as_init(&policy, "default");
    let record = run.only(QC_KIND_SYSCALL);
    assert_ne!(record.flags & QC_F_ESCALATED, 0);
    assert_eq!((record.pid_level, record.pids[1], record.tgids[1]), (1, 1, 1));
    assert!(!run.output.contains("still here"), "{}", run.output);
    assert_ne!(run.code, Some(0));
}

#[test]
fn armed_at_exec_the_first_system_call_is_the_violation() {
    let stand = Stand::new();
    let mut policy = enforce([Action::Signal(9), Action::Report, Action::Ignore, Action::Report]);
    policy.arm_at = ArmAt::Exec;
    let run = stand.run(&policy, "syscall");
    assert_eq!(run.signal, Some(SIGKILL));
    assert_eq!(kinds(&run.records), [QC_KIND_ARMED, QC_KIND_SYSCALL]);
}

#[test]
fn a_program_that_nobody_watches_is_not_run() {
    let stand = Stand::new();
    let run = stand.run_unwatched("syscall");
    assert!(run.output.contains("the alarm did not go off"), "{}", run.output);
    assert_eq!(run.code, Some(125));
}

#[test]
fn a_process_that_the_runtimes_init_starts_is_no_shim() {
    let stand = Stand::new();
    let run = stand.run_as_hook("syscall");
    assert!(run.output.contains("the alarm did not go off"), "{}", run.output);
    assert_eq!(run.code, Some(125));
}
