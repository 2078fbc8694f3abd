//! `Topology` from sysfs (Documentation/admin-guide/cputopology.rst). What a machine does not have is no error;
//! what does not parse is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use super::{Core, Kind, Topology, TopologyError};
use crate::cores::set::{CpuId, CpuSet};

/// Of the capacity of the fastest. Cores of one kind differ by less: turbo favours some of them.
const EFFICIENT_BELOW_PERCENT: u64 = 75;

impl Topology {
    /// `sys` is /sys, or a tree like it.
    pub fn read(sys: &Path) -> Result<Topology, TopologyError> {
        let dir = sys.join("devices/system/cpu");
        let online = must_have(&dir.join("online"))?;
        let nodes = nodes(&sys.join("devices/system/node"))?;
        let cores = cores(sys, &online, &nodes)?;
        let present = list(&dir.join("present"))?.unwrap_or_else(|| online.clone());
        let possible = list(&dir.join("possible"))?.unwrap_or_else(|| present.clone());
        let isolated = list(&dir.join("isolated"))?;
        let nohz_full = list(&dir.join("nohz_full"))?;
        Ok(Topology { present, possible, isolated, nohz_full, ..Topology::of_cores(online, nodes, cores) })
    }
}

/// One more than the highest CPU number that this machine may ever have.
pub fn number_of_possible(sys: &Path) -> Result<u32, TopologyError> {
    let possible = must_have(&sys.join("devices/system/cpu/possible"))?;
    Ok(possible.iter().last().map_or(0, CpuId::number) + 1)
}

fn nodes(dir: &Path) -> Result<Vec<(u32, CpuSet)>, TopologyError> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
        // A node of memory alone has an empty list.
        if let (Some(number), Some(cpus)) = (number, list(&entry.path().join("cpulist"))?) {
            nodes.push((number, cpus));
        }
    }
    nodes.sort_by_key(|(number, _)| *number);
    Ok(nodes)
}

fn cores(sys: &Path, online: &CpuSet, nodes: &[(u32, CpuSet)]) -> Result<Vec<Core>, TopologyError> {
    let slower = slower(sys, online)?;
    let mut seen = BTreeSet::new();
    let mut lowest_of_package = BTreeMap::new();
    let mut cores = Vec::new();
    for cpu in online.iter() {
        if seen.contains(&cpu) {
            continue;
        }
        let dir = sys.join(format!("devices/system/cpu/cpu{}", cpu.number()));
        let siblings = must_have(&dir.join("topology/thread_siblings_list"))?;
        let own = siblings.iter().filter(|one| online.contains(*one) && !seen.contains(one));
        let cpus = CpuSet::new(own.chain([cpu]).collect()).unwrap_or_else(|| cpu.into());
        seen.extend(cpus.iter());
        let package = number(&dir.join("topology/physical_package_id"))?.unwrap_or(0);
        let of_package = *lowest_of_package.entry(package).or_insert(cpu);
        cores.push(Core {
            cpus,
            package,
            die: number(&dir.join("topology/die_id"))?.unwrap_or(0),
            node: nodes.iter().find(|(_, cpus)| cpus.contains(cpu)).map(|(number, _)| *number),
            l3: l3(&dir.join("cache"))?.map_or(of_package, |cpus| cpus.first()),
            kind: if slower.contains(&cpu) { Kind::Efficient } else { Kind::Performance },
        });
    }
    Ok(cores)
}

fn l3(cache: &Path) -> Result<Option<CpuSet>, TopologyError> {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if number(&entry.path().join("level"))? == Some(3) {
            return list(&entry.path().join("shared_cpu_list"));
        }
    }
    Ok(None)
}

/// x86 has a PMU for each kind (arch/x86/events/intel/core.c), ARM the capacity of each CPU.
fn slower(sys: &Path, online: &CpuSet) -> Result<BTreeSet<CpuId>, TopologyError> {
    if let Some(atoms) = list(&sys.join("devices/cpu_atom/cpus"))? {
        return Ok(atoms.iter().collect());
    }
    let mut capacities = Vec::new();
    for cpu in online.iter() {
        let file = sys.join(format!("devices/system/cpu/cpu{}/cpu_capacity", cpu.number()));
        capacities.extend(number(&file)?.map(|capacity| (cpu, u64::from(capacity))));
    }
    let fastest = capacities.iter().map(|(_, capacity)| *capacity).max().unwrap_or(0);
    let slow = |capacity: u64| capacity * 100 < fastest * EFFICIENT_BELOW_PERCENT;
    Ok(capacities.into_iter().filter(|(_, capacity)| slow(*capacity)).map(|(cpu, _)| cpu).collect())
}

fn must_have(path: &Path) -> Result<CpuSet, TopologyError> {
    let text =
        fs::read_to_string(path).map_err(|source| TopologyError::Read { path: path.to_owned(), source })?;
    parsed(path, &text)
}

/// `None`: the file is not there, or names no CPU. The kernel prints a mask that was never made as "(null)".
fn list(path: &Path) -> Result<Option<CpuSet>, TopologyError> {
    match text(path)? {
        Some(text) if !matches!(text.trim(), "" | "(null)") => parsed(path, &text).map(Some),
        _ => Ok(None),
    }
}

/// `None`: the file is not there, or says -1, which is "not known".
fn number(path: &Path) -> Result<Option<u32>, TopologyError> {
    match text(path)? {
        Some(text) if text.trim() != "-1" => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(TopologyError::Number { path: path.to_owned(), text: text.trim().to_owned() }),
        },
        _ => Ok(None),
    }
}

fn text(path: &Path) -> Result<Option<String>, TopologyError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // Also of a CPU that goes offline while it is read.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(TopologyError::Read { path: path.to_owned(), source }),
    }
}

fn parsed(path: &Path, text: &str) -> Result<CpuSet, TopologyError> {
    text.parse().map_err(|source| TopologyError::Parse { path: path.to_owned(), source })
}
