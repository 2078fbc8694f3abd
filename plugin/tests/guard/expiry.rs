//! `enforceFor`: kept by BPF alone. Nobody polls anything here.

use std::time::Duration;

use quietcore::{
    arm::settle::Clocks,
    guard::abi::{QC_F_EXPIRED, QC_F_SIGNALLED, QC_KIND_SYSCALL, QC_SYSCALL},
    policy::effective::{Action, Effective},
};

use crate::{
    counts::only,
    stand::{Stand, continuous},
};

const EACH: u8 = 37; // SIGRTMIN + 3, which the program handles
const ENFORCE_FOR: Duration = Duration::from_millis(1500);

#[test]
fn signals_end_when_enforce_for_does_and_reports_go_on() {
    let stand = Stand::new();
    let actions = [Action::Signal(EACH), Action::Ignore, Action::Ignore, Action::Ignore];
    let policy = Effective { enforce_for: Some(ENFORCE_FOR), ..continuous(actions) };
    let mut run = stand.start_entries(&policy, "call-now-and-then", 0);
    run.wait_for("ready");
    stand.wait_until("it is over", |records| {
        10 < records.iter().filter(|record| record.flags & QC_F_EXPIRED != 0).count()
    });
    let run = run.kill(&stand);
    let calls = run.of_kind(QC_KIND_SYSCALL);
    let n_enforced = calls.iter().take_while(|call| call.flags & QC_F_SIGNALLED != 0).count();
    let (enforced, over) = calls.split_at(n_enforced);
    assert!(over.iter().all(|call| call.flags == QC_F_EXPIRED && call.signal == u32::from(EACH)));
    assert_eq!((run.counts.signals, run.counts.lost), (n_enforced as u64, 0));
    assert_eq!(run.counts.violations[0], calls.len() as u64);

    // Records have the one clock, the first arming the other.
    let (at_most, boottime) = (Clocks::now(), Clocks::now().boottime);
    let asleep_at_most = boottime - at_most.monotonic;
    let asleep_at_least = at_most.boottime.saturating_sub(Clocks::now().monotonic);
    let ends = Duration::from_nanos(run.counts.first_armed_ns) + ENFORCE_FOR;
    assert!(over.iter().all(|call| ends <= Duration::from_nanos(call.at_ns) + asleep_at_most));
    // A record is written after its signal was decided: where the last one was, nobody knows.
    let before_the_last = enforced.split_last().unwrap().1;
    assert!(before_the_last.iter().all(|call| Duration::from_nanos(call.at_ns) + asleep_at_least < ends));
}

#[test]
fn before_it_is_over_nothing_is_audited() {
    let stand = Stand::new();
    let actions = [Action::Signal(EACH), Action::Ignore, Action::Ignore, Action::Ignore];
    let policy = Effective { enforce_for: Some(Duration::from_secs(3600)), ..continuous(actions) };
    let run = stand.run_entries(&policy, "signal-each-call", 100);
    assert!(run.of_kind(QC_KIND_SYSCALL).iter().all(|call| call.flags == QC_F_SIGNALLED));
    assert_eq!(run.counts.signals, 100);
}

#[test]
fn what_only_reports_goes_on_as_before() {
    let stand = Stand::new();
    let policy = Effective { enforce_for: Some(Duration::from_nanos(1)), ..only(QC_SYSCALL, Action::Report) };
    let run = stand.run_entries(&policy, "calls", 100);
    let calls = run.of_kind(QC_KIND_SYSCALL);
    assert!(calls.len() == 100 && calls.iter().all(|call| call.flags == 0));
}
