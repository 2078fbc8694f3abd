//! Who else may run on the cores, and whether their tick can stop.

use super::{
    Asked,
    tree::{CPUS, Said, Tree},
};
use crate::{
    check::finding::{Finding, Group, Item, State},
    cores::set::{CpuId, CpuSet},
};

pub const NOHZ_FULL_FILE: &str = "sys/devices/system/cpu/nohz_full";
pub const ISOLATED_FILE: &str = "sys/devices/system/cpu/isolated";
/// Of partitions (cgroup v2), together with what the boot isolated.
pub const PARTITIONED_FILE: &str = "sys/fs/cgroup/cpuset.cpus.isolated";
pub const DEBUGFS: &str = "sys/kernel/debug";
/// cpuN/runtime below it, in ns.
pub const FAIR_SERVERS: &str = "sys/kernel/debug/sched/fair_server";
/// Since Linux 6.12.y a mere read of it rebuilds the scheduling domains (kernel/sched/rt.c, sched_rt_handler), which
/// forgets the bandwidth of the deadline servers, so that later none of them can be turned off (EBUSY).
pub const RT_RUNTIME: &str = "proc/sys/kernel/sched_rt_runtime_us";

pub const NOHZ_FULL: Item = Item {
    group: Group::Scheduler,
    name: "nohz_full",
    why: "elsewhere the timer tick enters the core, and Edge sees nothing",
};
pub const ISOLATED: Item = Item {
    group: Group::Scheduler,
    name: "isolated CPUs",
    why: "elsewhere the scheduler puts other tasks on the core",
};
pub const SIBLINGS: Item = Item {
    group: Group::Scheduler,
    name: "SMT siblings",
    why: "what runs on the other hardware thread of a core takes its time and its caches, without an entry",
};
pub const FAIR_SERVER: Item = Item {
    group: Group::Scheduler,
    name: "deadline server (fair_server)",
    why: "since Linux 6.12 it enters a core with one busy task about twice a second, to let ordinary tasks run",
};
pub const RT_THROTTLING: Item = Item {
    group: Group::Scheduler,
    name: "real-time throttling",
    why: "a thread of SCHED_FIFO or SCHED_RR that loops is stopped for 50 ms of each second",
};

#[derive(Debug)]
pub struct Facts {
    pub nohz_full: Option<CpuSet>,
    /// By the boot, or by a partition.
    pub isolated: Option<CpuSet>,
    /// Of the cores, those that are not among them.
    pub siblings: Vec<(CpuId, CpuSet)>,
    pub debugfs: bool,
    pub has_fair_server: bool,
    pub fair_server: Vec<(CpuId, Said)>,
    /// `None`: not read, because this kernel may have the deadline server.
    pub rt_runtime: Option<Said>,
}

pub fn read(tree: &Tree, cores: &CpuSet) -> Facts {
    let siblings = cores.iter().filter_map(|cpu| {
        let of_core = tree.set(&format!("{CPUS}/cpu{}/topology/thread_siblings_list", cpu.number()))?;
        Some((cpu, of_core.without(cores)?))
    });
    let servers =
        cores.iter().map(|cpu| (cpu, tree.said(&format!("{FAIR_SERVERS}/cpu{}/runtime", cpu.number()))));
    let debugfs = tree.exists(&format!("{DEBUGFS}/sched"));
    let has_fair_server = tree.exists(FAIR_SERVERS);
    Facts {
        nohz_full: tree.set(NOHZ_FULL_FILE),
        isolated: isolated(tree),
        siblings: siblings.collect(),
        debugfs,
        has_fair_server,
        fair_server: servers.collect(),
        rt_runtime: (debugfs && !has_fair_server).then(|| tree.said(RT_RUNTIME)),
    }
}

pub fn isolated(tree: &Tree) -> Option<CpuSet> {
    let both = [ISOLATED_FILE, PARTITIONED_FILE].into_iter().filter_map(|path| tree.set(path));
    CpuSet::new(both.flat_map(|cpus| cpus.iter().collect::<Vec<_>>()).collect())
}

pub fn judge(facts: &Facts, asked: &Asked) -> Vec<Finding> {
    let cores = &asked.cores;
    vec![
        of_list(&NOHZ_FULL, facts.nohz_full.as_ref(), asked, format!("boot with nohz_full={cores}")),
        of_list(
            &ISOLATED,
            facts.isolated.as_ref(),
            asked,
            format!(
                "boot with isolcpus=managed_irq,domain,{cores}, or make a cpuset partition of type isolated"
            ),
        ),
        siblings(facts),
        fair_server(facts, cores),
        rt_throttling(facts),
    ]
}

fn of_list(item: &Item, list: Option<&CpuSet>, asked: &Asked, remedy: String) -> Finding {
    match (list, asked.outside(list)) {
        (Some(list), None) => item.is(State::Good, list.to_string(), remedy),
        (Some(list), Some(outside)) => {
            item.is(State::Missing, format!("{list}, without CPU {outside}"), remedy)
        }
        (None, _) => item.is(State::Missing, "none", remedy),
    }
}

fn siblings(facts: &Facts) -> Finding {
    let shared: Vec<String> =
        facts.siblings.iter().map(|(cpu, other)| format!("CPU {} with CPU {other}", cpu.number())).collect();
    let others: Vec<String> = facts.siblings.iter().map(|(_, other)| other.to_string()).collect();
    if shared.is_empty() {
        return SIBLINGS.is(State::Good, "no core is shared with a CPU outside", "");
    }
    let others = others.join(",");
    SIBLINGS.is(
        State::Missing,
        format!("shared: {}", super::few(&shared)),
        format!("isolate CPU {others} too, or turn it off (chcpu -d {others})"),
    )
}

fn fair_server(facts: &Facts, cores: &CpuSet) -> Finding {
    let remedy = format!("for n in CPUs {cores}: echo 0 > /{FAIR_SERVERS}/cpuN/runtime");
    if !facts.debugfs {
        let mount = format!("mount -t debugfs debugfs /{DEBUGFS}; then {remedy}");
        return FAIR_SERVER.is(
            State::Unknown,
            "no debugfs is mounted, or this kernel keeps it closed",
            mount,
        );
    }
    if !facts.has_fair_server {
        return FAIR_SERVER.not_here("this kernel has none");
    }
    let on = |said: &Said| said.number().is_none_or(|runtime| runtime != 0);
    let is_on: Option<CpuSet> =
        CpuSet::new(facts.fair_server.iter().filter(|(_, said)| on(said)).map(|(cpu, _)| *cpu).collect());
    match is_on {
        None => FAIR_SERVER.is(State::Good, "off", remedy),
        Some(_) if facts.fair_server.iter().any(|(_, said)| matches!(said, Said::Refused(_))) => FAIR_SERVER
            .is(
                State::Unknown,
                "this kernel does not let it be read (root? kernel lockdown?)",
                format!("boot with lockdown=none, then {remedy}"),
            ),
        Some(cpus) => FAIR_SERVER.is(State::Missing, format!("on, for CPU {cpus}"), remedy),
    }
}

fn rt_throttling(facts: &Facts) -> Finding {
    let remedy = "only for programs of SCHED_FIFO or SCHED_RR: sysctl kernel.sched_rt_runtime_us=-1";
    match &facts.rt_runtime {
        Some(Said::Text(runtime)) => {
            RT_THROTTLING.good_or_missing(runtime == "-1", format!("sched_rt_runtime_us={runtime}"), remedy)
        }
        Some(Said::Absent | Said::Refused(_)) => RT_THROTTLING.not_here("this kernel has no such limit"),
        None if facts.has_fair_server => RT_THROTTLING.not_here("the deadline server took its place"),
        None => RT_THROTTLING.is(
            State::Unknown,
            "not read without debugfs: on Linux 6.12 to read it rebuilds the scheduling domains",
            remedy,
        ),
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
