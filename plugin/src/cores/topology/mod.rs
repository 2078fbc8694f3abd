//! Step 3: the machine's CPUs: packages, NUMA nodes, L3 domains, physical cores and their hardware threads.
//!
//! Facts (`read` has them from sysfs, `boot` from the kernel's command line) and questions to them, which are
//! pure. `live` has the one that is in force: what changes is found by comparing readings (`device::retired`).

mod read;
pub mod boot;
pub mod live;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

pub use read::number_of_possible;

use super::set::{CpuId, CpuSet, ParseCpuSetError};

#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("read {path}: {source}")]
    Parse { path: PathBuf, source: ParseCpuSetError },
    #[error("read {path}: {text:?} is not a number")]
    Number { path: PathBuf, text: String },
    #[error("--isolated-cpus {isolated}: CPUs {missing} are not online (online: {online})")]
    Offline { isolated: CpuSet, missing: CpuSet, online: CpuSet },
    #[error("--isolated-cpus {isolated} leaves no housekeeping CPU: leave out at least one of {online}")]
    NoHousekeeping { isolated: CpuSet, online: CpuSet },
    #[error(
        "--isolated-cpus {isolated} has only a part of the physical core {core}: add {missing}, or leave out the \
         whole core, or turn {missing} off (chcpu -d {missing})"
    )]
    HalfACore { isolated: CpuSet, core: CpuSet, missing: CpuSet },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Performance,
    /// The slower one of a machine with several kinds.
    Efficient,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// Its hardware threads that are online.
    pub cpus: CpuSet,
    pub package: u32,
    /// Its number within the package.
    pub die: u32,
    /// None where the kernel has no NUMA.
    pub node: Option<u32>,
    /// The lowest CPU that shares its last-level cache; of its package where the machine does not tell.
    pub l3: CpuId,
    pub kind: Kind,
}

impl Core {
    /// The number that it is known by.
    pub fn id(&self) -> CpuId {
        self.cpus.first()
    }
}

#[derive(Debug, Clone)]
pub struct Topology {
    pub online: CpuSet,
    /// Plugged in, whether or not online.
    pub present: CpuSet,
    /// All that this kernel made room for.
    pub possible: CpuSet,
    /// CPUs without load balancing (boot parameter isolcpus, or cpuset partitions).
    pub isolated: Option<CpuSet>,
    /// CPUs whose tick stops while one task runs there (boot parameter nohz_full).
    pub nohz_full: Option<CpuSet>,
    /// NUMA nodes with their CPUs, by number; empty where the kernel has no NUMA.
    nodes: Vec<(u32, CpuSet)>,
    /// By `Core::id`; each online CPU is in exactly one.
    cores: Vec<Core>,
}

impl Topology {
    /// A machine of one package. A CPU that is in none of `cores` is one by itself.
    pub fn new(online: CpuSet, nodes: Vec<(u32, CpuSet)>, cores: Vec<CpuSet>) -> Topology {
        let l3 = online.first();
        let alone = online.iter().filter(|cpu| !cores.iter().any(|core| core.contains(*cpu)));
        let alone: Vec<CpuSet> = alone.map(CpuSet::from).collect();
        let node_of =
            |core: &CpuSet| nodes.iter().find(|(_, cpus)| cpus.overlaps(core)).map(|(node, _)| *node);
        let core = |cpus: CpuSet| Core {
            node: node_of(&cpus),
            cpus,
            package: 0,
            die: 0,
            l3,
            kind: Kind::Performance,
        };
        let cores = cores.into_iter().chain(alone).map(core).collect();
        Topology::of_cores(online, nodes, cores)
    }

    pub fn of_cores(online: CpuSet, nodes: Vec<(u32, CpuSet)>, mut cores: Vec<Core>) -> Topology {
        cores.sort_by_key(Core::id);
        let (present, possible) = (online.clone(), online.clone());
        Topology { online, present, possible, isolated: None, nohz_full: None, nodes, cores }
    }

    /// For an agent that may start beside strict containers: what is offline is no reason not to, and told by name later.
    pub fn can_isolate_what_is_online(&self, isolated: &CpuSet) -> Result<(), TopologyError> {
        let there = isolated.intersection(&self.online);
        self.can_isolate(there.as_ref().unwrap_or(isolated))
    }

    /// Whole cores that are online, with something left for everybody else.
    pub fn can_isolate(&self, isolated: &CpuSet) -> Result<(), TopologyError> {
        let (isolated_, online) = (isolated.clone(), self.online.clone());
        if let Some(missing) = isolated.without(&self.online) {
            return Err(TopologyError::Offline { isolated: isolated_, missing, online });
        }
        if self.online.without(isolated).is_none() {
            return Err(TopologyError::NoHousekeeping { isolated: isolated_, online });
        }
        for core in self.cores.iter().filter(|core| core.cpus.overlaps(isolated)) {
            if let Some(missing) = core.cpus.without(isolated) {
                return Err(TopologyError::HalfACore {
                    isolated: isolated_,
                    core: core.cpus.clone(),
                    missing,
                });
            }
        }
        Ok(())
    }

    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    pub fn core_of(&self, cpu: CpuId) -> Option<&Core> {
        self.cores.iter().find(|core| core.cpus.contains(cpu))
    }

    /// By its own number, which is its lowest CPU's.
    pub fn core(&self, id: CpuId) -> Option<&Core> {
        self.cores.binary_search_by_key(&id, Core::id).ok().and_then(|idx| self.cores.get(idx))
    }

    /// Those that lie wholly in these CPUs.
    pub fn cores_in<'a>(&'a self, cpus: &'a CpuSet) -> impl Iterator<Item = &'a Core> {
        self.cores.iter().filter(|core| core.cpus.is_subset(cpus))
    }

    pub fn node_of(&self, cpu: CpuId) -> Option<u32> {
        self.nodes.iter().find(|(_, cpus)| cpus.contains(cpu)).map(|(number, _)| *number)
    }

    /// The hardware threads of its physical core, itself among them.
    pub fn siblings_of(&self, cpu: CpuId) -> CpuSet {
        self.core_of(cpu).map_or_else(|| CpuSet::from(cpu), |core| core.cpus.clone())
    }

    /// cpuset.mems for these CPUs, as a list; `None` where the kernel has no NUMA.
    pub fn mems_of(&self, cpus: &CpuSet) -> Option<String> {
        let nodes =
            self.nodes.iter().filter(|(_, own)| own.overlaps(cpus)).map(|(number, _)| number.to_string());
        let list = nodes.collect::<Vec<_>>().join(",");
        (!list.is_empty()).then_some(list)
    }
}
