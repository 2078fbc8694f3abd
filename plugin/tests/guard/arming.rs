//! Who may arm, and from when to when.

use std::time::Duration;

use quietcore::{
    arm::plan::Provider,
    guard::abi::{
        QC_EXCEPTION, QC_KIND_ARM_REFUSED, QC_KIND_ARMED, QC_KIND_DISARMED, QC_KIND_PAGE_FAULT,
        QC_KIND_SYSCALL, QC_REFUSED_AFFINITY, QC_REFUSED_LOCKED, QC_SYSCALL,
    },
    policy::effective::{Action, ArmAt, Effective},
};

use crate::{
    counts::only,
    stand::{Stand, continuous, kinds, story},
};

const EPERM: &str = "-1";
const NR_EXECVE: u64 = 59;

#[test]
fn nothing_counts_before_the_arming_call_returns_or_after_the_disarming_one_begins() {
    let stand = Stand::new();
    let run = stand.run_entries(&continuous([Action::Report; 4]), "calls", 3);
    let inside: Vec<_> = kinds(&run.records)
        .into_iter()
        .filter(|kind| [QC_KIND_SYSCALL, QC_KIND_ARMED, QC_KIND_DISARMED].contains(kind))
        .collect();
    assert_eq!(inside, [QC_KIND_ARMED, QC_KIND_SYSCALL, QC_KIND_SYSCALL, QC_KIND_SYSCALL, QC_KIND_DISARMED]);
}

#[test]
fn challenge_and_arming_by_exec_are_the_shims_alone() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "challenge", 0);
    assert_eq!(run.told("pending"), "0");
    assert!(run.records.is_empty(), "{:?}", kinds(&run.records));
    assert!(run.output.contains("done"), "{}", run.output);
}

#[test]
fn a_locked_policy_holds_even_when_the_programs_own_filter_says_yes() {
    let stand = Stand::new();
    let mut policy = only(QC_SYSCALL, Action::Count);
    policy.locked = true;
    let run = stand.run_entries(&policy, "break-the-lock", 0);
    let refused: Vec<_> = run.of_kind(QC_KIND_ARM_REFUSED).iter().map(|record| record.detail).collect();
    assert_eq!(refused, [u64::from(QC_REFUSED_LOCKED); 2]);
    assert_eq!(story(&run.records), [QC_KIND_ARM_REFUSED, QC_KIND_ARMED, QC_KIND_ARM_REFUSED]);
    assert_eq!(["own-signals", "plain", "disarm"].map(|key| run.told(key)), ["0"; 3]);
}

#[test]
fn what_a_locked_policy_forbids_is_refused_with_its_errno() {
    let stand = Stand::new();
    let mut policy = only(QC_SYSCALL, Action::Count);
    policy.locked = true;
    // The program chooses a signal, which is not its to choose.
    let run = stand.run_entries(&policy, "signal-each-call", 1);
    assert_eq!(run.told("signals"), "0");
    // The shim's filter answers before anybody else sees the call.
    let seen = if stand.guard().provider == Provider::Lsm { vec![QC_KIND_ARM_REFUSED; 2] } else { vec![] };
    assert_eq!(kinds(&run.records), seen);
    let run = stand.run_entries(&policy, "locked-answers", 0);
    assert_eq!(["own-signals", "disarm"].map(|key| run.told(key)), [EPERM; 2]);
}

#[test]
fn a_thread_that_may_run_elsewhere_is_not_armed() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "unaffine", 0);
    assert_eq!(run.only(QC_KIND_ARM_REFUSED).detail, u64::from(QC_REFUSED_AFFINITY));
    assert_eq!(story(&run.records), [QC_KIND_ARM_REFUSED]);
}

#[test]
fn a_thread_of_an_armed_one_is_watched_and_may_arm_itself() {
    let stand = Stand::new();
    let mut policy = only(QC_SYSCALL, Action::Report);
    // What pthread_create and pthread_join call besides.
    policy.except = vec![9, 10, 11, 14, 28, 56, 202, 218, 273, 334, 435];
    let run = stand.run_entries(&policy, "threads", 0);
    let calls = run.of_kind(QC_KIND_SYSCALL);
    assert_eq!(calls.iter().map(|call| call.detail).collect::<Vec<_>>(), [110, 110]);
    assert_ne!(calls[0].pids[0], calls[0].tgids[0]);
    assert!(200 < run.counts.entries[0]);
}

#[test]
fn an_exec_from_another_thread_than_the_leader_keeps_the_guard() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "exec-from-thread", 0);
    assert!(run.output.contains("done"), "{}", run.output);
    assert_eq!(run.only(QC_KIND_SYSCALL).detail, NR_EXECVE);
    assert_eq!(story(&run.records), [QC_KIND_ARMED]);
}

fn armed_by_exec() -> Effective {
    Effective {
        arm_at: ArmAt::Exec,
        settle_for: Duration::from_millis(100),
        ..only(QC_EXCEPTION, Action::Report)
    }
}

#[test]
fn armed_at_exec_faults_count_from_the_first_system_call_on() {
    let stand = Stand::new();
    let run = stand.run_tiny(&armed_by_exec(), &[]);
    assert_eq!((run.of_kind(QC_KIND_PAGE_FAULT).len(), run.counts.violations[1]), (5, 5));
    assert_eq!(story(&run.records), [QC_KIND_ARMED]);
}

#[test]
fn armed_at_exec_faults_count_once_there_was_none_for_the_settling_time() {
    let stand = Stand::new();
    let run = stand.run_tiny(&armed_by_exec(), &["wait"]);
    assert_eq!((run.of_kind(QC_KIND_PAGE_FAULT).len(), run.counts.violations[1]), (9, 9));
}
