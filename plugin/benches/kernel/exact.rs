//! Entries that happened against entries that were told, class by class: the oracles of the guard's tests, with as
//! many entries as a figure wants.

use quietcore::{
    guard::{
        abi::{QC_EXCEPTION, QC_F_BLOCKED, QC_INTERRUPT, QC_SYSCALL},
        detector::Detector,
    },
    policy::effective::{Action, Effective},
};

use crate::{
    CORE,
    line::Line,
    peers::Peer,
    stand::{Stand, continuous, null_selector::Compared},
    victim::Victim,
};

const N: u32 = 10_000;
const N_CALLS: u32 = 100_000;
const N_SIGNALS: u32 = 2_000;
const SIGNALLED: [(u32, &str, &str); 3] = [
    (QC_SYSCALL, "signal-each-call", "system call"),
    (QC_EXCEPTION, "signal-each-fault", "page fault"),
    (QC_INTERRUPT, "signal-each-interrupt", "interrupt"),
];

pub fn only(class: u32, action: Action) -> Effective {
    let mut actions = [Action::Ignore; 4];
    actions[class as usize] = action;
    continuous(actions)
}

pub fn lines(detector: Detector) -> Vec<Line> {
    let stand = Stand::private(CORE, detector);
    let mut lines =
        vec![system_calls(&stand, detector), page_faults(&stand, detector), interrupts(&stand, detector)];
    lines.extend(SIGNALLED.map(|of| places(&stand, detector, of)));
    lines
}

/// The places where the handler was told, against the places where the thread entered.
fn places(stand: &Stand, detector: Detector, (class, day, name): (u32, &str, &str)) -> Line {
    let run = stand.run_entries(&only(class, Action::Report), day, N_SIGNALS);
    let entries = run.records.iter().filter(|record| u32::from(record.class) == class && record.kind < 16);
    // One that comes while the handler runs is told when that returns.
    let pairs = entries.zip(run.list("told")).filter(|(record, _)| record.flags & QC_F_BLOCKED == 0);
    let (right, wrong): (Vec<_>, Vec<_>) = pairs.partition(|(record, place)| record.ip == *place);
    let what = format!("{name}s signalled before the next instruction, {}", detector.name());
    let line = Line::new(format!("place.{day}.{}", detector.name()), what, "entries");
    let line = line.value("there", right.len()).value("elsewhere", wrong.len());
    line.exactly("0 instructions", !right.is_empty() && wrong.is_empty())
}

fn system_calls(stand: &Stand, detector: Detector) -> Line {
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Count), "calls", N_CALLS);
    let line = Line::new(
        format!("exact.syscall.{}", detector.name()),
        format!("system calls of {N_CALLS}, {}", detector.name()),
        "entries",
    );
    by_count(line, u64::from(N_CALLS), run.counts.violations[0])
}

/// The kernel's own count, getrusage(2), is the other side.
fn page_faults(stand: &Stand, detector: Detector) -> Line {
    let run = stand.run_entries(&only(QC_EXCEPTION, Action::Count), "faults", N);
    let happened = run.told("minflt").parse().unwrap();
    let line = Line::new(
        format!("exact.exception.{}", detector.name()),
        format!("page faults of {happened}, {}", detector.name()),
        "entries",
    );
    by_count(line, happened, run.counts.violations[1])
}

fn interrupts(stand: &Stand, detector: Detector) -> Line {
    let run = stand.run_entries(&only(QC_INTERRUPT, Action::Report), "oracle", N);
    let compared = Compared::of(&run);
    let happened = compared.zeros.len() as u64;
    let (missed, invented) = (compared.missed().len() as u64, compared.invented().len() as u64);
    let line = Line::new(
        format!("exact.interrupt.{}", detector.name()),
        format!("interrupts of {happened}, {}", detector.name()),
        "entries",
    );
    judged(line, happened, missed, invented)
}

fn by_count(line: Line, happened: u64, detected: u64) -> Line {
    judged(line, happened, happened.saturating_sub(detected), detected.saturating_sub(happened))
}

fn judged(line: Line, happened: u64, missed: u64, invented: u64) -> Line {
    let line = line.value("happened", happened).value("missed", missed).value("invented", invented);
    line.exactly("none missed, none invented", happened != 0 && missed == 0 && invented == 0)
}

/// How many of the same system calls a peer tells; of the other classes it tells none.
pub fn of_peer(peer: Peer) -> Result<Line, String> {
    let mut victim = Victim::unwatched();
    let running = peer.attach(victim.pid())?;
    victim.ask("count", u64::from(N_CALLS));
    let told = running.end();
    let what = format!("system calls of {N_CALLS}, {} (sees no other class)", peer.name());
    let line = Line::new(format!("exact.syscall.{}", peer.name()), what, "entries");
    let happened = u64::from(N_CALLS);
    Ok(line
        .value("happened", happened)
        .value("missed", happened.saturating_sub(told))
        .value("invented", told.saturating_sub(happened)))
}
