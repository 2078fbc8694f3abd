//! Step 3: which files of the kernel concern granted cores, and what each must say. Reads only which of them there are.
//!
//! In the order in which they are written: who must not come first, what the cores themselves do last.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    keeper::Pass,
    kernel::Kernel,
    setting::{Area, Setting, State},
    want::{Format, Want},
};
use crate::cores::set::{CpuId, CpuSet};

pub mod cgroup;
mod core;
mod interrupts;
mod network;
mod node;

/// One container's cores, and what it asks of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quieted {
    /// Whole physical cores.
    pub cores: CpuSet,
    /// Those of them that are in its cpuset.
    pub cpus: CpuSet,
    /// Housekeeping CPUs in its cpuset.
    pub shared: Option<CpuSet>,
    /// As the runtime names it; `None` before the container is created.
    pub cgroup: Option<String>,
    pub wakeup_latency_us: Option<u32>,
    pub governor: Option<String>,
}

/// Everything that is granted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    pub grants: Vec<Quieted>,
    pub housekeeping: CpuSet,
    /// Kept out of scheduling since the boot (isolcpus=domain): a partition would only take that away.
    pub boot_isolated: Option<CpuSet>,
}

impl Demand {
    pub fn cores(&self) -> Option<CpuSet> {
        let cores: BTreeSet<CpuId> = self.grants.iter().flat_map(|grant| grant.cores.iter()).collect();
        CpuSet::new(cores)
    }
}

/// What is asked of the node for a demand: nothing where nothing is granted.
pub fn settings(kernel: &impl Kernel, demand: &Demand) -> Vec<Setting> {
    let Some(cores) = demand.cores() else { return Vec::new() };
    let all = All { cores: &cores, housekeeping: &demand.housekeeping };
    [
        interrupts::settings(kernel, &all),
        network::settings(kernel, &all),
        node::settings(kernel, &all),
        cgroup::settings(kernel, demand),
        core::settings(demand),
    ]
    .concat()
}

/// Interrupts that are still where granted cores are, with their handlers, so that people know the device.
pub fn fixed_interrupts(kernel: &impl Kernel, pass: &Pass) -> Vec<String> {
    let refused = pass.outcomes.iter().filter(|outcome| {
        outcome.setting.area == Area::Interrupt && matches!(outcome.state, State::Refused { .. })
    });
    refused.map(|outcome| interrupts::with_handler(kernel, &outcome.setting)).collect()
}

/// What concerns all granted cores together.
struct All<'a> {
    cores: &'a CpuSet,
    housekeeping: &'a CpuSet,
}

impl All<'_> {
    fn setting(&self, area: Area, name: String, file: PathBuf, want: Want) -> Setting {
        Setting { area, name, file, want, effective: None, cpus: self.cores.clone() }
    }

    fn without(&self, format: Format) -> Want {
        Want::Without { cpus: self.cores.clone(), instead: self.housekeeping.clone(), format }
    }
}

#[cfg(test)]
mod tests;
