//! What a program may do while armed, by accident or on purpose, and what becomes of it. Other items of this kind
//! are where their claim is: seccomp and int 0x80 in counts.rs, blocked signals and PID 1 in workload.rs, exec in
//! arming.rs, affinity in leaving.rs.

use std::collections::BTreeMap;

use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{ptrace, wait},
    unistd::Pid,
};
use quietcore::{
    guard::abi::{
        QC_F_BLOCKED, QC_INTERRUPT, QC_KIND_ARMED, QC_KIND_DISARMED, QC_KIND_RESCHEDULE, QC_KIND_SYSCALL,
        QC_SYSCALL,
    },
    policy::effective::Action,
};

use crate::{
    counts::only,
    stand::{Run, Stand, kinds, story},
};

const GETPPID: u64 = 110;
const CLONE: u64 = 56;
const VFORK: u64 = 58;
const WAIT4: u64 = 61;

/// The calls that were violations, by thread in the order of their first.
fn calls_of_each_thread(run: &Run) -> Vec<Vec<u64>> {
    let mut calls: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for record in run.of_kind(QC_KIND_SYSCALL) {
        calls.entry(record.pids[0]).or_default().push(record.detail);
    }
    calls.into_values().collect()
}

#[test]
fn violations_while_the_signal_is_blocked_are_one_signal_and_each_a_record() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "coalesced", 1_000);
    let calls = run.of_kind(QC_KIND_SYSCALL);
    assert_eq!((calls.len(), run.counts.violations[0]), (1_000, 1_000));
    assert!(calls.iter().all(|call| call.flags & QC_F_BLOCKED != 0 && call.detail == GETPPID));
    assert_eq!((run.told("before"), run.told("signals")), ("0".to_owned(), "1".to_owned()));
}

#[test]
fn the_child_of_a_vfork_is_not_armed_and_its_parent_still_is() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "vfork", 500);
    assert_eq!(calls_of_each_thread(&run), [[VFORK, WAIT4]]);
    assert!(500 < run.counts.entries[0], "the child is watched");
}

#[test]
fn a_process_that_shares_its_parents_memory_is_not_armed_and_may_arm_itself() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "clone", 3);
    assert_eq!(calls_of_each_thread(&run), [vec![CLONE, WAIT4], vec![GETPPID; 3]]);
    let mut told = story(&run.records);
    told.sort_unstable();
    assert_eq!(told, [QC_KIND_ARMED, QC_KIND_ARMED, QC_KIND_DISARMED, QC_KIND_DISARMED]);
}

#[test]
fn a_thread_that_ends_while_armed_breaks_no_promise() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "threads-end-armed", 100);
    assert_eq!(kinds(&run.records), [QC_KIND_ARMED; 100]);
    assert_eq!((run.counts.violations, run.counts.lost), ([0; 4], 0));
}

#[test]
fn a_call_that_stops_for_a_tracer_is_one_entry() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "traced", 200);
    assert_eq!(run.told("status"), "0");
    assert_eq!(calls_of_each_thread(&run), [[GETPPID; 200]]);
}

/// In a thread of its own, on CPU 0: from the same CPU nobody needs an IPI.
fn from_another_cpu<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        let mut cpu_0 = CpuSet::new();
        cpu_0.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpu_0).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(pinned).join().unwrap())
}

#[test]
fn a_tracer_that_stops_it_is_an_interrupt_and_it_stays_armed() {
    let stand = Stand::new();
    let mut run = stand.start_entries(&only(QC_INTERRUPT, Action::Report), "spin", 0);
    run.wait_for("arming");
    stand.wait_until("it is armed", |records| story(records).contains(&QC_KIND_ARMED));
    let pid = Pid::from_raw(run.pid());
    let mut records = Vec::new();
    // A kick that arrives while a tick has the thread in the kernel already is no entry.
    let kicked = from_another_cpu(|| {
        ptrace::seize(pid, ptrace::Options::empty()).unwrap();
        (0..100).any(|_| {
            ptrace::interrupt(pid).unwrap();
            wait::waitpid(pid, None).unwrap();
            ptrace::cont(pid, None).unwrap();
            records.extend(stand.records());
            kinds(&records).contains(&QC_KIND_RESCHEDULE)
        })
    });
    assert!(kicked, "{:?}", kinds(&records));
    records.extend(run.kill(&stand).records);
    assert_eq!(story(&records), [QC_KIND_ARMED]);
}
