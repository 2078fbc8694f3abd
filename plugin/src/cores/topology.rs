//! Step 3: what sysfs says of the machine's CPUs. Facts, and the check of `--isolated-cpus` against them.
//!
//! Read once at start: CPUs that come or go later need a restart of the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::set::{CpuId, CpuSet, ParseCpuSetError};

#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("read {path}: {source}")]
    Parse { path: PathBuf, source: ParseCpuSetError },
    #[error("--isolated-cpus {isolated}: CPUs {missing} are not online (online: {online})")]
    Offline { isolated: CpuSet, missing: CpuSet, online: CpuSet },
    #[error("--isolated-cpus {isolated} leaves no housekeeping CPU: leave out at least one of {online}")]
    NoHousekeeping { isolated: CpuSet, online: CpuSet },
}

#[derive(Debug, Clone)]
pub struct Topology {
    pub online: CpuSet,
    /// NUMA nodes with their CPUs; empty where the kernel has no NUMA.
    nodes: Vec<(u32, CpuSet)>,
    /// CPUs whose tick stops while one task runs there (boot parameter nohz_full).
    pub nohz_full: Option<CpuSet>,
    /// Physical cores, each with its hardware threads that are online.
    cores: Vec<CpuSet>,
}

impl Topology {
    pub fn new(online: CpuSet, nodes: Vec<(u32, CpuSet)>, cores: Vec<CpuSet>) -> Topology {
        Topology { online, nodes, nohz_full: None, cores }
    }

    /// `sys` is /sys, or a tree like it.
    pub fn read(sys: &Path) -> Result<Topology, TopologyError> {
        let online = read_list(&sys.join("devices/system/cpu/online"))?;
        let mut nodes = Vec::new();
        let folder = sys.join("devices/system/node");
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
            // A node of memory alone has an empty list.
            if let (Some(number), Ok(cpus)) = (number, read_list(&entry.path().join("cpulist"))) {
                nodes.push((number, cpus));
            }
        }
        nodes.sort_by_key(|(number, _)| *number);
        let cpus = sys.join("devices/system/cpu");
        let mut cores = Vec::new();
        for cpu in online.iter() {
            let siblings =
                read_list(&cpus.join(format!("cpu{}/topology/thread_siblings_list", cpu.number())))?;
            // Each core once, by its first thread.
            if siblings.iter().next() == Some(cpu) {
                cores.push(siblings);
            }
        }
        // Absent, empty or "(null)" on a kernel that was not asked for it.
        let nohz_full = read_list(&cpus.join("nohz_full")).ok();
        Ok(Topology { online, nodes, nohz_full, cores })
    }

    pub fn can_isolate(&self, isolated: &CpuSet) -> Result<(), TopologyError> {
        let (isolated_, online) = (isolated.clone(), self.online.clone());
        if let Some(missing) = isolated.without(&self.online) {
            return Err(TopologyError::Offline { isolated: isolated_, missing, online });
        }
        if self.online.without(isolated).is_none() {
            return Err(TopologyError::NoHousekeeping { isolated: isolated_, online });
        }
        Ok(())
    }

    pub fn node_of(&self, cpu: CpuId) -> Option<u32> {
        self.nodes.iter().find(|(_, cpus)| cpus.contains(cpu)).map(|(number, _)| *number)
    }

    /// The hardware threads of its physical core, itself among them.
    pub fn siblings_of(&self, cpu: CpuId) -> CpuSet {
        let core = self.cores.iter().find(|core| core.contains(cpu));
        core.cloned().unwrap_or_else(|| CpuSet::from(cpu))
    }

    /// cpuset.mems for these CPUs, as a list; `None` where the kernel has no NUMA.
    pub fn mems_of(&self, cpus: &CpuSet) -> Option<String> {
        let nodes =
            self.nodes.iter().filter(|(_, own)| own.overlaps(cpus)).map(|(number, _)| number.to_string());
        let list = nodes.collect::<Vec<_>>().join(",");
        (!list.is_empty()).then_some(list)
    }
}

/// One more than the highest CPU number that this machine may ever have.
pub fn number_of_possible(sys: &Path) -> Result<u32, TopologyError> {
    let possible = read_list(&sys.join("devices/system/cpu/possible"))?;
    Ok(possible.iter().last().map_or(0, CpuId::number) + 1)
}

fn read_list(path: &Path) -> Result<CpuSet, TopologyError> {
    let text =
        fs::read_to_string(path).map_err(|source| TopologyError::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|source| TopologyError::Parse { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = sys.path().join("devices/system").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        sys
    }

    const SIBLINGS: [(&str, &str); 4] = [
        ("cpu/cpu0/topology/thread_siblings_list", "0,2\n"),
        ("cpu/cpu1/topology/thread_siblings_list", "1\n"),
        ("cpu/cpu2/topology/thread_siblings_list", "0,2\n"),
        ("cpu/cpu3/topology/thread_siblings_list", "3\n"),
    ];

    fn machine(more: &[(&str, &str)]) -> Result<Topology, String> {
        let files = [&SIBLINGS[..], more].concat();
        Topology::read(tree(&files).path()).map_err(|error| error.to_string())
    }

    fn two_nodes() -> Topology {
        machine(&[
            ("cpu/online", "0-3\n"),
            ("node/node0/cpulist", "0-1\n"),
            ("node/node1/cpulist", "2-3\n"),
            ("node/node2/cpulist", "\n"),
        ])
        .unwrap()
    }

    fn cpu(number: u32) -> CpuId {
        CpuId::new(number).unwrap()
    }

    #[test]
    fn each_cpu_has_its_node_and_its_siblings() {
        let machine = two_nodes();
        assert_eq!([1, 2, 9].map(|number| machine.node_of(cpu(number))), [Some(0), Some(1), None]);
        let siblings = [0, 1, 2, 9].map(|number| machine.siblings_of(cpu(number)).to_string());
        assert_eq!(siblings, ["0,2", "1", "0,2", "9"]);
    }

    #[test]
    fn a_sysfs_that_does_not_tell_is_an_error_that_names_the_file() {
        let check = |online: &str, part: &str| {
            let error = machine(&[("cpu/online", online)]).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check("0-x\n", "cpu/online: \"0-x\" is not a CPU list");
        check("0-4\n", "cpu4/topology/thread_siblings_list");
        let nothing = tempfile::tempdir().unwrap();
        assert!(Topology::read(nothing.path()).unwrap_err().to_string().contains("cpu/online"));
    }

    #[test]
    fn memory_follows_the_cpus() {
        let mems = |cpus: &str| two_nodes().mems_of(&cpus.parse().unwrap());
        assert_eq!(
            (mems("1"), mems("1,2"), mems("3")),
            (Some("0".into()), Some("0,1".into()), Some("1".into()))
        );
        let bare = machine(&[("cpu/online", "0-1\n")]).unwrap();
        assert_eq!(bare.mems_of(&"1".parse().unwrap()), None);
    }

    #[test]
    fn isolated_cpus_are_online_and_leave_one_for_housekeeping() {
        let check =
            |cpus: &str| two_nodes().can_isolate(&cpus.parse().unwrap()).map_err(|error| error.to_string());
        assert_eq!(check("1-3"), Ok(()));
        assert!(check("3-4").unwrap_err().contains("CPUs 4 are not online"));
        assert!(check("0-3").unwrap_err().contains("leaves no housekeeping CPU"));
    }
}
