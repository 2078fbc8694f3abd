//! What the guard costs and how exact it is, on this machine's kernel and, started by `lab`, on a nohz_full one.
//! Whatever is compared is measured in alternated rounds of one run. `make bench` runs it in both places.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people, run by hand")]
#![expect(unreachable_pub, reason = "nobody else can reach anything here")]

#[path = "../../tests/guard/stand/mod.rs"]
mod stand;
mod line;
mod bystander;
mod victim;
mod peers;
mod cost;
mod exact;
mod reaction;
mod records;
mod quiet;
mod allocator;
#[path = "../../tests/optimum/traces.rs"]
mod traces;
mod settings;
mod shim;
mod entries;
mod side_by_side;
mod readme;

use std::{path::Path, process::ExitCode};

use cost::{Costs, Watcher};
use line::Line;
use peers::Peer;
use quietcore::guard::detector::Detector;
use serde::Serialize;
use stand::programs;

const CORE: &str = "1";

/// What is measured where.
struct Place {
    detectors: Vec<Detector>,
    peers: Vec<Peer>,
    rounds: usize,
    /// Where a bystander's second thread can run, to be interrupted.
    other_cpu: Option<usize>,
    /// Of each class.
    reactions: u64,
    /// Of the ring, and of the shim.
    rates: bool,
}

impl Place {
    fn here() -> Place {
        Place {
            detectors: vec![Detector::Tracepoint],
            peers: Peer::ALL.to_vec(),
            rounds: 11,
            other_cpu: Some(1),
            reactions: 2_000,
            rates: true,
        }
    }

    /// An emulator of a machine with several CPUs, on one: only the ratios mean something. It has none of the peers.
    fn lab() -> Place {
        Place {
            detectors: Detector::ALL.to_vec(),
            peers: Vec::new(),
            rounds: 7,
            other_cpu: None,
            reactions: 200,
            rates: false,
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    command: &'static str,
    kernel: &'a str,
    rounds: usize,
    peers: Vec<String>,
    not_measured: &'a [String],
    lines: &'a [Line],
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (place, file) = match words[..] {
        [] => (Place::here(), root.join("bench/kernel.json")),
        ["--lab", file] => (Place::lab(), file.into()),
        ["--lab-files"] => return print_lab_files(),
        ["--entries", seconds, folder, ref names @ ..] => {
            bystander::pin(0);
            entries::write(seconds, folder.as_ref(), names);
            return ExitCode::SUCCESS;
        }
        ["--side-by-side", ref folders @ ..] => {
            return side_by_side::write(&root.join("bench/quiet.json"), folders);
        }
        ["--readme"] => {
            readme::write(&root);
            return ExitCode::SUCCESS;
        }
        _ => panic!(
            "usage: kernel [--lab FILE | --lab-files | --entries SECONDS FOLDER NAME:PID.. | --side-by-side FOLDER.. | \
             --readme]"
        ),
    };
    bystander::pin(0);
    let (lines, could_not) = measure(&place);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let result = Report {
        command: "make bench",
        kernel: release.trim(),
        rounds: place.rounds,
        peers: place.peers.iter().map(|peer| peer.version().unwrap_or_else(|why| why)).collect(),
        not_measured: &could_not,
        lines: &lines,
    };
    std::fs::write(file, serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
    could_not.iter().for_each(|why| println!("not measured: {why}"));
    ExitCode::from(u8::from(lines.iter().any(Line::failed)))
}

fn measure(place: &Place) -> (Vec<Line>, Vec<String>) {
    let detectors = place.detectors.iter().map(|detector| Watcher::Guard(*detector));
    let peers = place.peers.iter().map(|peer| Watcher::Peer(*peer));
    let watchers: Vec<Watcher> = [Watcher::Nothing].into_iter().chain(detectors).chain(peers).collect();
    let mut costs = Costs::default();
    (0..place.rounds).for_each(|_| costs.round(&watchers, place.other_cpu));
    let mut could_not = costs.could_not.clone();
    let mut lines = told(costs.lines());
    // The first is the one that this place is for.
    let detector = place.detectors[0];
    lines.extend(told(exact::lines(detector)));
    lines.extend(told(vec![records::losses(detector)]));
    for peer in &place.peers {
        match exact::of_peer(*peer) {
            Ok(line) => lines.extend(told(vec![line])),
            Err(why) if could_not.contains(&why) => (),
            Err(why) => could_not.push(why),
        }
    }
    lines.extend(told(reaction::lines(&place.detectors, place.reactions)));
    if place.rates {
        lines.extend(told(records::rates(detector)));
        lines.extend(told(shim::lines()));
        lines.extend(told(settings::lines()));
        lines.extend(told(vec![allocator::line()]));
    }
    if detector == Detector::Edge {
        lines.extend(told(vec![quiet::line(detector)]));
    }
    (lines, could_not)
}

fn told(lines: Vec<Line>) -> Vec<Line> {
    lines.iter().for_each(|line| println!("{}", line.text()));
    lines
}

/// Arguments of `lab`, where neither a compiler nor cargo is.
fn print_lab_files() -> ExitCode {
    let own = std::env::current_exe().unwrap();
    println!("--file {}:/lab/kernel", own.display());
    for program in [programs::entries(), victim::program()] {
        println!("--file {program}:{program}");
    }
    ExitCode::SUCCESS
}
