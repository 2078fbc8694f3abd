//! How many records a second reach a reader, and that what does not is counted.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use quietcore::{
    guard::{
        abi::QC_SYSCALL,
        detector::Detector,
        load::{Guard, GuardError},
        ring::RecordReader,
    },
    policy::effective::Action,
};

use crate::{
    CORE,
    exact::only,
    line::{Line, Spread, round},
    stand::Stand,
    victim::{Victim, slot},
};

const STORM: u32 = 20_000;
/// Armed, and disarmed: the thread's story is recorded, too.
const STORY: u64 = 2;
const RAMPS: usize = 5;
const SLOWEST: u64 = 20_000;

type Read = fn(&RecordReader, &AtomicBool) -> Result<(), GuardError>;

const READERS: [(&str, Read); 2] = [
    ("the agent's reader, each 50 ms", |reader, over| {
        reader.drain_until(|| over.load(Ordering::Acquire), drop)
    }),
    ("exec's reader, each 1 ms", |reader, over| {
        reader.drain_closely_until(|| over.load(Ordering::Acquire), drop)
    }),
];

pub fn rates(detector: Detector) -> Vec<Line> {
    let mut lines = vec![drained(detector)];
    for (who, read) in READERS {
        let ramps: Vec<f64> = (0..RAMPS).map(|_| ramp(detector, read)).collect();
        let name = format!(
            "records.before-loss.{}.{}",
            who.split([' ', '\'']).next().unwrap_or_default(),
            detector.name()
        );
        let line =
            Line::new(name, format!("records before one is lost, {who}, {}", detector.name()), "thousand/s");
        lines.push(line.value("rate", Spread::of(&ramps)));
    }
    lines
}

/// Nobody reads before all of them are made.
pub fn losses(detector: Detector) -> Line {
    let stand = Stand::private(CORE, detector);
    let run = stand.start_entries(&only(QC_SYSCALL, Action::Report), "calls", STORM).finish_unread(&stand);
    let (made, told, lost) = (u64::from(STORM) + STORY, run.records.len() as u64, run.counts.lost);
    let what = format!("records and losses of {made} with the reader held still, {}", detector.name());
    let line = Line::new(format!("records.losses.{}", detector.name()), what, "records");
    let line = line.value("made", made).value("told", told).value("lost", lost);
    line.exactly("told + lost = made", told + lost == made && 0 < lost)
}

/// A full ring, at once.
fn drained(detector: Detector) -> Line {
    let guard = Guard::start_private(detector, &CORE.parse().unwrap()).unwrap();
    let mut victim = Victim::watched(&guard, &only(QC_SYSCALL, Action::Report));
    victim.arm();
    let rates: Vec<f64> = (0..15)
        .map(|_| {
            victim.ask("count", 10_000);
            let (start, mut n) = (Instant::now(), 0_u32);
            guard.records().unwrap().drain_until(|| true, |_| n += 1).unwrap();
            f64::from(n) / start.elapsed().as_secs_f64() / 1e3
        })
        .collect();
    let what = format!("records that a reader takes from a full ring, {}", detector.name());
    Line::new(format!("records.drained.{}", detector.name()), what, "thousand/s")
        .value("rate", Spread::of(&rates))
}

/// Faster in steps of a quarter, until a record is lost or the victim cannot be faster. In thousands a second.
fn ramp(detector: Detector, read: Read) -> f64 {
    let guard = Guard::start_private(detector, &CORE.parse().unwrap()).unwrap();
    let mut victim = Victim::watched(&guard, &only(QC_SYSCALL, Action::Report));
    victim.arm();
    let over = AtomicBool::new(false);
    let reader = guard.records().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| read(&reader, &over).unwrap());
        let (mut asked, mut best) = (SLOWEST, 0.0);
        loop {
            let done = victim.ask("pace", asked);
            let rate = done.n as f64 / done.ns * 1e9;
            if guard.slots.counts(slot()).lost != 0 || rate < best {
                break;
            }
            best = rate;
            asked += asked / 4;
            rest();
        }
        over.store(true, Ordering::Release);
        round(best / 1e3)
    })
}

/// The ring is empty again.
#[expect(clippy::disallowed_methods, reason = "the reader's own interval goes by")]
fn rest() {
    std::thread::sleep(Duration::from_millis(60));
}
