//! From an entry to the first instruction of the handler of its signal, by class: `reaction.c`. The entry alone, the
//! kernel's own way to a handler, and the guard's, in turn.

use quietcore::{
    guard::{detector::Detector, load::Guard},
    policy::effective::{Action, Class},
};

use crate::{
    CORE,
    exact::only,
    line::{Line, percentile, round},
    victim::{Victim, slot},
};

const SIGUSR1: u8 = 10;
const ROUNDS: u64 = 5;
const DAYS: [(Class, &str, &str); 3] = [
    (Class::Syscall, "on-call", "system call"),
    (Class::Exception, "on-fault", "page fault"),
    (Class::Interrupt, "on-interrupt", "interrupt"),
];

/// Nanoseconds of each entry, by the days.
#[derive(Default)]
struct Times([Vec<f64>; DAYS.len()]);

impl Times {
    fn add(&mut self, day: usize, victim: &mut Victim, n: u64) {
        self.0[day].extend(nanoseconds(&victim.numbers(DAYS[day].1, n)));
    }
}

/// Of each class `n` entries under each detector.
pub fn lines(detectors: &[Detector], n: u64) -> Vec<Line> {
    let (mut bare, mut kill, mut signals) = (Times::default(), Vec::new(), 0);
    let mut told: Vec<Times> = detectors.iter().map(|_| Times::default()).collect();
    let n = n / ROUNDS;
    for _ in 0..ROUNDS {
        let mut victim = Victim::unwatched();
        (0..DAYS.len()).for_each(|day| bare.add(day, &mut victim, n));
        kill.extend(nanoseconds(&victim.numbers("on-kill", n)));
        victim.end();
        for (detector, told) in detectors.iter().zip(&mut told) {
            let guard = Guard::start_private(*detector, &CORE.parse().unwrap()).unwrap();
            for (day, (class, ..)) in DAYS.iter().enumerate() {
                let class = u32::try_from(class.index()).unwrap();
                let mut victim = Victim::watched(&guard, &only(class, Action::Signal(SIGUSR1)));
                told.add(day, &mut victim, n);
                victim.end();
                signals += n.min(guard.slots.counts(slot()).signals);
                guard.slots.close(slot());
            }
        }
    }
    let expected = n * ROUNDS * (DAYS.len() * detectors.len()) as u64;
    let line = Line::new("reaction.kill", "from kill(2) of itself to its handler, nothing watches", "ns");
    let mut lines = vec![line.value("p50", at(&kill, 50)).value("p99", at(&kill, 99))];
    for (detector, told) in detectors.iter().zip(&told) {
        lines.extend((0..DAYS.len()).map(|day| line_of(*detector, day, &told.0[day], &bare.0[day])));
    }
    let line = Line::new("reaction.signals", "entries of these that were signalled", "entries");
    let line = line.value("happened", expected).value("signalled", signals);
    lines.push(line.exactly("each", expected == signals));
    lines
}

fn line_of(detector: Detector, day: usize, told: &[f64], bare: &[f64]) -> Line {
    let (class, _, name) = DAYS[day];
    let line = Line::new(
        format!("reaction.{}.{}", class.name(), detector.name()),
        format!("from {name} to its handler, {}", detector.name()),
        "ns",
    );
    line.value("the entry alone p50", at(bare, 50))
        .value("p50", at(told, 50))
        .value("p99", at(told, 99))
        .value("added p50", round(percentile(told, 50) - percentile(bare, 50)))
}

fn at(times: &[f64], percent: usize) -> f64 {
    round(percentile(times, percent))
}

/// The first number says how many cycles a millisecond has.
fn nanoseconds(numbers: &[u64]) -> Vec<f64> {
    let (cycles_in_ms, cycles) = numbers.split_first().unwrap();
    cycles.iter().map(|cycles| *cycles as f64 * 1e6 / *cycles_in_ms as f64).collect()
}
