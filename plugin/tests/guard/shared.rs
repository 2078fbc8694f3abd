//! A container with a shared CPU: its control threads stay there and do what they like, its dataplane threads go to the
//! core by themselves, and only there they are armed.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use quietcore::{
    arm::{
        plan::Provider,
        settle::{Clocks, PATIENCE, Settler, Turn},
    },
    guard::{
        abi::{QC_KIND_ARM_REFUSED, QC_KIND_ARMED, QC_REFUSED_AFFINITY, QC_SYSCALL},
        slots::Slot,
    },
    policy::effective::{Action, ArmAt, Effective},
};

use crate::{
    counts::only,
    stand::{SLOT, Stand, continuous, story},
};

const SHARED: &str = "0";

#[test]
fn a_control_thread_calls_freely_beside_a_thread_that_is_armed() {
    let stand = Stand::new();
    let policy = continuous([Action::Report, Action::Ignore, Action::Ignore, Action::Ignore]);
    let mut run = stand.start_sharing(&policy, "control", SHARED);
    run.wait_for("calls=300");
    assert_eq!((run.told("control"), run.told("dataplane"), run.told("signals")), (0, 1, 0));
    let run = run.kill(&stand);
    assert_eq!(story(&run.records), [QC_KIND_ARMED]);
    assert_eq!(run.counts.violations[0], 0, "{:?}", run.records);
}

#[test]
fn a_thread_on_a_shared_cpu_is_not_armed_and_its_owner_hears_of_it() {
    let stand = Stand::new();
    let policy = only(QC_SYSCALL, Action::Report);
    let run = stand.start_sharing(&policy, "arm-at-start", SHARED).finish(&stand);
    let refused: Vec<_> = run.of_kind(QC_KIND_ARM_REFUSED).iter().map(|record| record.detail).collect();
    assert_eq!(refused, [u64::from(QC_REFUSED_AFFINITY)]);
    // A filter cannot know better.
    let answer = if stand.guard().provider == Provider::Seccomp { "armed=0" } else { "armed=-1" };
    assert!(run.output.contains(answer), "{}", run.output);
    assert_eq!(run.counts.violations, [0; 4]);
}

#[test]
fn of_an_unprepared_program_the_thread_on_the_core_settles_and_the_control_thread_is_never_told_of() {
    let stand = Stand::new();
    let policy = Effective {
        arm_at: ArmAt::Settled,
        settle_for: Duration::from_secs(1),
        ..only(QC_SYSCALL, Action::Report)
    };
    let mut run = stand.start_sharing(&policy, "control-unprepared", SHARED);
    run.wait_for("dataplane=1");
    stand.wait_until("the dataplane thread is on its core", |_| {
        stand.guard().seats.taken().any(|seated| seated.seat.on_core != 0 && seated.seat.inside_ns == 0)
    });
    let mut turns = Vec::new();
    for later in [PATIENCE, 2 * PATIENCE, 3 * PATIENCE] {
        let clocks = Clocks { monotonic: Clocks::now().monotonic + later, ..Clocks::now() };
        Settler::new(stand.guard()).poll(clocks, |_, turn| turns.push(turn));
    }
    assert_eq!(turns, [Turn::Armed]);
    run.wait_for("calls=300");
    let run = run.kill(&stand);
    assert_eq!(run.counts.violations[0], 0, "{:?}", run.records);
}

#[test]
fn who_is_not_of_the_program_is_told_from_it() {
    let stand = Stand::new();
    let mut run = stand.start_sharing(&only(QC_SYSCALL, Action::Report), "control", SHARED);
    run.wait_for("dataplane=1");
    let mut visitor = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let visitor_pid = i32::try_from(visitor.id()).unwrap();
    let slot = Slot::new(SLOT).unwrap();
    let key = (slot, stand.guard().slots.generation(slot));
    let of = |pid, key| stand.guard().is_watched(pid, key).unwrap();
    assert_eq!((of(run.pid(), key), of(visitor_pid, key)), (Some(true), Some(false)));
    assert_eq!(of(run.pid(), (slot, key.1 + 1)), Some(false), "the slot's next holder");
    visitor.kill().unwrap();
    visitor.wait().unwrap();
    assert_eq!(of(visitor_pid, key), None);
    run.kill(&stand);
}
