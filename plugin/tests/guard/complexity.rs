//! How much work the verifier has with each program: it grows long before a program is refused on somebody else's
//! kernel. The numbers of the last accepted state are in `bpf/complexity/`, by detector.

use std::{collections::BTreeMap, time::Duration};

use libbpf_rs::query::ProgInfoIter;
use quietcore::guard::detector::Detector;
use rustix::time::{ClockId, clock_gettime};

use crate::stand::Stand;

/// Kernels differ a little in how they verify.
const ALLOWED_PERCENT: u32 = 20;
const EDGE: &str = include_str!("../../bpf/complexity/edge.txt");
const TRACEPOINT: &str = include_str!("../../bpf/complexity/tracepoint.txt");

/// By the first 15 characters of its name, which is all that the kernel keeps; of several the largest.
fn verified_since(start: Duration) -> BTreeMap<String, u32> {
    let mut verified = BTreeMap::new();
    for program in ProgInfoIter::default() {
        let name = program.name.to_string_lossy().into_owned();
        if name.starts_with("qc_") && start <= program.load_time {
            let largest = verified.entry(name).or_insert(0);
            *largest = program.verified_insns.max(*largest);
        }
    }
    verified
}

fn tracked(lines: &str) -> BTreeMap<String, u32> {
    let line = |line: &str| {
        let (name, instructions) = line.split_once(' ').unwrap();
        (name.to_owned(), instructions.trim().parse().unwrap())
    };
    lines.lines().map(line).collect()
}

#[test]
fn no_program_has_become_a_fifth_harder_to_verify() {
    let start = clock_gettime(ClockId::Boottime);
    let start = Duration::new(start.tv_sec.try_into().unwrap(), start.tv_nsec.try_into().unwrap());
    let stand = Stand::beside_an_agent();
    let (file, lines) = match stand.guard().detector {
        Detector::Edge => ("edge.txt", EDGE),
        Detector::Tracepoint => ("tracepoint.txt", TRACEPOINT),
    };
    let (before, now) = (tracked(lines), verified_since(start));
    let too_hard = now.iter().filter(|(name, instructions)| {
        before.get(*name).is_none_or(|tracked| tracked * (100 + ALLOWED_PERCENT) / 100 < **instructions)
    });
    let too_hard: Vec<_> = too_hard.collect();
    let table: String = now.iter().map(|(name, instructions)| format!("{name} {instructions}\n")).collect();
    assert!(
        too_hard.is_empty(),
        "{too_hard:?}; if that is right, plugin/bpf/complexity/{file} becomes\n{table}"
    );
}
