//! The cores that are measured, each with its spinner and its slot, and the waiting for them to come to rest.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    MeasureError,
    spinner::{Spinner, SpinnerError},
};
use crate::{
    arm::settle::{Clocks, Settler, Turn},
    cores::set::{CpuId, CpuSet},
    guard::{abi::qc_record, load::Guard, ring::RecordReader, rules::rules, slots::Slot},
    policy::{
        accept::node_default,
        effective::{Action, ArmAfter, ArmAt, Effective},
    },
};

/// Without a system call of its own.
const SETTLES_AFTER: Duration = Duration::from_millis(200);
/// An emulated machine takes seconds for three execs.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const SAYS_EVERY: Duration = Duration::from_secs(1);
/// A shorter wait needs no word.
const SAYS_NOTHING_FOR: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Bench {
    pub(super) cpu: CpuId,
    pub(super) slot: Slot,
    spinner: Spinner,
    armed: bool,
}

/// Everything is recorded and nothing signalled; no class breaks the quiet that the spinner is armed after, because
/// what comes is what is asked for.
fn policy() -> Effective {
    Effective {
        actions: [Action::Report; 4],
        arm_at: ArmAt::Settled,
        arm_after: ArmAfter::Continuous,
        settle_for: SETTLES_AFTER,
        ..node_default()
    }
}

impl Bench {
    pub(super) fn set_up(guard: &Guard, cpu: CpuId, slot: Slot) -> Result<Bench, MeasureError> {
        let spinner = Spinner::start(cpu)?;
        guard.slots.open(
            slot,
            crate::guard::abi::qc_grant { restless: [0; 4], ..rules(&policy(), &CpuSet::from(cpu)) },
        );
        guard.watch(spinner.pid().as_raw(), slot)?;
        spinner.go()?;
        Ok(Bench { cpu, slot, spinner, armed: false })
    }

    pub(super) fn still_spins(&mut self) -> Result<(), SpinnerError> {
        self.spinner.still_spins()
    }
}

/// From then on each entry of each spinner makes a record. They are armed by stores from here: no entry.
pub(super) fn come_to_rest(
    guard: &Guard,
    records: &RecordReader,
    benches: &mut [Bench],
) -> Result<(), MeasureError> {
    let settler = Settler::new(guard);
    let begin = Instant::now();
    let mut failed = None;
    let look = || {
        let result = look(&settler, benches, begin);
        let done = !matches!(result, Ok(false));
        failed = result.err();
        done
    };
    records.drain_until(look, |_start_up| {})?;
    failed.map_or(Ok(()), Err)
}

/// Are all of them armed?
fn look(settler: &Settler<'_>, benches: &mut [Bench], begin: Instant) -> Result<bool, MeasureError> {
    let mut all_spin = true;
    for bench in &mut *benches {
        all_spin &= bench.spinner.spins()?;
    }
    if all_spin {
        settler.poll(Clocks::now(), |sitter, turn| {
            let bench = benches.iter_mut().find(|bench| bench.slot == sitter.holder.0);
            if let (Some(bench), Turn::Armed) = (bench, turn) {
                bench.armed = true;
            }
        });
    }
    match benches.iter().find(|bench| !bench.armed) {
        None => Ok(true),
        Some(late) if STARTS_WITHIN <= begin.elapsed() => {
            Err(MeasureError::NotSettled { cpu: late.cpu.number() })
        }
        Some(_) => Ok(false),
    }
}

/// Until `end`, CLOCK_MONOTONIC.
pub(super) fn watch_until(
    records: &RecordReader,
    end: Duration,
    handle: impl FnMut(qc_record),
) -> Result<(), MeasureError> {
    let mut progress = Progress::until(end);
    let over = || {
        let now = Clocks::now().monotonic;
        progress.say(now);
        end <= now
    };
    records.drain_until(over, handle)?;
    Ok(())
}

/// One line on a terminal, written over again.
struct Progress {
    end: Duration,
    next: Option<Duration>,
}

impl Progress {
    fn until(end: Duration) -> Progress {
        let now = Clocks::now().monotonic;
        let is_long = SAYS_NOTHING_FOR < end.saturating_sub(now);
        Progress { end, next: (is_long && io::stderr().is_terminal()).then_some(now) }
    }

    fn say(&mut self, now: Duration) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        let left = self.end.saturating_sub(now);
        let line = match left.is_zero() {
            true => "\r\x1b[K".to_owned(),
            false => format!("\rmeasuring, {} s left \x1b[K", left.as_secs() + 1),
        };
        // Nobody is left to tell when stderr is closed.
        let _ = io::stderr().write_all(line.as_bytes());
        self.next = (!left.is_zero()).then_some((now + SAYS_EVERY).min(self.end));
    }
}
