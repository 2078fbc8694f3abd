//! Budgets: so many entries in each window are only counted.

use std::time::Duration;

use quietcore::{
    guard::abi::{QC_F_DISARMED, QC_F_SIGNALLED, QC_KIND_SYSCALL, QC_SYSCALL},
    policy::effective::{Action, Budget, Effective},
};
use rustix::process::Signal;

use crate::{
    counts::only,
    stand::{Stand, enforce, kinds},
};

fn budget(policy: Effective, entries: u32, per: Duration) -> Effective {
    let mut budgets = policy.budgets;
    budgets[QC_SYSCALL as usize] = Some(Budget { entries, per });
    Effective { budgets, ..policy }
}

const HOUR: Duration = Duration::from_secs(3600);

#[track_caller]
fn check(n_calls: u32, entries: u32, n_reported: usize) {
    let stand = Stand::new();
    let policy = budget(only(QC_SYSCALL, Action::Report), entries, HOUR);
    let run = stand.run_entries(&policy, "calls", n_calls);
    assert_eq!(run.of_kind(QC_KIND_SYSCALL).len(), n_reported, "{:?}", kinds(&run.records));
    // All of them are known all the same.
    assert_eq!(run.counts.violations[0], u64::from(n_calls));
}

#[test]
fn as_many_entries_as_the_budget_has_are_only_counted() {
    check(100, 100, 0);
}

#[test]
fn one_more_is_reported() {
    check(101, 100, 1);
    check(1_000, 100, 900);
}

#[test]
fn one_more_is_signalled_and_disarms() {
    let stand = Stand::new();
    let actions = [Action::Signal(37), Action::Ignore, Action::Ignore, Action::Ignore];
    let run = stand.run_entries(&budget(enforce(actions), 5, HOUR), "signal-at-budget", 8);
    let call = run.only(QC_KIND_SYSCALL);
    assert_eq!((call.flags, run.counts.violations[0]), (QC_F_SIGNALLED | QC_F_DISARMED, 6));
    assert_eq!(run.list("told"), [call.ip]);
}

#[test]
fn the_next_window_has_the_whole_budget_again() {
    const PER: Duration = Duration::from_secs(2);
    let stand = Stand::new();
    let policy = budget(only(QC_SYSCALL, Action::Report), 5, PER);
    let mut run = stand.start_entries(&policy, "armed-then-calls", 8);
    run.wait_for("ready");
    for turn in 1..=2 {
        run.signal(Signal::USR1);
        stand.wait_until("three calls were too many", |records| {
            kinds(records).into_iter().filter(|kind| *kind == QC_KIND_SYSCALL).count() == 3 * turn
        });
        #[expect(clippy::disallowed_methods, reason = "a window of the guard's own clock goes by")]
        std::thread::sleep(PER);
    }
    let run = run.kill(&stand);
    assert_eq!(run.counts.violations[0], 16);
}
