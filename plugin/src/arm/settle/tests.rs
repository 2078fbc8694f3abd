use super::*;
use crate::violation::happening::{Happening, Story};

const SETTLE_FOR: Duration = Duration::from_millis(500);
const START: u64 = 1_000_000_000;

/// In user mode on its core since `START`, when it also made its last entry.
fn seat() -> qc_seat {
    qc_seat { taken: 1, on_core: 1, in_class: 2, last_ns: START, restless_ns: START, ..qc_seat::default() }
}

#[track_caller]
fn check(seat: qc_seat, after: Duration, expect: Decision) {
    assert_eq!(decide(&seat, Duration::from_nanos(START) + after, SETTLE_FOR), expect, "{seat:?}");
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ns(after: Duration) -> u64 {
    START + u64::try_from(after.as_nanos()).unwrap()
}

#[test]
fn it_is_armed_once_it_has_been_quiet_for_settle_for_and_not_before() {
    check(seat(), ms(499), Decision::Wait);
    check(seat(), ms(500), Decision::Arm);
    check(seat(), PATIENCE, Decision::Arm);
}

#[test]
fn a_clock_read_before_the_seats_last_entry_arms_nobody() {
    assert_eq!(decide(&seat(), Duration::ZERO, SETTLE_FOR), Decision::Wait);
}

#[test]
fn an_arming_reads_as_the_guards_own_do() {
    let seat = qc_seat { pids: [4711, 31, 0, 0], tgid: 4700, pid_level: 1, start_ns: 5, ..seat() };
    let sitter = Sitter { holder: (Slot::new(1).unwrap(), 1), settle_for: SETTLE_FOR, seat };
    let happening = Happening::try_from(&sitter.armed(ms(7))).unwrap();
    assert_eq!((happening.story, happening.at), (Story::Armed, ms(7)));
    assert_eq!(
        (happening.thread.tid, happening.thread.host_tid, happening.thread.host_tgid),
        (31, 4711, 4700)
    );
    assert_eq!(sitter.tid(), 31);
}

#[test]
fn it_is_armed_once() {
    let nothing = |seat| check(seat, PATIENCE, Decision::Wait);
    nothing(qc_seat { armed: 1, ..seat() });
    nothing(qc_seat { arm_ns: START, ..seat() });
    nothing(qc_seat { done: 1, ..seat() });
}

#[test]
fn an_arming_that_an_entry_made_void_is_decided_anew() {
    let void = qc_seat { arm_ns: START, last_ns: START + 1, ..seat() };
    check(void, ms(499), Decision::Wait);
    check(void, ms(501), Decision::Arm);
}

#[test]
fn a_thread_in_the_kernel_is_not_quiet_and_one_that_sleeps_is_not_late() {
    let since = |after| qc_seat { inside_ns: ns(after), ..seat() };
    check(since(ms(0)), ms(700), Decision::Wait);
    check(since(ms(0)), 2 * PATIENCE, Decision::Wait);
    // Most looks at a program that makes one call after the other find it there.
    let calls = qc_seat { last_ns: ns(PATIENCE), in_class: 0, ..since(PATIENCE) };
    check(calls, PATIENCE + ms(1), Decision::Overdue(InTheWay::Class(Class::Syscall)));
}

#[test]
fn its_owner_hears_once_which_class_is_in_the_way() {
    let restless = qc_seat { last_ns: ns(PATIENCE), ..seat() };
    check(restless, PATIENCE - ms(1), Decision::Wait);
    check(restless, PATIENCE, Decision::Overdue(InTheWay::Class(Class::Interrupt)));
    check(qc_seat { told: 1, ..restless }, PATIENCE, Decision::Wait);
}

#[test]
fn a_quiet_thread_that_may_run_elsewhere_is_told_so() {
    let unpinned = qc_seat { on_core: 0, ..seat() };
    check(unpinned, ms(500), Decision::Wait);
    check(unpinned, PATIENCE, Decision::Overdue(InTheWay::Affinity));
    check(qc_seat { told: 1, ..unpinned }, PATIENCE, Decision::Wait);
}
