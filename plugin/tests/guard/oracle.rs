//! Interrupts, each counted once and signalled at its place: against the null selector in %es
//! (stand/null_selector.rs), and against the handler of the signal.

use std::collections::BTreeSet;

use quietcore::{
    guard::abi::{
        QC_F_BLOCKED, QC_F_SEND_FAILED, QC_F_SIGNALLED, QC_INTERRUPT, QC_KIND_SWITCH, QC_KIND_TICK,
        QC_KIND_VECTOR, qc_record,
    },
    policy::effective::Action,
};

use crate::{
    counts::only,
    stand::{Stand, kinds, null_selector::Compared},
    values::check_values,
};

#[test]
fn every_interrupt_is_counted_once_and_nothing_else_is() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_INTERRUPT, Action::Report), "oracle", 10_000);
    let compared = Compared::of(&run);
    let (zeros, seen) = (&compared.zeros, &compared.seen);
    assert_eq!(run.counts.lost, 0);
    let (missed, invented) = (compared.missed(), compared.invented());
    assert!(missed.is_empty() && invented.is_empty(), "missed {missed:?}, invented {invented:?}");
    assert_eq!(zeros.len(), 10_000);
    for pair in seen.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        // A tick and an IPI with no instruction in between are two; a switch belongs to the entry before.
        let kind = u32::from(pair[1].1.kind);
        assert!(kind != QC_KIND_SWITCH && kind != QC_KIND_VECTOR, "{:?} {:?}", pair[0], pair[1]);
    }
    let several = seen.len() - zeros.len();
    println!(
        "{} turns saw an entry, {} entries, {several} of them in a turn with another",
        zeros.len(),
        seen.len()
    );
    let kinds: BTreeSet<_> = kinds(&run.records).into_iter().collect();
    assert!(kinds.contains(&QC_KIND_TICK), "{kinds:?}");
}

#[test]
fn ten_thousand_interrupts_are_ten_thousand_signals_at_their_places() {
    check_each_is_signalled("signal-each-interrupt");
}

/// The kernel has room for one such signal a CPU: of two interrupts with no instruction in between the second's
/// is sent when the first's is on its way.
#[test]
fn a_signal_that_finds_no_room_is_not_lost_and_not_late() {
    // How dense the storm is, the other CPU's load decides too.
    let stormed = (0..5).any(|_| {
        let sent = check_each_is_signalled("signal-in-a-storm");
        sent.iter().any(|record| record.flags & QC_F_SEND_FAILED != 0)
    });
    assert!(stormed, "in 50,000 interrupts no two came at once");
}

#[track_caller]
fn check_each_is_signalled(day: &str) -> Vec<qc_record> {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_INTERRUPT, Action::Report), day, 10_000);
    let sent: Vec<_> = run.records.iter().filter(|record| record.class == 2 && record.kind < 16).collect();
    let told = run.list("told");
    assert_eq!((told.len(), run.counts.signals), (sent.len(), sent.len() as u64));
    for (record, place) in sent.iter().zip(&told) {
        let blocked = record.flags & QC_F_BLOCKED != 0;
        // In its own handler a signal is blocked, and comes when that returns.
        assert!(blocked || record.ip == *place, "{record:?} told at {place:#x}");
        assert_ne!(record.flags & (QC_F_SIGNALLED | QC_F_SEND_FAILED), 0);
    }
    check_values(&run, sent.iter().copied());
    let with_flag = |flag| sent.iter().filter(|record| record.flags & flag != 0).count();
    println!(
        "{} signals, {} while the handler ran, {} right behind another",
        sent.len(),
        with_flag(QC_F_BLOCKED),
        with_flag(QC_F_SEND_FAILED)
    );
    assert!(10_000 <= sent.len());
    sent.into_iter().copied().collect()
}
