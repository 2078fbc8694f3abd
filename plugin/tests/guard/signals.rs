//! The signal comes before the thread's next instruction, once for each violation.

use quietcore::{
    guard::abi::{
        QC_CLASSES, QC_EXCEPTION, QC_F_ESCALATED, QC_F_SIGNALLED, QC_KIND_SYSCALL, QC_SYSCALL, qc_record,
    },
    policy::effective::Action,
};

use crate::{
    counts::only,
    stand::{Run, Stand, enforce},
};

const SIGUSR1: u8 = 10;
const SIGKILL: i32 = 9;

fn entries_of(run: &Run, class: u32) -> Vec<qc_record> {
    run.records
        .iter()
        .filter(|record| u32::from(record.class) == class && record.kind < 16)
        .copied()
        .collect()
}

#[track_caller]
fn check_each_is_signalled_at_its_place(run: &Run, class: u32, n: usize) {
    let entries = entries_of(run, class);
    assert_eq!((entries.len(), run.counts.signals), (n, n as u64), "{}", run.output);
    assert!(entries.iter().all(|entry| entry.flags == QC_F_SIGNALLED));
    let places: Vec<_> = entries.iter().map(|entry| entry.ip).collect();
    assert_eq!(run.list("told"), places);
}

#[test]
fn two_thousand_system_calls_are_signalled_before_the_next_instruction() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Report), "signal-each-call", 2_000);
    check_each_is_signalled_at_its_place(&run, QC_SYSCALL, 2_000);
}

#[test]
fn two_thousand_page_faults_are_signalled_at_the_faulting_instruction() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_EXCEPTION, Action::Report), "signal-each-fault", 2_000);
    check_each_is_signalled_at_its_place(&run, QC_EXCEPTION, 2_000);
}

#[test]
fn the_published_form_takes_one_signal_for_all_classes() {
    let stand = Stand::new();
    let run = stand.run_entries(&enforce([Action::Ignore; 4]), "one-signal", u32::from(SIGUSR1));
    let told = run.records.iter().filter(|record| record.flags & QC_F_SIGNALLED != 0).count();
    // OneShot: by the call, or by an interrupt just before it.
    assert_eq!((told, run.told("signals").as_str()), (1, "1"));
}

#[test]
fn the_published_form_without_a_signal_kills() {
    let stand = Stand::new();
    let run = stand.run_entries(&enforce([Action::Ignore; 4]), "default-signal", 0);
    assert_eq!(run.signal, Some(SIGKILL));
    assert!(!run.output.contains("alive"), "{}", run.output);
    let killed = run.records.iter().find(|record| record.flags & QC_F_SIGNALLED != 0).unwrap();
    assert_eq!((killed.signal, killed.flags & QC_F_ESCALATED), (9, 0));
}

#[test]
fn a_class_that_only_counts_is_never_signalled_or_recorded() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Count), "calls", 100);
    assert!(run.of_kind(QC_KIND_SYSCALL).is_empty());
    assert_eq!(run.counts.violations, {
        let mut violations = [0; QC_CLASSES as usize];
        violations[0] = 100;
        violations
    });
}
