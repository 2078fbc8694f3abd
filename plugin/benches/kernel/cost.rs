//! What watching costs: the bystander, and the victim itself. All watchers in turn, round by round, in one process
//! on one core.

use std::sync::atomic::{AtomicBool, Ordering};

use quietcore::{
    guard::{detector::Detector, load::Guard},
    policy::{
        accept::node_default,
        effective::{Action, ArmAfter, Effective},
    },
};

use crate::{
    CORE, bystander,
    line::{Line, Spread, percentile},
    peers::Peer,
    victim::{Victim, slot},
};

const NOTHING: &str = "nothing";
/// Of each thing of the victim, in a round: the fastest quarter of so many pieces that are this many milliseconds
/// long. What else runs on its core only adds.
const PIECES: usize = 15;
const PIECE: u64 = 3;
pub const THINGS: [(&str, &str); 3] =
    [("calls", "system call"), ("faults", "page fault"), ("spin", "multiplication")];

pub const BYSTANDER: [&str; 4] = ["system call", "page fault", "context switch", "IPI"];
const ARMINGS: &[&str] = &["watched, not armed", "Audit, counted", "Audit, recorded"];
/// By name, with how far each goes.
pub const WATCHERS: &[(&str, &[&str])] = &[
    ("Edge", ARMINGS),
    ("Tracepoint", ARMINGS),
    ("bpftrace", &[""]),
    ("perf trace", &[""]),
    ("strace -c", &[""]),
];

#[derive(Debug, Clone, Copy)]
pub enum Watcher {
    Nothing,
    Guard(Detector),
    Peer(Peer),
}

/// How far the guard goes with the victim.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Arming {
    NotArmed,
    Counted,
    Recorded,
}

impl Arming {
    const ALL: [Arming; 3] = [Arming::NotArmed, Arming::Counted, Arming::Recorded];

    fn name(self) -> &'static str {
        ARMINGS[self as usize]
    }

    fn policy(self) -> Effective {
        let action = if self == Arming::Recorded { Action::Report } else { Action::Count };
        Effective { actions: [action; 4], arm_after: ArmAfter::Continuous, ..node_default() }
    }
}

#[derive(Debug)]
struct Times {
    thing: &'static str,
    under: String,
    /// One for each round.
    ns: Vec<f64>,
}

#[derive(Default)]
pub struct Costs {
    bystander: Vec<Times>,
    victim: Vec<Times>,
    failed: Vec<Peer>,
    pub could_not: Vec<String>,
}

impl Costs {
    pub fn round(&mut self, watchers: &[Watcher], other_cpu: Option<usize>) {
        for watcher in watchers {
            match *watcher {
                Watcher::Nothing => self.of_victim_alone(NOTHING, other_cpu, &mut Victim::unwatched()),
                Watcher::Guard(detector) => self.under_guard(detector, other_cpu),
                Watcher::Peer(peer) => self.under_peer(peer, other_cpu),
            }
        }
    }

    fn of_victim_alone(&mut self, under: &str, other_cpu: Option<usize>, victim: &mut Victim) {
        self.of_bystander(under, other_cpu);
        self.of_victim(under, victim);
    }

    fn under_guard(&mut self, detector: Detector, other_cpu: Option<usize>) {
        let guard = Guard::start_private(detector, &CORE.parse().unwrap()).unwrap();
        for arming in Arming::ALL {
            let mut victim = Victim::watched(&guard, &arming.policy());
            if arming == Arming::NotArmed {
                self.of_bystander(detector.name(), other_cpu);
            } else {
                victim.arm();
            }
            let under = format!("{}, {}", detector.name(), arming.name());
            match arming {
                Arming::Recorded => self.of_recorded_victim(&guard, &under, &mut victim),
                _ => self.of_victim(&under, &mut victim),
            }
            victim.end();
            guard.slots.close(slot());
        }
    }

    /// Somebody must take the records.
    fn of_recorded_victim(&mut self, guard: &Guard, under: &str, victim: &mut Victim) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let read = || guard.records().unwrap().drain_closely_until(|| over.load(Ordering::Acquire), drop);
            let reader = scope.spawn(read);
            self.of_victim(under, victim);
            over.store(true, Ordering::Release);
            reader.join().unwrap().unwrap();
        });
    }

    fn under_peer(&mut self, peer: Peer, other_cpu: Option<usize>) {
        if self.failed.contains(&peer) {
            return;
        }
        let mut victim = Victim::unwatched();
        match peer.attach(victim.pid()) {
            Ok(running) => {
                self.of_victim_alone(peer.name(), other_cpu, &mut victim);
                running.end();
            }
            Err(why) => {
                self.failed.push(peer);
                self.could_not.push(why);
            }
        }
    }

    fn of_bystander(&mut self, under: &str, other_cpu: Option<usize>) {
        for (thing, ns) in bystander::measure(other_cpu) {
            note(&mut self.bystander, thing, under, ns);
        }
    }

    fn of_victim(&mut self, under: &str, victim: &mut Victim) {
        for (thing, name) in THINGS {
            let pieces: Vec<f64> = (0..PIECES).map(|_| victim.ask(thing, PIECE).each_ns()).collect();
            note(&mut self.victim, name, under, percentile(&pieces, 25));
        }
    }

    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for (thing, under, with, without) in compared(&self.bystander) {
            let ratio = Spread::of_ratios(with, without);
            let line = Line::new(
                format!("bystander.{thing}.{under}"),
                format!("bystander's {thing}, {under}"),
                "ns",
            );
            let line =
                line.value("without", Spread::of(without)).value("with", Spread::of(with)).ratio(ratio);
            lines.push(match (thing, under) {
                ("system call", "Edge") => {
                    let [low, high] = ratio.quartiles;
                    line.budget("1.00 x, within half of the rounds", low <= 1.005 && 0.995 <= high)
                }
                _ => line,
            });
        }
        for (thing, under, with, without) in compared(&self.victim) {
            let per_second = |times: &[f64]| times.iter().map(|ns| 1e3 / ns).collect::<Vec<_>>();
            let (fast, slow) = (per_second(without), per_second(with));
            let line = Line::new(
                format!("victim.{thing}.{under}"),
                format!("watched thread's {thing}s, {under}"),
                "million/s",
            );
            let line = line.value("without", Spread::of(&fast)).value("with", Spread::of(&slow));
            lines.push(line.ratio(Spread::of_ratios(&slow, &fast)));
        }
        for (thing, under, with, without) in compared(&self.victim) {
            if under.ends_with(Arming::NotArmed.name()) && thing != "multiplication" {
                let added: Vec<f64> =
                    with.iter().zip(without).map(|(with, without)| with - without).collect();
                let what = format!("added to a {thing}, {under}");
                let line = Line::new(format!("not-armed.{thing}.{under}"), what, "ns");
                lines.push(line.value("added", Spread::of(&added)));
            }
        }
        lines
    }
}

fn note(all: &mut Vec<Times>, thing: &'static str, under: &str, ns: f64) {
    match all.iter_mut().find(|times| times.thing == thing && times.under == under) {
        Some(times) => times.ns.push(ns),
        None => all.push(Times { thing, under: under.to_owned(), ns: vec![ns] }),
    }
}

/// Each but `nothing`, with what was without it.
fn compared(all: &[Times]) -> impl Iterator<Item = (&'static str, &str, &[f64], &[f64])> {
    let (without, with): (Vec<_>, Vec<_>) = all.iter().partition(|times| times.under == NOTHING);
    without.into_iter().flat_map(move |without| {
        let of_it: Vec<_> = with.iter().copied().filter(|with| with.thing == without.thing).collect();
        of_it.into_iter().map(|with| (with.thing, with.under.as_str(), &with.ns[..], &without.ns[..]))
    })
}
