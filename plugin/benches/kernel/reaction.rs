//! From an entry to the first instruction of the handler of its signal, by class: `reaction.c`.

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

fn day(class: Class) -> Option<(&'static str, &'static str)> {
    match class {
        Class::Syscall => Some(("on-call", "system call")),
        Class::Exception => Some(("on-fault", "page fault")),
        Class::Interrupt => Some(("on-interrupt", "interrupt")),
        Class::MachineCheck => None,
    }
}

/// The same handler, called by the kernel's own means.
pub fn of_kill(n: u64) -> Line {
    let told = nanoseconds(&Victim::unwatched().numbers("on-kill", n));
    let line = Line::new("reaction.kill", "from kill(2) of itself to its handler, nothing watches", "ns");
    line.value("p50", at(&told, 50)).value("p99", at(&told, 99))
}

pub fn lines(detector: Detector, n: u64) -> Vec<Line> {
    let mut lines = Vec::new();
    for (class, (day, name)) in Class::ALL.into_iter().filter_map(|class| Some((class, day(class)?))) {
        let bare = nanoseconds(&Victim::unwatched().numbers(day, n));
        let class_number = u32::try_from(class.index()).unwrap();
        let guard = Guard::start_private(detector, &CORE.parse().unwrap()).unwrap();
        let mut victim = Victim::watched(&guard, &only(class_number, Action::Signal(SIGUSR1)));
        let told = nanoseconds(&victim.numbers(day, n));
        victim.end();
        let signals = guard.slots.counts(slot()).signals;
        guard.slots.close(slot());
        let line = Line::new(
            format!("reaction.{}.{}", class.name(), detector.name()),
            format!("from {name} to its handler, {}", detector.name()),
            "ns",
        );
        let line = line
            .value("p50", at(&told, 50))
            .value("p99", at(&told, 99))
            .value("the entry alone p50", at(&bare, 50))
            .value("added p50", round(percentile(&told, 50) - percentile(&bare, 50)));
        lines.push(line.exactly("a signal for each entry", n <= signals));
    }
    lines
}

fn at(times: &[f64], percent: usize) -> f64 {
    round(percentile(times, percent))
}

/// The first number says how many cycles a millisecond has.
fn nanoseconds(numbers: &[u64]) -> Vec<f64> {
    let (cycles_in_ms, cycles) = numbers.split_first().unwrap();
    cycles.iter().map(|cycles| *cycles as f64 * 1e6 / *cycles_in_ms as f64).collect()
}
