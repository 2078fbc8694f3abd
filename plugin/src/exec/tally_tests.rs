use super::*;
use crate::violation::{
    blame::Blame,
    happening::{Answer, Entry, Refused, Thread},
};

const MAIN: u32 = 7;

fn happening(tid: u32, at_us: u64, story: Story) -> Happening {
    let thread = Thread {
        comm: "app".into(),
        tid,
        host_tid: tid,
        host_tgid: MAIN,
        started: Duration::from_secs(1),
        cpu: 1,
    };
    Happening {
        at: Duration::from_micros(at_us),
        ip: 0x40_0000,
        callers: Vec::new(),
        thread,
        story,
        blame: Blame::default(),
    }
}

fn entry(cause: Cause, disarmed: bool) -> Story {
    let class = match cause {
        Cause::Syscall { .. } => Class::Syscall,
        Cause::PageFault { .. } => Class::Exception,
        Cause::Nmi => Class::MachineCheck,
        _ => Class::Interrupt,
    };
    Story::Entry(Entry { class, cause, answer: Answer::Reported, disarmed })
}

fn call(number: u64) -> Cause {
    Cause::Syscall { number, abi: SyscallAbi::X64, args: [0; 6], denied: false }
}

/// What threads did, by the microsecond; the command ends at 10,000.
fn tally(story: Vec<(u32, u64, Story)>) -> Seen {
    let mut tally = Tally::default();
    for (tid, at, story) in story {
        tally.note(&happening(tid, at, story), tid == MAIN, true);
    }
    tally.end(Duration::from_micros(10_000))
}

#[track_caller]
fn check(story: Vec<(u32, u64, Story)>, stretches_us: &[u64], unknown: u64) {
    let seen = tally(story);
    let mut expect = Stretches::default();
    stretches_us.iter().for_each(|length| expect.add(Duration::from_micros(*length)));
    assert_eq!((seen.stretches, seen.unknown_stretches), (expect, unknown));
}

#[test]
fn stretches_go_from_one_entry_to_the_next_while_armed() {
    let tick = || entry(Cause::Tick, false);
    check(
        vec![(7, 100, Story::Armed), (7, 150, tick()), (7, 250, tick()), (7, 300, Story::Disarmed)],
        &[50, 100, 50],
        0,
    );
    check(vec![(7, 100, Story::Armed), (7, 150, entry(call(110), true))], &[50], 0);
    check(vec![(7, 100, Story::Armed), (7, 150, Story::LeftCore)], &[50], 0);
}

#[test]
fn a_program_that_is_still_armed_was_quiet_to_its_end_and_another_thread_nobody_knows() {
    check(vec![(7, 4_000, Story::Armed)], &[6_000], 0);
    check(vec![(8, 4_000, Story::Armed), (8, 5_000, entry(Cause::Tick, false))], &[1_000], 1);
}

#[test]
fn an_exec_ends_it_and_a_failed_exec_shows_by_the_next_record() {
    let exec = || entry(call(EXECVE), false);
    check(vec![(7, 100, Story::Armed), (7, 200, exec())], &[100], 0);
    let after = vec![(7, 300, entry(Cause::Tick, false)), (7, 350, Story::Disarmed)];
    check([vec![(7, 100, Story::Armed), (7, 200, exec())], after].concat(), &[100, 50], 0);
}

#[test]
fn a_reused_number_is_another_thread() {
    let mut tally = Tally::default();
    tally.note(&happening(9, 100, Story::Armed), false, false);
    let mut later = happening(9, 5_000, Story::Armed);
    later.thread.started = Duration::from_secs(2);
    tally.note(&later, false, false);
    let seen = tally.end(Duration::from_secs(1));
    assert_eq!((seen.armings, seen.stretches.total, seen.unknown_stretches), (2, Duration::ZERO, 2));
}

#[test]
fn causes_are_counted_by_class_and_name_the_most_frequent_first() {
    let seen = tally(vec![
        (7, 1, entry(call(110), false)),
        (7, 2, entry(call(1), false)),
        (7, 3, entry(call(1), false)),
        (7, 4, entry(Cause::PageFault { address: 1, code: 2 }, false)),
        (7, 5, entry(Cause::PageFault { address: 3, code: 4 }, false)),
        (7, 6, entry(Cause::Switch { comm: "kworker/1:0".into(), tid: 30 }, false)),
        (7, 7, entry(Cause::Switch { comm: "kworker/1:0".into(), tid: 31 }, false)),
        (0, 8, entry(Cause::Nmi, false)),
        (7, 9, Story::ArmRefused(Refused::Affinity)),
    ]);
    let counted = |label: &str, count| (label.to_owned(), count);
    assert_eq!(seen.causes[0], [counted("write(2)", 2), counted("getppid(2)", 1)]);
    assert_eq!(seen.causes[1], [counted("page fault", 2)]);
    assert_eq!(seen.causes[2], [counted("switched out by kworker/1:0", 2)]);
    assert_eq!(seen.causes[3], [counted("NMI", 1)]);
    assert_eq!((seen.violations, seen.refused, seen.left_core), (8, 1, 0));
}

#[test]
fn a_program_that_tries_every_number_costs_no_memory() {
    let seen = tally((1_000..11_000).map(|number| (7, number, entry(call(number), false))).collect());
    assert_eq!(seen.causes[0].len(), CAUSES + 1);
    assert_eq!(seen.causes[0][0], ("others".to_owned(), 10_000 - CAUSES as u64));
}

#[test]
fn stretches_fall_into_powers_of_two() {
    let mut stretches = Stretches::default();
    for micros in [0, 1, 2, 3, 4, 1_023, 1_024] {
        stretches.add(Duration::from_micros(micros));
    }
    let counts: Vec<_> = stretches.by_length.iter().map(|(power, (count, _))| (*power, *count)).collect();
    assert_eq!(counts, [(0, 1), (1, 1), (2, 2), (3, 1), (10, 1), (11, 1)]);
}
