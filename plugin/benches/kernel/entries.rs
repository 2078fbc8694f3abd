//! What enters programs that others started and that do nothing: for `bench-quiet`, in the lab. The instrument is that of
//! `quietcore check --for`, a guard of its own beside whatever other guard there is, so that a core is looked at in the
//! same way whoever gave it. Runs on the CPU that keeps house.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use quietcore::{
    agent::housekeeping,
    arm::settle::{Clocks, Settler, Turn},
    check::measure::{
        causes::{Names, Tally},
        lost, rates,
    },
    cores::{
        affinity,
        set::{CpuId, CpuSet},
        topology::Topology,
    },
    guard::{
        abi::{qc_counts, qc_grant},
        detector::Detector,
        load::Guard,
        rules::rules,
        slots::Slot,
        support::Kernel,
    },
    policy::{
        accept::node_default,
        effective::{Action, ArmAfter, ArmAt, Effective},
    },
};
use serde_json::json;

/// What attaching, a pod's start and the kubelet's next look at it bring is over.
const CALMS_DOWN: Duration = Duration::from_secs(20);
const SETTLES_AFTER: Duration = Duration::from_millis(200);
/// In an emulator.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// A process that waits to be watched: the workload's day `still`, on one CPU.
struct Still {
    name: String,
    pid: Pid,
    cpu: CpuId,
    slot: Slot,
    is_armed: bool,
}

/// `names` are NAME:PID each, measured at the same time; writes FOLDER/NAME.json.
pub fn write(seconds: &str, folder: &Path, names: &[&str]) {
    let time = Duration::from_secs(seconds.parse().unwrap());
    housekeeping::without_huge_pages().unwrap();
    let mut all: Vec<Still> =
        names.iter().zip(Slot::all()).map(|(name, slot)| Still::find(name, slot)).collect();
    let cores = CpuSet::new(all.iter().map(|still| still.cpu).collect()).unwrap();
    let nohz_full = Topology::read(Path::new("/sys")).unwrap().nohz_full;
    let detector = Detector::choose(&Kernel::probe().unwrap(), &cores, nohz_full.as_ref());
    let guard = Guard::start_counting(detector, &cores).unwrap();
    all.iter().for_each(|still| still.begin(&guard));
    come_to_rest(&guard, &mut all);

    let records = guard.records().unwrap();
    let now = Clocks::now().monotonic;
    records.drain_until(|| now + CALMS_DOWN <= Clocks::now().monotonic, |_of_the_start| {}).unwrap();
    let mut functions = Names::of(Path::new("/"));
    let mut tallies: BTreeMap<u32, Tally> = BTreeMap::new();
    let counts = || all.iter().map(|still| guard.slots.counts(still.slot)).collect::<Vec<qc_counts>>();
    let before = counts();
    let begin = Clocks::now().monotonic;
    let during = begin..begin + time;
    let over = || during.end <= Clocks::now().monotonic;
    let note = |record: quietcore::guard::abi::qc_record| {
        tallies.entry(record.slot).or_default().note(&record, &during, &mut functions);
    };
    records.drain_until(over, note).unwrap();

    for ((still, before), after) in all.iter().zip(before).zip(counts()) {
        assert!(still.runs(), "{} was not there to the end", still.name);
        let tally = tallies.remove(&u32::from(still.slot.number())).unwrap_or_default();
        let measured = rates(still.cpu, time, &lost(&before, &after, &tally), tally);
        let result = json!({"detector": detector.name(), "measured": measured});
        let text = serde_json::to_string_pretty(&result).unwrap() + "\n";
        println!("{} {text}", still.name);
        std::fs::write(folder.join(format!("{}.json", still.name)), text).unwrap();
    }
}

impl Still {
    fn find(word: &str, slot: Slot) -> Still {
        let (name, pid) = word.split_once(':').unwrap();
        let pid = Pid::from_raw(pid.parse().unwrap());
        let cpus = affinity::of(pid).unwrap();
        assert_eq!(cpus.len(), 1, "{name} may run on CPUs {cpus}: who is not on one core is not armed");
        Still { name: name.to_owned(), pid, cpu: cpus.first(), slot, is_armed: false }
    }

    fn begin(&self, guard: &Guard) {
        // What comes is what is asked for: no class of entry keeps it from being armed.
        let rules = qc_grant { restless: [0; 4], ..rules(&policy(), &CpuSet::from(self.cpu)) };
        guard.slots.open(self.slot, rules);
        guard.watch(self.pid.as_raw(), self.slot).unwrap();
        kill(self.pid, Signal::SIGUSR2).unwrap();
    }

    fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('R'))
    }
}

/// Everything is recorded, nothing signalled.
fn policy() -> Effective {
    Effective {
        actions: [Action::Report; 4],
        arm_at: ArmAt::Settled,
        arm_after: ArmAfter::Continuous,
        settle_for: SETTLES_AFTER,
        ..node_default()
    }
}

/// Armed by stores from here, which enter no other CPU.
fn come_to_rest(guard: &Guard, all: &mut [Still]) {
    let settler = Settler::new(guard);
    let begin = Instant::now();
    let look = || {
        settler.poll(Clocks::now(), |sitter, turn| {
            let still = all.iter_mut().find(|still| still.slot == sitter.holder.0);
            still.unwrap().is_armed |= turn == Turn::Armed;
        });
        assert!(begin.elapsed() < SETTLES_WITHIN, "a spinner did not come to rest");
        all.iter().all(|still| still.is_armed)
    };
    guard.records().unwrap().drain_until(look, |_start_up| {}).unwrap();
}
