//! When a container's strictness begins and ends by time, which no record of the guard tells: its owner hears of
//! a thread that does not settle, and of the end of `enforceFor`.
//!
//! The words and the decision are pure; the guard's memory remembers what was told, so that the next agent does
//! not say it again.

use std::{sync::Arc, time::Duration};

use super::containers::{Containers, Key};
use crate::{
    arm::settle::{Clocks, InTheWay, Settler, Sitter, Turn},
    guard::{
        abi::{qc_counts, qc_grant, qc_record},
        load::Guard,
    },
    report::{ContainerInfo, Reason, Reporter, Subject},
};

/// Arms who has settled, and tells the owners of those who do not.
pub(super) fn settle(
    settler: &Settler<'_>,
    records: &dyn Fn(&qc_record),
    containers: &Containers,
    reporter: &Reporter,
) {
    let clocks = Clocks::now();
    settler.poll(clocks, |sitter, turn| match turn {
        Turn::Armed => {
            records(&sitter.armed(clocks.monotonic));
            let pod = containers.find(sitter.holder).map(|info| Arc::clone(&info.pod));
            tracing::info!(step = 6, pod = pod.as_deref(), tid = sitter.tid(), "armed: it has settled");
        }
        Turn::NotSettled(why) => {
            let Some(info) = containers.find(sitter.holder) else { return };
            let note = not_settled(&info, sitter, why);
            reporter.event(Subject::Container(info), Reason::NotSettled, note);
        }
    });
}

fn not_settled(info: &ContainerInfo, sitter: &Sitter, why: InTheWay) -> String {
    let words = why.words(sitter.settle_for);
    format!("thread {} of container {} is not armed: {words}", sitter.tid(), info.container)
}

/// Tells the owner once that the container is only reported from now on.
pub(super) fn tell_end(
    guard: &Guard,
    key: Key,
    info: &Arc<ContainerInfo>,
    counts: &qc_counts,
    reporter: &Reporter,
) {
    let (slot, generation) = key;
    let rules = guard.slots.rules(slot);
    if rules.generation != generation || !is_news(&rules, counts, Clocks::now().boottime) {
        return;
    }
    guard.slots.told_ended(slot);
    let note = format!(
        "enforceFor is over: {:?} have passed since the first thread of container {} was armed; entries are reported \
         from now on, and no signal is sent, as in Audit; restart the container to enforce again",
        Duration::from_nanos(rules.enforce_ns),
        info.container
    );
    reporter.event(Subject::Container(Arc::clone(info)), Reason::EnforcementEnded, note);
}

/// Its `enforceFor` is over, as BPF itself reckons, and nobody told.
fn is_news(rules: &qc_grant, counts: &qc_counts, boottime: Duration) -> bool {
    let (since, lasts) =
        (Duration::from_nanos(counts.first_armed_ns), Duration::from_nanos(rules.enforce_ns));
    let began = !since.is_zero() && !lasts.is_zero();
    began && rules.told_ended == 0 && lasts <= boottime.saturating_sub(since)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::{
        guard::{abi::qc_seat, slots::Slot},
        policy::effective::Class,
    };

    fn info() -> ContainerInfo {
        ContainerInfo {
            namespace: "fastpath".into(),
            pod: "l2fwd-0".into(),
            pod_uid: "1b9d".into(),
            container: "app".into(),
            container_id: "c0ffee".into(),
            policy: None,
        }
    }

    #[track_caller]
    fn check(why: InTheWay, expect: Expect) {
        let holder = (Slot::new(1).unwrap(), 1);
        let seat = qc_seat { pids: [4711, 31, 0, 0], pid_level: 1, ..qc_seat::default() };
        let sitter = Sitter { holder, settle_for: Duration::from_millis(500), seat };
        expect.assert_eq(&not_settled(&info(), &sitter, why));
    }

    #[test]
    fn the_note_names_the_class_in_the_way_and_the_way_out() {
        check(
            InTheWay::Class(Class::Interrupt),
            expect![
                "thread 31 of container app is not armed: it kept entering the kernel by class interrupt for 60 s, never 500ms without; it is armed once that ends; where such entries are allowed, choose action Count for class interrupt"
            ],
        );
        check(
            InTheWay::Affinity,
            expect![
                "thread 31 of container app is not armed: it has been quiet, and may run on more than one CPU, or on one that is not granted; it is armed once it is pinned to one granted CPU (sched_setaffinity)"
            ],
        );
    }

    #[test]
    fn the_end_is_told_once_when_it_is_over_and_never_where_nothing_began() {
        let hour = 3_600_000_000_000;
        let rules = qc_grant { enforce_ns: hour, ..qc_grant::default() };
        let counts = qc_counts { first_armed_ns: 7, ..qc_counts::default() };
        let at = |after: u64| Duration::from_nanos(7 + after);
        assert!(!is_news(&rules, &counts, at(hour - 1)));
        assert!(is_news(&rules, &counts, at(hour)));
        assert!(!is_news(&qc_grant { told_ended: 1, ..rules }, &counts, at(hour)));
        assert!(!is_news(&qc_grant { enforce_ns: 0, ..rules }, &counts, at(hour)));
        assert!(!is_news(&rules, &qc_counts::default(), at(hour)));
    }
}
