//! Each entry is counted once, in its class: against programs that know how many they made.

use quietcore::{
    guard::{
        abi::{
            QC_EXCEPTION, QC_F_COMPAT, QC_F_DENIED, QC_F_X32, QC_KIND_ARMED, QC_KIND_DISARMED,
            QC_KIND_PAGE_FAULT, QC_KIND_SYSCALL, QC_KIND_TRAP, QC_SYSCALL,
        },
        detector::Detector,
    },
    policy::effective::{Action, Effective},
};

use crate::stand::{Stand, continuous, story};

const NR_GETPPID: u64 = 110;

/// Nothing is sent, so that nothing but the program itself makes entries.
pub(crate) fn only(class: u32, action: Action) -> Effective {
    let mut actions = [Action::Ignore; 4];
    actions[class as usize] = action;
    continuous(actions)
}

#[test]
fn a_hundred_thousand_system_calls_are_as_many_violations() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Count), "calls", 100_000);
    assert_eq!(run.counts.violations, [100_000, 0, 0, 0], "{}", run.output);
    assert_eq!((run.counts.signals, run.counts.lost, run.counts.unwatched), (0, 0, 0));
    assert_eq!(story(&run.records), [QC_KIND_ARMED, QC_KIND_DISARMED]);
}

#[test]
fn calls_that_seccomp_denies_are_counted_and_say_so() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "denied", 2_000);
    let calls = run.of_kind(QC_KIND_SYSCALL);
    assert_eq!((calls.len(), run.counts.violations[0]), (2_000, 2_000));
    // Edge sees that it entered, and not what became of it.
    let flags = if stand.guard().detector == Detector::Edge { 0 } else { QC_F_DENIED };
    assert!(calls.iter().all(|call| (call.detail, call.flags) == (NR_GETPPID, flags)));
}

#[test]
fn a_32_bit_call_with_the_number_of_exit_is_a_violation() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "int80", 100);
    let calls = run.of_kind(QC_KIND_SYSCALL);
    assert_eq!(calls.len(), 100);
    assert!(calls.iter().all(|call| (call.detail, call.flags, call.args[0]) == (60, QC_F_COMPAT, 0o22)));
}

#[test]
fn numbers_that_no_call_has_are_entries_too() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "strange-numbers", 1);
    let calls: Vec<_> = run.of_kind(QC_KIND_SYSCALL).iter().map(|call| (call.detail, call.flags)).collect();
    assert_eq!(calls, [(u64::MAX, 0), (0x4000_003c, QC_F_X32)]);
}

#[test]
fn exempt_calls_are_entries_and_never_violations() {
    let stand = Stand::new();
    let mut policy = only(QC_SYSCALL, Action::Report);
    policy.except = vec![u16::try_from(NR_GETPPID).unwrap()];
    let run = stand.run_entries(&policy, "calls", 5_000);
    assert_eq!(run.counts.violations, [0; 4]);
    assert!(5_000 < run.counts.entries[0]);
}

#[test]
fn page_faults_are_as_many_as_the_kernel_itself_counts() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_EXCEPTION, Action::Report), "faults", 3_000);
    assert_eq!(run.told("minflt"), "3000");
    let faults = run.of_kind(QC_KIND_PAGE_FAULT);
    assert_eq!((faults.len(), run.counts.violations[1]), (3_000, 3_000));
    let first = faults[0].detail;
    assert!(faults.iter().enumerate().all(|(n, fault)| fault.detail == first + n as u64 * 4096));
}

#[test]
fn an_exception_without_a_tracepoint_shows_by_its_signal() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_EXCEPTION, Action::Report), "traps", 500);
    let traps = run.of_kind(QC_KIND_TRAP);
    assert_eq!((traps.len(), run.counts.violations[1]), (500, 500));
    assert!(traps.iter().all(|trap| trap.detail == 4));
}

#[test]
fn each_trap_is_one_exception_and_a_fault_that_ends_in_the_same_signal_is_not_two() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_EXCEPTION, Action::Report), "each-trap", 0);
    let entries: Vec<_> = run.records.iter().filter(|record| record.kind < 16).collect();
    let told: Vec<_> = entries.iter().map(|record| (u32::from(record.kind), record.detail)).collect();
    let trap = |signal| (QC_KIND_TRAP, signal);
    assert_eq!(told, [trap(4), trap(5), trap(8), trap(11), (QC_KIND_PAGE_FAULT, 8)]);
}

#[test]
fn what_the_ring_has_no_room_for_is_counted_to_the_last_record() {
    let stand = Stand::new();
    let run = stand.start_entries(&only(QC_SYSCALL, Action::Report), "calls", 20_000).finish_unread(&stand);
    assert_eq!(run.counts.violations[0], 20_000);
    // The calls, and the two lines of the thread's story.
    assert_eq!(run.records.len() as u64 + run.counts.lost, 20_002);
    assert!(0 < run.counts.lost);
}
