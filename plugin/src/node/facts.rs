//! What this machine and its kernel offer, each read and none judged. `root` is /, or a tree with the machine's /sys
//! and /proc in it.
//!
//! Files are asked, never the kernel's version: distributions move features between versions.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{NodeError, cmdline};
use crate::cores::{
    set::{CpuId, CpuSet},
    topology::Topology,
};

#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) isolate: CpuSet,
    pub(super) housekeeping: CpuSet,
    /// The physical core of the first housekeeping CPU.
    pub(super) first_core: CpuSet,
    /// NUMA nodes of the online CPUs, and those of them that would have no housekeeping CPU.
    pub(super) nodes: BTreeSet<u32>,
    pub(super) nodes_without_house: BTreeSet<u32>,
    pub(super) kernel: Kernel,
    pub(super) running: Running,
}

/// `None`: the file that tells could not be read. Not the same as false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kernel {
    pub(super) nohz_full: Option<bool>,
    pub(super) rcu_nocb: Option<bool>,
    pub(super) cgroup: Cgroup,
    /// Isolated partitions also move unbound kernel threads and timers (since 7.0).
    pub(super) housekeeping_at_run_time: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Cgroup {
    /// Version 2, and a container below kubepods can be an isolated partition.
    RemotePartitions,
    /// Version 2, but partitions only directly below the root (before 6.7).
    LocalPartitions,
    /// Version 2, but no cgroup has the cpuset controller, so that its files cannot be looked at.
    NoCpuset,
    V1,
}

/// What the running kernel was booted with.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) line: Vec<cmdline::Argument>,
    pub(super) nohz_full: Option<CpuSet>,
    pub(super) isolated: Option<CpuSet>,
    /// The highest CPU number that is possible.
    pub(super) last: u32,
}

pub(super) fn read(root: &Path, isolate: &CpuSet) -> Result<Facts, NodeError> {
    let sys = root.join("sys");
    let topology = Topology::read(&sys)?;
    topology.can_isolate(isolate)?;
    // kernel-parameters.txt, nohz_full: the boot CPU is forced outside the range, it keeps the time.
    if isolate.iter().any(|cpu| cpu.number() == 0) {
        return Err(NodeError::BootCpu { isolate: isolate.clone() });
    }
    for cpu in isolate.iter() {
        let core = topology.siblings_of(cpu);
        if let Some(left_out) = core.without(isolate) {
            return Err(NodeError::HalfACore { isolate: isolate.clone(), cpu: cpu.number(), left_out });
        }
    }
    let Some(housekeeping) = topology.online.without(isolate) else {
        return Err(NodeError::BootCpu { isolate: isolate.clone() });
    };
    let first: Option<CpuId> = housekeeping.iter().next();
    let first_core = first.map_or_else(|| housekeeping.clone(), |first| topology.siblings_of(first));
    let nodes_of =
        |cpus: &CpuSet| cpus.iter().filter_map(|cpu| topology.node_of(cpu)).collect::<BTreeSet<_>>();
    let nodes = nodes_of(&topology.online);
    Ok(Facts {
        isolate: isolate.clone(),
        nodes_without_house: nodes.difference(&nodes_of(&housekeeping)).copied().collect(),
        nodes,
        housekeeping,
        first_core,
        kernel: kernel(root),
        running: running(root)?,
    })
}

impl Facts {
    pub(super) fn can_be_systems(&self, system: &CpuSet) -> Result<(), NodeError> {
        match system.without(&self.housekeeping) {
            Some(others) => Err(NodeError::NotHousekeeping {
                system: system.clone(),
                others,
                housekeeping: self.housekeeping.clone(),
            }),
            None => Ok(()),
        }
    }
}

pub(super) fn running(root: &Path) -> Result<Running, NodeError> {
    let path = root.join("proc/cmdline");
    let line = fs::read_to_string(&path).map_err(|source| NodeError::Read { path, source })?;
    let cpus = root.join("sys/devices/system/cpu");
    let list = |name: &str| words(&cpus.join(name))?.parse::<CpuSet>().ok();
    let last = list("possible").or_else(|| list("online")).and_then(|cpus| cpus.iter().last());
    Ok(Running {
        line: cmdline::split(&line),
        nohz_full: list("nohz_full"),
        isolated: list("isolated"),
        last: last.map_or(0, CpuId::number),
    })
}

fn kernel(root: &Path) -> Kernel {
    let cpus = root.join("sys/devices/system/cpu");
    let config = config(root);
    let built = |option: &str| config.as_ref().map(|text| text.lines().any(|line| line == option));
    // drivers/base/cpu.c makes the file if and only if NO_HZ_FULL is built in, whatever was asked for at boot.
    let nohz_full = match cpus.join("nohz_full").exists() {
        true => Some(true),
        false if cpus.join("online").exists() => Some(false),
        false => built("CONFIG_NO_HZ_FULL=y"),
    };
    Kernel {
        nohz_full,
        rcu_nocb: built("CONFIG_RCU_NOCB_CPU=y"),
        cgroup: cgroup(&root.join("sys/fs/cgroup")),
        housekeeping_at_run_time: has_housekeeping_update(&root.join("sys/kernel/btf/vmlinux")),
    }
}

/// A kernel offers its configuration in /proc only if it was built to.
fn config(root: &Path) -> Option<String> {
    let release = words(&root.join("proc/sys/kernel/osrelease"));
    let beside = release
        .and_then(|release| fs::read_to_string(root.join("boot").join(format!("config-{release}"))).ok());
    beside.or_else(|| {
        let packed = fs::File::open(root.join("proc/config.gz")).ok()?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).ok()?;
        Some(text)
    })
}

fn cgroup(mount: &Path) -> Cgroup {
    if !mount.join("cgroup.controllers").exists() {
        return Cgroup::V1;
    }
    // cgroup-v2.rst: cpuset.cpus.isolated is on the root alone, cpuset.cpus.exclusive on every other cgroup that has
    // the controller. The kernel that brought the first (6.8) had the second (6.7).
    if mount.join("cpuset.cpus.isolated").exists() {
        return Cgroup::RemotePartitions;
    }
    let children: Vec<PathBuf> =
        fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    if children.iter().any(|child| child.join("cpuset.cpus.exclusive").exists()) {
        Cgroup::RemotePartitions
    } else if children.iter().any(|child| child.join("cpuset.cpus").exists()) {
        Cgroup::LocalPartitions
    } else {
        Cgroup::NoCpuset
    }
}

/// By its name in the kernel's type information: no file in sysfs tells.
fn has_housekeeping_update(btf: &Path) -> Option<bool> {
    const NAME: &[u8] = b"\0housekeeping_update\0";
    let types = fs::read(btf).ok()?;
    Some(types.windows(NAME.len()).any(|window| window == NAME))
}

fn words(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}
