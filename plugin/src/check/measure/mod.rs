//! `quietcore check --for TIME`: what enters a quiet core while a program there does nothing. The engine is that of
//! `exec`: a guard of its own, attached for this and gone afterwards, which only counts. No setting of the machine is
//! changed.
//!
//! ```text
//!  candidates ─► left out (granted, in use) ─► a spinner on each of the others ─ watched, armed from outside
//!                                                  └ records ─► causes (pure) ─► entries a minute
//! ```

mod bench;
pub mod candidates;
pub mod causes;
pub mod spinner;

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde::Serialize;

use bench::Bench;
use causes::{Counted, Names, Tally, Trace};
use spinner::SpinnerError;

use crate::{
    agent::housekeeping::{self, HousekeepingError},
    arm::settle::Clocks,
    cores::set::{CpuId, CpuSet},
    exec::privileges::{self, Unprivileged},
    guard::{
        abi::qc_counts,
        detector::Detector,
        load::{Guard, GuardError},
        slots::Slot,
        support::{Kernel, SupportError},
    },
    policy::effective::Class,
};

/// What the guard's attaching and the spinners' start leave to be cleaned up by the kernel.
const CALMS_DOWN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error(transparent)]
    Unprivileged(#[from] Unprivileged),
    #[error(transparent)]
    Housekeeping(#[from] HousekeepingError),
    #[error(transparent)]
    Kernel(#[from] SupportError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Spinner(#[from] SpinnerError),
    #[error("the spinner of CPU {cpu} did not come to rest")]
    NotSettled { cpu: u32 },
}

/// What one core's spinner was entered by.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    pub cpu: u32,
    pub seconds: f64,
    pub entries_per_minute: BTreeMap<&'static str, f64>,
    /// The most frequent first.
    pub causes: Vec<CauseRate>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CauseRate {
    pub cause: String,
    pub class: &'static str,
    pub per_minute: f64,
    /// `None`: nobody knows, because records were lost.
    #[serde(skip)]
    pub trace: Option<Trace>,
}

pub fn measure(
    cores: &CpuSet,
    nohz_full: Option<&CpuSet>,
    time: Duration,
) -> Result<Vec<Measured>, MeasureError> {
    privileges::check()?;
    housekeeping::stay_off(cores)?;
    housekeeping::without_huge_pages()?;
    let guard = Guard::start_counting(Detector::choose(&Kernel::probe()?, cores, nohz_full), cores)?;
    let records = guard.records()?;
    let mut benches = Vec::new();
    for (cpu, slot) in cores.iter().zip(Slot::all()) {
        benches.push(Bench::set_up(&guard, cpu, slot)?);
    }
    bench::come_to_rest(&guard, &records, &mut benches)?;
    bench::watch_until(&records, Clocks::now().monotonic + CALMS_DOWN, |_still_of_the_start| {})?;

    let mut names = Names::of(Path::new("/"));
    let mut tallies: BTreeMap<u32, Tally> = BTreeMap::new();
    let before: Vec<qc_counts> = benches.iter().map(|bench| guard.slots.counts(bench.slot)).collect();
    let begin = Clocks::now().monotonic;
    let during = begin..begin + time;
    bench::watch_until(&records, during.end, |record| {
        tallies.entry(record.slot).or_default().note(&record, &during, &mut names);
    })?;
    let after: Vec<qc_counts> = benches.iter().map(|bench| guard.slots.counts(bench.slot)).collect();

    let mut measured = Vec::new();
    for ((bench, before), after) in benches.iter_mut().zip(before).zip(after) {
        bench.still_spins()?;
        let tally = tallies.remove(&u32::from(bench.slot.number())).unwrap_or_default();
        measured.push(rates(bench.cpu, time, &lost(&before, &after, &tally), tally));
    }
    Ok(measured)
}

/// Entries that were counted and have no record, because the ring had no room: by class.
pub fn lost(before: &qc_counts, after: &qc_counts, tally: &Tally) -> [u64; 4] {
    if after.lost == before.lost {
        // What differs then are entries at the very begin and end.
        return [0; 4];
    }
    Class::ALL.map(|class| {
        let counted = after.entries[class.index()].saturating_sub(before.entries[class.index()]);
        counted.saturating_sub(tally.of_class(class))
    })
}

pub fn rates(cpu: CpuId, time: Duration, lost: &[u64; 4], tally: Tally) -> Measured {
    let per_minute = |count: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a rate: no counter comes near 2^52 in a run")]
        let count = count as f64;
        // To a tenth: more digits would be noise.
        (count * 600.0 / time.as_secs_f64()).round() / 10.0
    };
    let of_class = |class: Class| (class.name(), per_minute(tally.of_class(class) + lost[class.index()]));
    let entries_per_minute = Class::ALL.map(of_class).into();
    let told = tally.causes().into_iter().map(|Counted { class, words, trace, count }| CauseRate {
        cause: words,
        class: class.name(),
        per_minute: per_minute(count),
        trace: Some(trace),
    });
    let untold = Class::ALL.into_iter().filter(|class| lost[class.index()] != 0).map(|class| CauseRate {
        cause: "not told: more came than the ring of records takes".to_owned(),
        class: class.name(),
        per_minute: per_minute(lost[class.index()]),
        trace: None,
    });
    let causes = told.chain(untold).collect();
    Measured { cpu: cpu.number(), seconds: time.as_secs_f64(), entries_per_minute, causes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_were_lost_are_counted_as_entries_that_nobody_told() {
        let counts =
            |interrupts, lost| qc_counts { entries: [0, 0, interrupts, 0], lost, ..qc_counts::default() };
        let lost_of = |after| lost(&counts(10, 0), &after, &Tally::default());
        assert_eq!(lost_of(counts(60, 50)), [0, 0, 50, 0]);
        // Its record came before the time, or after.
        assert_eq!(lost_of(counts(11, 0)), [0; 4]);
        let core = rates(CpuId::new(1).unwrap(), Duration::from_secs(10), &[0, 0, 50, 0], Tally::default());
        assert_eq!((core.entries_per_minute["interrupt"], core.entries_per_minute["syscall"]), (300.0, 0.0));
        assert_eq!((core.causes[0].per_minute, core.causes.len()), (300.0, 1));
    }
}
