//! `arm.at: Settled`: armed from another CPU, by a store, because it was quiet. The test reads the clocks for the
//! guard, so that an hour of quiet takes none.

use std::{cell::RefCell, time::Duration};

use quietcore::{
    arm::settle::{Clocks, InTheWay, PATIENCE, Settler, Turn},
    guard::{
        abi::{
            QC_F_DISARMED, QC_F_SIGNALLED, QC_KIND_ARM_REFUSED, QC_KIND_SYSCALL, QC_REFUSED_SEAT,
            QC_SEATS_EACH, QC_SYSCALL, qc_record, qc_seat,
        },
        seats::Seated,
        slots::Slot,
    },
    policy::effective::{Action, ArmAt, Class, Effective},
};
use rustix::process::Signal;

use crate::{
    counts::only,
    stand::{Running, SLOT, Stand, enforce, kinds, story},
};

const HOUR: Duration = Duration::from_secs(3600);
/// Shorter than the owner's patience.
const LONG: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_nanos(1);

fn settled(settle_for: Duration) -> Effective {
    Effective { arm_at: ArmAt::Settled, settle_for, ..only(QC_SYSCALL, Action::Report) }
}

fn at(monotonic: Duration) -> Clocks {
    Clocks { monotonic, ..Clocks::now() }
}

/// By everybody's last entry and more.
fn later(by: Duration) -> Clocks {
    at(Clocks::now().monotonic + by)
}

fn turns(stand: &Stand, clocks: Clocks) -> Vec<Turn> {
    let mut turns = Vec::new();
    Settler::new(stand.guard()).poll(clocks, |_, turn| turns.push(turn));
    turns
}

fn seats(stand: &Stand) -> Vec<Seated> {
    stand.guard().seats.taken().collect()
}

/// Waits until `n` threads have a seat and all of them are as `is_so` says.
#[track_caller]
fn wait_seats(stand: &Stand, n: usize, is_so: impl Fn(&qc_seat) -> bool) -> Vec<Seated> {
    let seen = RefCell::new(Vec::new());
    stand.wait_until("the seats are taken", |_| {
        seen.replace(seats(stand));
        seen.borrow().len() == n && seen.borrow().iter().all(|seated| is_so(&seated.seat))
    });
    seen.into_inner()
}

fn in_user_mode(seat: &qc_seat) -> bool {
    seat.inside_ns == 0
}

fn calls(records: &[qc_record]) -> usize {
    kinds(records).into_iter().filter(|kind| *kind == QC_KIND_SYSCALL).count()
}

/// Has it make its calls, armed or not.
#[track_caller]
fn go(stand: &Stand, run: &Running, n: u64) {
    let before = stand.counts().entries[0];
    run.signal(Signal::USR1);
    // Of the handler's return, too.
    stand.wait_until("it made its calls", |_| before + n < stand.counts().entries[0]);
    wait_seats(stand, 1, in_user_mode);
}

/// Of several threads on one core all but one are switched out at any time.
#[track_caller]
fn arm_in_turn(stand: &Stand, n: usize) {
    assert_eq!(arm_at_least(stand, n), n);
}

/// They may take turns while the seats are looked at.
#[track_caller]
fn arm_at_least(stand: &Stand, n: usize) -> usize {
    let armed = RefCell::new(0);
    stand.wait_until("so many are armed", |_| {
        Settler::new(stand.guard()).poll(later(HOUR), |_, turn| {
            assert_eq!(turn, Turn::Armed);
            *armed.borrow_mut() += 1;
        });
        n <= *armed.borrow()
    });
    armed.into_inner()
}

#[track_caller]
fn start(stand: &Stand, policy: &Effective, day: &str) -> Running {
    let mut run = stand.start_entries(policy, day, 3);
    run.wait_for("ready");
    run
}

#[test]
fn it_is_armed_once_it_was_quiet_for_settle_for_and_not_before() {
    let stand = Stand::new();
    let run = start(&stand, &settled(LONG), "settle");
    wait_seats(&stand, 1, in_user_mode);
    go(&stand, &run, 3);
    let [seated] = wait_seats(&stand, 1, in_user_mode)[..] else { unreachable!() };
    let last = Duration::from_nanos(seated.seat.last_ns);
    assert_eq!(turns(&stand, at(last + LONG - MOMENT)), []);
    assert_eq!(turns(&stand, at(last + LONG)), [Turn::Armed]);
    assert_eq!(turns(&stand, at(last + 2 * LONG)), []);
    assert!(0 < stand.counts().first_armed_ns);
    go(&stand, &run, 3);
    let run = run.kill(&stand);
    assert_eq!((calls(&run.records), run.counts.violations[0]), (3, 3), "{:?}", kinds(&run.records));
    assert!(story(&run.records).is_empty());
}

#[test]
fn its_first_violation_is_signalled_before_the_next_instruction_and_disarms_it() {
    let stand = Stand::new();
    let each = 37; // SIGRTMIN + 3, which the program handles
    let actions = [Action::Signal(each), Action::Ignore, Action::Ignore, Action::Ignore];
    let policy = Effective { arm_at: ArmAt::Settled, settle_for: HOUR, ..enforce(actions) };
    let mut run = start(&stand, &policy, "settle");
    wait_seats(&stand, 1, in_user_mode);
    assert_eq!(turns(&stand, later(HOUR)), [Turn::Armed]);
    run.signal(Signal::USR1);
    run.wait_for("told=");
    let _ = wait_seats(&stand, 1, in_user_mode);
    // Its OneShot is over: it does not settle again.
    assert_eq!(turns(&stand, later(2 * HOUR)), []);
    let run = run.kill(&stand);
    let call = run.only(QC_KIND_SYSCALL);
    assert_eq!(call.flags, QC_F_SIGNALLED | QC_F_DISARMED);
    assert_eq!(run.list("told"), [call.ip]);
}

#[test]
fn each_thread_settles_by_itself_and_one_that_is_never_quiet_is_never_armed() {
    let stand = Stand::new();
    let run = start(&stand, &settled(Duration::from_millis(200)), "settle-beside-restless");
    let settler = Settler::new(stand.guard());
    let armed = RefCell::new(Vec::new());
    let rounds = RefCell::new(0);
    stand.wait_until("one of them was armed", |_| {
        settler.poll(Clocks::now(), |sitter, turn| armed.borrow_mut().push((sitter.tid(), turn)));
        // And then for as many rounds again.
        *rounds.borrow_mut() += usize::from(!armed.borrow().is_empty());
        20 < *rounds.borrow()
    });
    let pid = u32::try_from(run.pid()).unwrap();
    assert_eq!(*armed.borrow(), [(pid, Turn::Armed)]);
    assert_eq!(stand.counts().violations, [0; 4]);
    run.signal(Signal::USR1);
    stand.wait_until("it made its calls", |records| 3 <= calls(records));
    let run = run.kill(&stand);
    assert!(run.records.iter().all(|record| record.pids[0] == pid), "{:?}", kinds(&run.records));
    assert_eq!(calls(&run.records), 3);
}

#[test]
fn threads_of_one_program_are_armed_each_for_its_own_next_entry() {
    let stand = Stand::new();
    let run = start(&stand, &settled(HOUR), "settle-twice");
    wait_seats(&stand, 2, |_| true);
    arm_in_turn(&stand, 2);
    run.signal(Signal::USR1);
    stand.wait_until("both made their calls", |records| 6 <= calls(records));
    let run = run.kill(&stand);
    assert_eq!(run.counts.violations[0], 6);
}

#[test]
fn a_thread_that_keeps_entering_is_told_once_with_the_class_also_by_the_next_agent() {
    let mut stand = Stand::of_an_agent();
    let run = start(&stand, &settled(HOUR), "restless");
    let _ = wait_seats(&stand, 1, |seat| seat.in_class == 0 && seat.on_core == 1);
    assert_eq!(turns(&stand, later(PATIENCE / 2)), []);
    let syscalls = Turn::NotSettled(InTheWay::Class(Class::Syscall));
    assert_eq!(turns(&stand, later(PATIENCE)), [syscalls]);
    stand.agent_mut().lose();
    stand.agent_mut().start().unwrap();
    assert_eq!(turns(&stand, later(2 * PATIENCE)), []);
    assert_eq!(run.kill(&stand).counts.violations, [0; 4]);
}

#[test]
fn a_thread_that_sleeps_is_neither_armed_nor_late() {
    let stand = Stand::new();
    let run = start(&stand, &settled(Duration::from_millis(1)), "asleep");
    stand.wait_until("it sleeps", |_| run.state() == "S");
    assert_eq!(turns(&stand, later(HOUR)), []);
    run.kill(&stand);
}

#[test]
fn a_thread_that_was_stopped_begins_its_quiet_anew() {
    let stand = Stand::new();
    let run = start(&stand, &settled(Duration::from_millis(1)), "settle");
    let [before] = wait_seats(&stand, 1, in_user_mode)[..] else { unreachable!() };
    run.signal(Signal::STOP);
    stand.wait_until("it is stopped", |_| run.state() == "T");
    let stopped = Clocks::now().monotonic;
    stand.wait_until("for longer than it must be quiet", |_| {
        stopped + Duration::from_millis(5) < Clocks::now().monotonic
    });
    assert_eq!(turns(&stand, later(HOUR)), []);
    run.signal(Signal::CONT);
    let [after] = wait_seats(&stand, 1, in_user_mode)[..] else { unreachable!() };
    assert!(before.seat.last_ns < after.seat.last_ns);
    assert!(stopped < Duration::from_nanos(after.seat.last_ns));
    run.kill(&stand);
}

#[test]
fn an_entry_between_the_look_and_the_store_makes_the_arming_void() {
    let stand = Stand::new();
    let run = start(&stand, &settled(HOUR), "settle");
    let [looked_at] = wait_seats(&stand, 1, in_user_mode)[..] else { unreachable!() };
    go(&stand, &run, 3);
    stand.guard().seats.arm(&looked_at);
    go(&stand, &run, 3);
    assert_eq!(stand.counts().violations, [0; 4]);
    assert_eq!(turns(&stand, later(HOUR)), [Turn::Armed]);
    go(&stand, &run, 3);
    assert_eq!(run.kill(&stand).counts.violations, [3, 0, 0, 0]);
}

#[test]
fn a_program_that_is_execd_by_another_settles_by_itself() {
    let stand = Stand::new();
    let run = start(&stand, &settled(HOUR), "settle-after-exec");
    wait_seats(&stand, 1, in_user_mode);
    assert_eq!(turns(&stand, later(HOUR)), [Turn::Armed]);
    go(&stand, &run, 3);
    assert_eq!(run.kill(&stand).counts.violations, [3, 0, 0, 0]);
}

#[test]
fn a_thread_whose_last_call_pins_it_to_its_core_settles() {
    let stand = Stand::new();
    let run = start(&stand, &settled(HOUR), "pin-then-settle");
    let _ = wait_seats(&stand, 1, |seat| in_user_mode(seat) && seat.on_core == 1);
    assert_eq!(turns(&stand, later(HOUR)), [Turn::Armed]);
    go(&stand, &run, 3);
    assert_eq!(run.kill(&stand).counts.violations, [3, 0, 0, 0]);
}

#[test]
fn calls_that_the_policy_excepts_keep_nobody_from_settling() {
    let stand = Stand::new();
    let getppid = 110;
    let policy = Effective { except: vec![getppid], ..settled(HOUR) };
    let run = start(&stand, &policy, "settle");
    let [before] = wait_seats(&stand, 1, in_user_mode)[..] else { unreachable!() };
    go(&stand, &run, 3);
    let [after] = seats(&stand)[..] else { unreachable!() };
    assert_eq!(before.seat.last_ns, after.seat.last_ns);
    run.kill(&stand);
}

#[test]
fn the_next_agent_arms_whom_the_last_one_left_and_nobody_twice() {
    let mut stand = Stand::of_an_agent();
    let run = start(&stand, &settled(HOUR), "settle-twice");
    wait_seats(&stand, 2, |_| true);
    let before = arm_at_least(&stand, 1);
    stand.agent_mut().lose();
    stand.agent_mut().start().unwrap();
    arm_in_turn(&stand, 2 - before);
    assert_eq!(turns(&stand, later(HOUR)), []);
    run.signal(Signal::USR1);
    stand.wait_until("both made their calls", |records| 6 <= calls(records));
    run.kill(&stand);
}

#[test]
fn each_slot_has_its_own_settle_for() {
    let stand = Stand::new();
    let other = Slot::new(SLOT + 1).unwrap();
    let run = start(&stand, &settled(LONG / 3), "settle");
    let mut second = stand.start_entries_in(SLOT + 1, &settled(LONG), "settle", 3);
    second.wait_for("ready");
    wait_seats(&stand, 2, |_| true);
    let armed = RefCell::new(Vec::new());
    let poll = |clocks| {
        Settler::new(stand.guard())
            .poll(clocks, |sitter, turn| armed.borrow_mut().push((sitter.holder, turn)));
    };
    let holder =
        |slot: u8| (Slot::new(slot).unwrap(), stand.guard().slots.generation(Slot::new(slot).unwrap()));
    // Each had its turn on the core by then.
    for (by, n) in [(LONG, 1), (2 * LONG, 2)] {
        stand.wait_until("it is armed", |_| {
            poll(later(by - LONG / 2));
            n <= armed.borrow().len()
        });
    }
    assert_eq!(*armed.borrow(), [(holder(SLOT), Turn::Armed), (holder(SLOT + 1), Turn::Armed)]);
    second.kill(&stand);
    run.kill(&stand);
    stand.guard().slots.close(other);
}

#[test]
fn each_thread_that_finds_no_seat_says_so_and_its_seat_is_free_when_another_ends() {
    const MORE: u32 = 100;
    let stand = Stand::new();
    let mut run = stand.start_entries(&settled(HOUR), "crowd", QC_SEATS_EACH + MORE - 1);
    run.wait_for("ready");
    let taken = seats(&stand).len();
    let run = run.kill(&stand);
    let refused = run.of_kind(QC_KIND_ARM_REFUSED);
    assert!(refused.iter().all(|record| record.detail == u64::from(QC_REFUSED_SEAT)));
    assert_eq!((taken, refused.len(), run.counts.lost), (QC_SEATS_EACH as usize, MORE as usize, 0));
    assert_eq!(run.counts.seated, 0);
    assert!(seats(&stand).is_empty());
}

#[test]
fn threads_of_a_container_that_lost_its_slot_are_nobodys() {
    let stand = Stand::new();
    let policy = settled(HOUR);
    let run = start(&stand, &policy, "settle");
    wait_seats(&stand, 1, in_user_mode);
    stand.reuse_slot(&policy);
    assert_eq!(turns(&stand, later(HOUR)), []);
    run.kill(&stand);
    assert!(seats(&stand).is_empty());
}
