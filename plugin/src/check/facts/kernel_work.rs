//! The kernel's own work that can be kept off a core: RCU callbacks, workqueues, timers, watchdogs, polls.

use super::{
    Asked,
    processes::Processes,
    tree::{Said, Tree},
};
use crate::{
    check::finding::{Finding, Group, Item, State},
    cores::set::CpuSet,
};

/// The masks of unbound workqueues, and of those that have one of their own.
pub const WORKQUEUE_MASKS: [&str; 3] = [
    "sys/devices/virtual/workqueue/cpumask",
    "sys/devices/virtual/workqueue/writeback/cpumask",
    "sys/devices/virtual/workqueue/blkcg_punt_bio/cpumask",
];
pub const TIMER_MIGRATION_FILE: &str = "proc/sys/kernel/timer_migration";
pub const WATCHDOG_FILE: &str = "proc/sys/kernel/watchdog";
pub const WATCHDOG_MASK: &str = "proc/sys/kernel/watchdog_cpumask";
pub const NMI_WATCHDOG_FILE: &str = "proc/sys/kernel/nmi_watchdog";
pub const STAT_INTERVAL_FILE: &str = "proc/sys/vm/stat_interval";
/// machinecheckN/check_interval below it; one variable of the kernel's, whichever file is written.
pub const MACHINE_CHECKS: &str = "sys/devices/system/machinecheck";
pub const CLOCKSOURCE_FILE: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";

pub const RCU: Item = Item {
    group: Group::Scheduler,
    name: "RCU callbacks",
    why: "elsewhere the core itself frees what RCU kept, in a softirq or a kernel thread",
};
pub const WORKQUEUES: Item = Item {
    group: Group::Scheduler,
    name: "workqueues",
    why: "the kernel's workers come on to a core that their mask holds; work bound to a CPU comes there in any case",
};
pub const TIMER_MIGRATION: Item = Item {
    group: Group::Interrupts,
    name: "timer migration",
    why: "without it a timer that was set on a core fires there, however quiet the core is by then",
};
pub const WATCHDOG: Item = Item {
    group: Group::Interrupts,
    name: "soft lockup watchdog",
    why: "its timer enters each core of its mask every four seconds, and a kernel thread comes on",
};
pub const NMI_WATCHDOG: Item = Item {
    group: Group::Interrupts,
    name: "NMI watchdog",
    why: "it counts cycles by a performance counter, whose NMI enters the core every ten seconds or so of work",
};
pub const MACHINE_CHECK_POLL: Item = Item {
    group: Group::Interrupts,
    name: "poll for machine checks",
    why: "its timer fires on every core, at least every five minutes, and where ticks stop far more often",
};
pub const CLOCKSOURCE: Item = Item {
    group: Group::Interrupts,
    name: "clock source",
    why: "a clock that user mode cannot read makes clock_gettime a system call, and an unstable one keeps the tick",
};
pub const STAT_INTERVAL: Item = Item {
    group: Group::Memory,
    name: "vm.stat_interval",
    why: "a worker that folds a CPU's memory counters comes on that often (since Linux 6.5 not on isolated CPUs)",
};

#[derive(Debug)]
pub struct Facts {
    /// CPUs whose callbacks kernel threads of their own take.
    pub offloaded: Option<CpuSet>,
    /// Of those threads, who may run on the cores.
    pub rcu_threads_here: Vec<String>,
    /// By file.
    pub workqueues: Vec<(&'static str, Option<CpuSet>)>,
    pub timer_migration: Said,
    pub watchdog: Said,
    pub watchdog_cpus: Option<CpuSet>,
    pub nmi_watchdog: Said,
    pub check_interval: Said,
    pub clocksource: Said,
    pub stat_interval: Said,
    /// By the boot, or by a partition.
    pub isolated: Option<CpuSet>,
}

pub fn read(tree: &Tree, processes: &Processes, cores: &CpuSet) -> Facts {
    // rcuop/3, rcuos/3: CPU 3's; rcuog/2: of a group of CPUs.
    let of_cpu =
        |comm: &str| comm.strip_prefix("rcuop/").or(comm.strip_prefix("rcuos/"))?.parse::<CpuSet>().ok();
    let offloaded = processes.named("rcuo").filter_map(|process| of_cpu(&process.comm));
    let is_here = |allowed: &Option<CpuSet>| allowed.as_ref().is_some_and(|cpus| cpus.overlaps(cores));
    let here = processes.named("rcuo").filter(|process| is_here(&process.allowed));
    Facts {
        offloaded: CpuSet::new(offloaded.flat_map(|cpus| cpus.iter().collect::<Vec<_>>()).collect()),
        rcu_threads_here: here.map(|process| process.comm.clone()).collect(),
        workqueues: WORKQUEUE_MASKS
            .into_iter()
            .filter(|path| tree.exists(path))
            .map(|path| (path, tree.mask(path)))
            .collect(),
        timer_migration: tree.said(TIMER_MIGRATION_FILE),
        watchdog: tree.said(WATCHDOG_FILE),
        watchdog_cpus: tree.set(WATCHDOG_MASK),
        nmi_watchdog: tree.said(NMI_WATCHDOG_FILE),
        check_interval: tree.said(&format!("{MACHINE_CHECKS}/machinecheck0/check_interval")),
        clocksource: tree.said(CLOCKSOURCE_FILE),
        stat_interval: tree.said(STAT_INTERVAL_FILE),
        isolated: super::scheduler::isolated(tree),
    }
}

pub fn judge(facts: &Facts, asked: &Asked) -> Vec<Finding> {
    vec![
        rcu(facts, asked),
        workqueues(facts, asked),
        timer_migration(facts),
        watchdog(facts, asked),
        nmi_watchdog(facts, asked),
        machine_check_poll(facts),
        clocksource(facts),
        stat_interval(facts, asked),
    ]
}

fn rcu(facts: &Facts, asked: &Asked) -> Finding {
    let (cores, others) = (&asked.cores, asked.others());
    let boot = format!("boot with rcu_nocbs={cores} (nohz_full={cores} does it too)");
    match (asked.outside(facts.offloaded.as_ref()), facts.rcu_threads_here.is_empty()) {
        (Some(outside), _) => RCU.is(State::Missing, format!("not offloaded: CPU {outside}"), boot),
        (None, false) => RCU.is(
            State::Missing,
            format!("offloaded, to threads that may run here: {}", super::few(&facts.rcu_threads_here)),
            format!("for t in $(pgrep rcuo); do taskset -pc {others} $t; done"),
        ),
        (None, true) => RCU.is(State::Good, "offloaded", boot),
    }
}

fn workqueues(facts: &Facts, asked: &Asked) -> Finding {
    let mask = asked.housekeeping.as_ref().map(super::tree::mask_text).unwrap_or_default();
    let here: Vec<&str> = facts
        .workqueues
        .iter()
        .filter(|(_, cpus)| cpus.as_ref().is_some_and(|cpus| cpus.overlaps(&asked.cores)))
        .map(|(path, _)| *path)
        .collect();
    let echo = |path: &&str| format!("echo {mask} > /{path}");
    let remedy = here.iter().map(echo).collect::<Vec<_>>().join("; ");
    let name = |path: &&str| path.trim_start_matches("sys/devices/virtual/workqueue/").to_owned();
    match (facts.workqueues.is_empty(), here.is_empty()) {
        (true, _) => WORKQUEUES.not_here("this kernel shows no masks"),
        (_, true) => WORKQUEUES.is(State::Good, "unbound work stays off", remedy),
        (_, false) => {
            let names: Vec<String> = here.iter().map(name).collect();
            WORKQUEUES.is(State::Missing, format!("these hold the cores: {}", names.join(", ")), remedy)
        }
    }
}

fn timer_migration(facts: &Facts) -> Finding {
    match &facts.timer_migration {
        Said::Text(value) => {
            TIMER_MIGRATION.good_or_missing(value == "1", value.clone(), "sysctl kernel.timer_migration=1")
        }
        Said::Absent | Said::Refused(_) => TIMER_MIGRATION.not_here("this kernel has no choice"),
    }
}

fn watchdog(facts: &Facts, asked: &Asked) -> Finding {
    let remedy = format!("sysctl kernel.watchdog_cpumask={}", asked.others());
    let here = facts.watchdog_cpus.as_ref().and_then(|cpus| asked.hit(cpus));
    match (&facts.watchdog, here) {
        (Said::Absent | Said::Refused(_), _) => WATCHDOG.not_here("this kernel has none"),
        (Said::Text(on), _) if on == "0" => WATCHDOG.is(State::Good, "off", remedy),
        (_, None) => WATCHDOG.is(State::Good, "on, not for these cores", remedy),
        (_, Some(cpus)) => WATCHDOG.is(State::Missing, format!("on, for CPU {cpus}"), remedy),
    }
}

fn nmi_watchdog(facts: &Facts, asked: &Asked) -> Finding {
    let remedy = format!("sysctl kernel.nmi_watchdog=0, or kernel.watchdog_cpumask={}", asked.others());
    let here = facts.watchdog_cpus.as_ref().and_then(|cpus| asked.hit(cpus));
    match (&facts.nmi_watchdog, here) {
        (Said::Absent | Said::Refused(_), _) => NMI_WATCHDOG.not_here("this kernel has none"),
        (Said::Text(on), Some(cpus)) if on != "0" => {
            NMI_WATCHDOG.is(State::Missing, format!("on, for CPU {cpus}"), remedy)
        }
        (Said::Text(on), _) => {
            NMI_WATCHDOG.is(State::Good, if on == "0" { "off" } else { "on, not for these cores" }, remedy)
        }
    }
}

fn machine_check_poll(facts: &Facts) -> Finding {
    match &facts.check_interval {
        Said::Text(seconds) => MACHINE_CHECK_POLL.good_or_missing(
            seconds == "0",
            if seconds == "0" { "off".to_owned() } else { format!("every {seconds} s") },
            format!("echo 0 > /{MACHINE_CHECKS}/machinecheck0/check_interval (errors still raise #MC), or boot with mce=ignore_ce"),
        ),
        Said::Absent | Said::Refused(_) => MACHINE_CHECK_POLL.not_here("this machine shows none"),
    }
}

fn clocksource(facts: &Facts) -> Finding {
    // Those that the vDSO reads (arch/x86/include/asm/vdso/clocksource.h).
    const BY_VDSO: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];
    let remedy = "boot with clocksource=tsc tsc=reliable, where the CPU's TSC is constant and synchronous";
    match &facts.clocksource {
        Said::Text(name) => CLOCKSOURCE.good_or_missing(BY_VDSO.contains(&&**name), name.clone(), remedy),
        Said::Absent | Said::Refused(_) => CLOCKSOURCE.is(State::Unknown, "not told", remedy),
    }
}

fn stat_interval(facts: &Facts, asked: &Asked) -> Finding {
    /// Often enough to leave a core alone for the whole of a measurement.
    const LONG: i64 = 60;
    let remedy = "sysctl vm.stat_interval=120";
    let isolated = asked.outside(facts.isolated.as_ref()).is_none();
    match &facts.stat_interval {
        Said::Text(seconds) => {
            let long = facts.stat_interval.number().is_some_and(|seconds| LONG <= seconds);
            let note = if isolated && !long { ", and the cores are isolated" } else { "" };
            STAT_INTERVAL.good_or_missing(isolated || long, format!("{seconds} s{note}"), remedy)
        }
        Said::Absent | Said::Refused(_) => STAT_INTERVAL.not_here("this kernel has none"),
    }
}

#[cfg(test)]
#[path = "kernel_work_tests.rs"]
mod tests;
