//! An armed thread leaves: its core, or life.

use quietcore::{
    guard::abi::{QC_INTERRUPT, QC_KIND_ARMED, QC_KIND_LEFT_CORE, QC_KIND_SYSCALL, QC_SYSCALL},
    policy::effective::Action,
};
use rustix::{process::Pid, thread::CpuSet};

use crate::{
    counts::only,
    stand::{Run, Stand, story},
};

const SCHED_SETAFFINITY: u16 = 203;

fn move_to(pid: i32, cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    rustix::thread::sched_setaffinity(Some(Pid::from_raw(pid).unwrap()), &set).unwrap();
}

fn run_moved_to(cpus: &[usize]) -> Run {
    let stand = Stand::new();
    // What only widens its affinity moves nothing: its next entry tells.
    let mut run = stand.start_entries(&only(QC_INTERRUPT, Action::Count), "spin-beside-noise", 0);
    run.wait_for("arming");
    stand.wait_until("it is armed", |records| story(records).contains(&QC_KIND_ARMED));
    move_to(run.pid(), cpus);
    stand.wait_until("it left", |records| story(records).contains(&QC_KIND_LEFT_CORE));
    run.kill(&stand)
}

#[test]
fn a_thread_that_leaves_its_core_is_reported_and_disarmed() {
    let stand = Stand::new();
    let mut policy = only(QC_SYSCALL, Action::Report);
    policy.except = vec![SCHED_SETAFFINITY];
    let run = stand.run_entries(&policy, "leave", 0);
    assert_eq!(run.only(QC_KIND_LEFT_CORE).detail, 0);
    assert_eq!(run.of_kind(QC_KIND_SYSCALL).len(), 0);
    assert!(run.output.contains("moved"), "{}", run.output);
}

#[test]
fn a_thread_that_is_moved_off_its_core_is_reported_and_disarmed() {
    assert_eq!(run_moved_to(&[0]).only(QC_KIND_LEFT_CORE).detail, 0);
}

#[test]
fn a_thread_that_may_run_elsewhere_from_now_on_is_reported_and_disarmed() {
    run_moved_to(&[0, 1]).only(QC_KIND_LEFT_CORE);
}

#[test]
fn a_thread_that_comes_back_to_its_core_brings_no_call_of_elsewhere_with_it() {
    let stand = Stand::new();
    let calls = |n| stand.run_entries(&only(QC_SYSCALL, Action::Report), "come-back", n).counts.entries[0];
    // Seen of each journey: the sched_setaffinity(2) that begins it.
    assert_eq!(calls(100) - calls(0), 100);
}

#[test]
fn a_thread_killed_while_armed_leaves_every_record_and_a_free_slot() {
    let stand = Stand::new();
    let mut run = stand.start_entries(&only(QC_INTERRUPT, Action::Report), "spin-beside-noise", 0);
    run.wait_for("arming");
    stand.wait_until("it was interrupted", |records| 10 < records.len());
    let run = run.kill(&stand);
    let entries = run.records.iter().filter(|record| record.kind < 16).count() as u64;
    assert_eq!((run.signal, run.counts.lost), (Some(9), 0));
    assert_eq!(entries, run.counts.violations[QC_INTERRUPT as usize]);
}

#[test]
fn a_thread_of_a_slots_earlier_holder_is_nobodys() {
    let stand = Stand::new();
    let policy = only(QC_INTERRUPT, Action::Report);
    let mut run = stand.start_entries(&policy, "spin-beside-noise", 0);
    run.wait_for("arming");
    stand.wait_until("it was interrupted", |records| 10 < records.len());
    stand.reuse_slot(&policy);
    let before = stand.records().len();
    #[expect(clippy::disallowed_methods, reason = "time in which the thread is interrupted, unseen")]
    std::thread::sleep(std::time::Duration::from_millis(200));
    let run = run.kill(&stand);
    assert!(0 < before);
    assert_eq!((run.records.len(), run.counts.entries), (0, [0; 4]));
}
