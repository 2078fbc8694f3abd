//! Step 3: which files of the kernel concern granted cores, and what each must say. Reads only which of them there are.
//!
//! In the order in which they are written. Partitions come last: they rebuild the scheduling domains, and where that
//! lost the bandwidth of deadline servers (6.12) none can be switched off any more (EBUSY).

use std::{
    cell::Cell,
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::{
    keeper::{Known, Pass},
    kernel::Kernel,
    setting::{Area, Setting, State},
    want::{Format, Want},
};
use crate::cores::set::{CpuId, CpuSet};

mod block;
pub mod cgroup;
mod core;
mod interrupts;
mod network;
mod node;
mod others;

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
    pub online: CpuSet,
    pub housekeeping: CpuSet,
    /// Kept out of scheduling since the boot (isolcpus=domain): a partition would only take that away.
    pub boot_isolated: Option<CpuSet>,
    /// Cores for which the kernel refused a partition.
    pub no_partition: Option<CpuSet>,
}

impl Demand {
    pub fn cores(&self) -> Option<CpuSet> {
        let cores: BTreeSet<CpuId> = self.grants.iter().flat_map(|grant| grant.cores.iter()).collect();
        CpuSet::new(cores)
    }
}

/// As `settings`, and whether it is all of it: where a folder could not be listed, what is missing may be wanted too.
pub fn all_settings(kernel: &impl Kernel, demand: &Demand) -> (Vec<Setting>, Known) {
    let careful = Careful { kernel, failed: Cell::new(false) };
    let settings = settings(&careful, demand);
    (settings, if careful.failed.get() { Known::InPart } else { Known::Whole })
}

/// What is asked of the node for a demand: nothing where nothing is granted.
pub fn settings(kernel: &impl Kernel, demand: &Demand) -> Vec<Setting> {
    let Some(cores) = demand.cores() else { return Vec::new() };
    let all = All { cores: &cores, housekeeping: &demand.housekeeping };
    // Nobody can have left a timer on cores that were never scheduled to.
    let was_used = demand.boot_isolated.as_ref().is_none_or(|isolated| !cores.is_subset(isolated));
    [
        if was_used { block::settings(kernel, &all) } else { Vec::new() },
        interrupts::settings(kernel, &all),
        network::settings(kernel, &all),
        node::settings(kernel, &all),
        core::settings(kernel, demand),
        others::settings(kernel, demand),
        cgroup::settings(kernel, demand),
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

/// Notes what fails in another way than by not being there.
struct Careful<'a, K> {
    kernel: &'a K,
    failed: Cell<bool>,
}

impl<K> Careful<'_, K> {
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        let absent = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        };
        if result.as_ref().is_err_and(|error| !absent(error)) {
            self.failed.set(true);
        }
        result
    }
}

impl<K: Kernel> Kernel for Careful<'_, K> {
    fn read(&self, file: &Path) -> io::Result<String> {
        self.noted(self.kernel.read(file))
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        self.kernel.write(file, text)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.noted(self.kernel.list(folder))
    }

    fn folders(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.noted(self.kernel.folders(folder))
    }
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
