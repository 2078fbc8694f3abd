//! What a process pays that is not watched, on a housekeeping CPU: the bench itself.

use std::{
    hint::{black_box, spin_loop},
    io::{PipeReader, PipeWriter, Read as _, Write as _, pipe},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use memmap2::{Advice, MmapMut};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, getppid},
};

/// Of each, in a round: the fastest of so many pieces that are this long. What else runs on this CPU only adds.
const PIECES: usize = 40;
const PIECE: Duration = Duration::from_millis(1);
const PAGE: usize = 4096;
const N_PAGES: usize = 256;

/// Nanoseconds for each of the four, by name.
pub fn measure(other_cpu: Option<usize>) -> Vec<(&'static str, f64)> {
    let mut measured = vec![
        ("system call", fastest(calls)),
        ("page fault", fastest(faults)),
        ("context switch", context_switch()),
    ];
    measured.extend(other_cpu.map(|cpu| ("IPI", interrupt(cpu))));
    measured
}

pub fn pin(cpu: usize) {
    let mut mask = CpuSet::new();
    mask.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &mask).unwrap();
}

fn fastest(mut piece: impl FnMut() -> f64) -> f64 {
    (0..PIECES).map(|_| piece()).fold(f64::INFINITY, f64::min)
}

/// For about as long as a piece.
fn each_ns(n_a_turn: u32, mut turn: impl FnMut()) -> f64 {
    let (start, mut n) = (Instant::now(), 0);
    while start.elapsed() < PIECE {
        turn();
        n += n_a_turn;
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(n)
}

fn calls() -> f64 {
    each_ns(256, || {
        for _ in 0..256 {
            black_box(getppid());
        }
    })
}

/// Only the touches are timed.
fn faults() -> f64 {
    let (mut time, mut n) = (Duration::ZERO, 0);
    while time < PIECE {
        let mut pages = MmapMut::map_anon(N_PAGES * PAGE).unwrap();
        pages.advise(Advice::NoHugePage).unwrap();
        let start = Instant::now();
        (0..N_PAGES).for_each(|page| pages[page * PAGE] = 1);
        time += start.elapsed();
        n += N_PAGES;
        black_box(&pages);
    }
    time.as_secs_f64() * 1e9 / n as f64
}

/// Two threads hand a byte to and fro on one CPU: two switches, and a read and a write on each side.
fn context_switch() -> f64 {
    let (mut their_end, mut to_them): (PipeReader, PipeWriter) = pipe().unwrap();
    let (mut from_them, mut our_end) = pipe().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut byte = [0];
            while their_end.read_exact(&mut byte).is_ok() {
                our_end.write_all(&byte).unwrap();
            }
        });
        let mut byte = [0];
        let mut turn = || {
            to_them.write_all(&byte).unwrap();
            from_them.read_exact(&mut byte).unwrap();
        };
        let ns = fastest(|| each_ns(1, &mut turn));
        drop(to_them);
        ns
    })
}

/// A page is mapped, touched and unmapped, which interrupts the other CPU, where a thread of ours runs.
fn interrupt(cpu: usize) -> f64 {
    let (there, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(cpu);
            there.store(true, Ordering::Release);
            while !over.load(Ordering::Acquire) {
                spin_loop();
            }
        });
        while !there.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let turn = || {
            let mut page = MmapMut::map_anon(PAGE).unwrap();
            page[0] = 1;
        };
        let ns = fastest(|| each_ns(1, turn));
        over.store(true, Ordering::Release);
        ns
    })
}
