//! Step 3: what sysfs says of the machine's CPUs. Facts, and the check of `--isolated-cpus` against them.

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
}

impl Topology {
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
        Ok(Topology { online, nodes })
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

    /// cpuset.mems for these CPUs, as a list; `None` where the kernel has no NUMA.
    pub fn mems_of(&self, cpus: &CpuSet) -> Option<String> {
        let nodes =
            self.nodes.iter().filter(|(_, own)| own.overlaps(cpus)).map(|(number, _)| number.to_string());
        let list = nodes.collect::<Vec<_>>().join(",");
        (!list.is_empty()).then_some(list)
    }
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

    fn two_nodes() -> Topology {
        let files = [
            ("cpu/online", "0-3\n"),
            ("node/node0/cpulist", "0-1\n"),
            ("node/node1/cpulist", "2-3\n"),
            ("node/node2/cpulist", "\n"),
        ];
        Topology::read(tree(&files).path()).unwrap()
    }

    #[test]
    fn memory_follows_the_cpus() {
        let mems = |cpus: &str| two_nodes().mems_of(&cpus.parse().unwrap());
        assert_eq!(
            (mems("1"), mems("1,2"), mems("3")),
            (Some("0".into()), Some("0,1".into()), Some("1".into()))
        );
        let bare = Topology::read(tree(&[("cpu/online", "0-1\n")]).path()).unwrap();
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
