//! Which setting would have kept an entry away. Pure.
//!
//! Several may be behind the same entry. It is put down to the first of them that is not as it should be, and to the
//! first of all where each is.

use super::{
    facts::{
        interrupts::{DEVICES, MANAGED, PACKETS},
        kernel_work::{
            CLOCKSOURCE, MACHINE_CHECK_POLL, NMI_WATCHDOG, RCU, STAT_INTERVAL, TIMER_MIGRATION, WATCHDOG,
            WORKQUEUES,
        },
        memory::{COMPACTION, HUGE_PAGES, KSM, NUMA_BALANCING},
        quota::QUOTA,
        scheduler::{FAIR_SERVER, ISOLATED, NOHZ_FULL, RT_THROTTLING},
    },
    finding::{Finding, Item, State},
    measure::{
        Measured,
        causes::{Came, Trace},
    },
};
use crate::violation::{blame::TickDependency, describe::TICKS, happening::Cause};

/// Every item that an entry can be put down to.
const ALL: [&Item; 20] = [
    &NOHZ_FULL,
    &ISOLATED,
    &FAIR_SERVER,
    &RT_THROTTLING,
    &QUOTA,
    &RCU,
    &WORKQUEUES,
    &TIMER_MIGRATION,
    &WATCHDOG,
    &NMI_WATCHDOG,
    &MACHINE_CHECK_POLL,
    &CLOCKSOURCE,
    &STAT_INTERVAL,
    &MANAGED,
    &DEVICES,
    &PACKETS,
    &HUGE_PAGES,
    &COMPACTION,
    &KSM,
    &NUMA_BALANCING,
];

/// Each finding gets what it lets into the core that has most of it.
pub(super) fn put_down(measured: &[Measured], findings: &mut [Finding]) {
    if measured.is_empty() {
        return;
    }
    // What nobody told may be anything's.
    let is_whole = measured.iter().all(|core| core.causes.iter().all(|cause| cause.trace.is_some()));
    for finding in &mut *findings {
        if is_whole && ALL.iter().any(|item| item.name == finding.item) {
            finding.entries_per_minute = Some(0.0);
        }
    }
    for core in measured {
        let mut of_core = vec![0.0; findings.len()];
        for cause in &core.causes {
            let Some(trace) = &cause.trace else { continue };
            if let Some(idx) = culprit(&behind(trace), findings) {
                of_core[idx] += cause.per_minute;
            }
        }
        for (finding, rate) in findings.iter_mut().zip(of_core) {
            finding.entries_per_minute = match finding.entries_per_minute {
                Some(most) => Some(most.max(rate)),
                None => (0.0 < rate).then_some(rate),
            };
        }
    }
}

fn culprit(behind: &[&Item], findings: &[Finding]) -> Option<usize> {
    let idx_of = |item: &&Item| findings.iter().position(|finding| finding.item == item.name);
    let known: Vec<usize> = behind.iter().filter_map(idx_of).collect();
    let is_bad = |idx: &&usize| matches!(findings[**idx].state, State::Missing | State::Unknown);
    known.iter().find(is_bad).or(known.first()).copied()
}

/// The likeliest first.
fn behind(trace: &Trace) -> Vec<&'static Item> {
    match &trace.cause {
        Cause::Tick => behind_timer(trace),
        Cause::DeviceIrq { .. } => vec![&MANAGED, &DEVICES],
        Cause::Nmi => vec![&NMI_WATCHDOG],
        Cause::PageFault { .. } => vec![&NUMA_BALANCING, &HUGE_PAGES, &KSM, &COMPACTION],
        Cause::Reschedule | Cause::CallFunction | Cause::IrqWork | Cause::Switch { .. } => {
            match (trace.function.as_deref(), &trace.came) {
                (Some(function), _) if !behind_function(function).is_empty() => behind_function(function),
                (_, Some(came)) => behind_task(came),
                // The server's timer makes the core look for another task.
                (_, None) if trace.cause == Cause::Reschedule => vec![&FAIR_SERVER],
                (_, None) => Vec::new(),
            }
        }
        Cause::Syscall { .. } | Cause::Vector(_) | Cause::Trap { .. } | Cause::MachineCheck => Vec::new(),
    }
}

fn behind_timer(trace: &Trace) -> Vec<&'static Item> {
    let others = || trace.timers.iter().filter(|name| !TICKS.contains(&name.as_str()));
    let is_tick = trace.timers.is_empty() || others().count() < trace.timers.len();
    match (is_tick, trace.tick) {
        // It would have come whatever it also served.
        (true, None) => return vec![&NOHZ_FULL],
        (true, Some(dependency)) if !behind_dependency(dependency).is_empty() => {
            return behind_dependency(dependency);
        }
        _ => {}
    }
    let timers: Vec<_> = others().flat_map(|timer| behind_function(timer)).collect();
    match (&trace.came, timers.is_empty()) {
        (Some(came), true) => behind_task(came),
        // Whose it is nobody told: somebody set it here.
        (None, true) => vec![&TIMER_MIGRATION, &ISOLATED],
        (_, false) => timers,
    }
}

/// include/linux/tick.h, enum tick_dep_bits.
fn behind_dependency(TickDependency(bits): TickDependency) -> Vec<&'static Item> {
    let by_bit: [(u32, &[&'static Item]); 4] =
        [(1, &[&NMI_WATCHDOG]), (2, &[&FAIR_SERVER, &QUOTA, &ISOLATED]), (3, &[&CLOCKSOURCE]), (4, &[&RCU])];
    by_bit
        .into_iter()
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .flat_map(|(_, items)| items.iter().copied())
        .collect()
}

/// Of a timer, of an IPI, or of a worker.
fn behind_function(name: &str) -> Vec<&'static Item> {
    match name.split(' ').next().unwrap_or_default() {
        "nohz_full_kick_func" => vec![&FAIR_SERVER, &QUOTA, &ISOLATED],
        "dl_task_timer" => vec![&FAIR_SERVER],
        "sched_cfs_period_timer" | "sched_cfs_slack_timer" => vec![&QUOTA],
        "sched_rt_period_timer" => vec![&RT_THROTTLING],
        "watchdog_timer_fn" | "softlockup_fn" => vec![&WATCHDOG],
        "mce_timer_fn" | "mce_work_fn" | "mce_gen_pool_process" => vec![&MACHINE_CHECK_POLL],
        "clocksource_watchdog" | "clocksource_verify_one_cpu" => vec![&CLOCKSOURCE],
        "rps_trigger_softirq" | "trigger_rx_softirq" => vec![&PACKETS],
        "vmstat_update" | "vmstat_shepherd" => vec![&STAT_INTERVAL],
        "lru_add_drain_per_cpu" => vec![&HUGE_PAGES, &COMPACTION, &KSM],
        "drain_local_pages_wq" => vec![&COMPACTION, &HUGE_PAGES],
        _ => Vec::new(),
    }
}

fn behind_task(came: &Came) -> Vec<&'static Item> {
    if !came.is_kernels {
        return vec![&ISOLATED];
    }
    let by_function = came.function.as_deref().map(behind_function).unwrap_or_default();
    if !by_function.is_empty() {
        return by_function;
    }
    let begins = |name| came.comm.starts_with(name);
    match () {
        () if begins("kworker") => vec![&WORKQUEUES],
        // It runs what the watchdog's timer asks it to, and stop_machine().
        () if begins("migration/") => vec![&WATCHDOG],
        () if begins("ksoftirqd/") => vec![&DEVICES, &PACKETS, &RCU],
        () if begins("rcu") => vec![&RCU],
        () if begins("khugepaged") => vec![&HUGE_PAGES],
        () if begins("kcompactd") => vec![&COMPACTION],
        () if begins("ksmd") => vec![&KSM],
        () => vec![&ISOLATED],
    }
}

#[cfg(test)]
#[path = "blame_tests.rs"]
mod tests;
