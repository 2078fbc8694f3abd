//! Step 3: how good the allocator's choices are, measured against the best of all possible ones on small machines.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod traces;

use traces::{Chooser, measure};

const N_TRACES: u32 = 10_000;

/// No other choice has fewer held or slow cores, is in fewer nodes, L3 domains and packages, or leaves larger
/// holes, compared in this order.
#[test]
fn no_choice_of_ten_thousand_traces_could_be_better() {
    let quality = measure(N_TRACES, Chooser::Allocator);
    assert!(N_TRACES * 5 < quality.n_choices && quality.n_worse == 0, "{quality:?}");
    assert!(quality.mean_percent <= 100.0 && quality.worst_percent <= 100.0, "{quality:?}");
}

/// Else the traces would ask nothing of an allocator.
#[test]
fn taking_the_lowest_numbers_is_measurably_worse() {
    let quality = measure(N_TRACES / 10, Chooser::LowestNumbers);
    assert!(105.0 < quality.mean_percent && 200.0 <= quality.worst_percent, "{quality:?}");
}
