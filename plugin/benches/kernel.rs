//! What the shim and the guard cost on this machine's kernel, each against the same thing without them, in
//! alternated rounds of one run. Writes bench/kernel.json; `make bench` shows it.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people, run by hand")]

#[path = "../tests/guard/stand/mod.rs"]
mod stand;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, getppid},
};
use quietcore::policy::effective::Action;
use stand::{Stand, enforce};

const ROUNDS: usize = 15;
const CALLS: u32 = 200_000;
const EXECS: usize = 100;

fn main() {
    pin_to_housekeeping();
    let (without, with) = syscall_rounds();
    let (plain, shimmed) = exec_rounds();
    let shim_bytes = shim_bytes();
    let result = serde_json::json!({
        "command": "make bench",
        "bystander_syscall_ns": {"without": without, "tracepoint": with, "ratio": with / without},
        "exec_us": {"plain": plain, "with_shim": shimmed, "added": shimmed - plain},
        "shim_bytes": shim_bytes,
    });
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/kernel.json");
    std::fs::write(file, serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
    println!("bystander's system call      {without:.0} ns -> {with:.0} ns ({:.2} x)", with / without);
    println!(
        "exec of a static program     {plain:.0} us -> {shimmed:.0} us through the shim (+{:.0} us)",
        shimmed - plain
    );
    println!("shim                         {shim_bytes} bytes (budget 65536)");
}

fn pin_to_housekeeping() {
    let mut mask = CpuSet::new();
    mask.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &mask).unwrap();
}

/// Attached and not, in turn: the machine's mood is the same for both.
fn syscall_rounds() -> (f64, f64) {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(syscall_ns());
        let stand = Stand::of_an_agent();
        with.push(syscall_ns());
        drop(stand);
    }
    (median(without), median(with))
}

fn syscall_ns() -> f64 {
    let started = Instant::now();
    for _ in 0..CALLS {
        std::hint::black_box(getppid());
    }
    nanoseconds(started.elapsed()) / f64::from(CALLS)
}

fn exec_rounds() -> (f64, f64) {
    let stand = Stand::new();
    let policy = enforce([Action::Count; 4]);
    let (mut plain, mut shimmed) = (Vec::new(), Vec::new());
    for _ in 0..EXECS {
        plain.push(stand.time_to_exec(&policy, false));
        shimmed.push(stand.time_to_exec(&policy, true));
    }
    let microseconds =
        |times: Vec<Duration>| median(times.into_iter().map(|time| nanoseconds(time) / 1000.0).collect());
    (microseconds(plain), microseconds(shimmed))
}

fn shim_bytes() -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let shim = quietcore::agent::shim_file::install(folder.path()).unwrap();
    std::fs::metadata(shim).unwrap().len()
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
