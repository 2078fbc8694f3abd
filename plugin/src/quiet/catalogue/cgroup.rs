//! Step 3: a container's cgroup and those above it: which CPUs, no quota, and with cgroup v2 a partition of its own
//! (Documentation/admin-guide/cgroup-v2.rst, "Cpuset"; cpuset(7) for v1).
//!
//! A remote partition needs its CPUs in cpuset.cpus.exclusive all the way down from the root. What is there is always
//! the union of the live grants below, so that a release takes back its own and no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{Area, Demand, Kernel, Quieted, Setting, Want};
use crate::cores::set::{CpuId, CpuSet};

pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// The setting's name.
pub const PARTITION: &str = "cpuset partition";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

pub fn version(kernel: &impl Kernel) -> Version {
    match kernel.read(&Path::new(ROOT).join("cgroup.controllers")) {
        Ok(controllers) if controllers.split_whitespace().any(|name| name == "cpuset") => Version::V2,
        _ => Version::V1,
    }
}

/// Where a container's cgroup is below its hierarchy's root. The runtime names it as a path, or for systemd as
/// SLICE:PREFIX:NAME, whose slice's dashes are folders (systemd.slice(5)).
pub fn path(runtimes_name: &str) -> PathBuf {
    let parts: Vec<&str> = runtimes_name.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return PathBuf::from(runtimes_name.trim_start_matches('/'));
    };
    let stem = slice.trim_end_matches(".slice");
    let dashes = stem.match_indices('-').map(|(at, _)| &stem[..at]).chain([stem]);
    let folders = dashes.filter(|stem| !stem.is_empty()).map(|stem| format!("{stem}.slice"));
    folders.collect::<PathBuf>().join(format!("{prefix}-{name}.scope"))
}

/// Does the boot keep the scheduler off any of it? A partition would take that away for good.
fn is_boot_isolated(demand: &Demand, grant: &Quieted) -> bool {
    demand.boot_isolated.as_ref().is_some_and(|isolated| grant.cpus.overlaps(isolated))
}

/// A cpuset with other CPUs beside the granted ones is no partition of its own.
pub fn wants_partition(demand: &Demand, grant: &Quieted) -> bool {
    !is_boot_isolated(demand, grant) && grant.shared.is_none()
}

pub(super) fn settings(kernel: &impl Kernel, demand: &Demand) -> Vec<Setting> {
    let version = version(kernel);
    let mut settings = Vec::new();
    if version == Version::V2 {
        settings.extend(exclusive(demand));
    }
    for grant in &demand.grants {
        let Some(cgroup) = grant.cgroup.as_deref().map(path) else { continue };
        settings.extend(match version {
            Version::V1 => v1(grant, &cgroup),
            Version::V2 => v2(grant, &cgroup, wants_partition(demand, grant)),
        });
    }
    settings
}

/// From the root down, each with what is granted below it.
fn exclusive(demand: &Demand) -> Vec<Setting> {
    let mut below: BTreeMap<PathBuf, BTreeSet<CpuId>> = BTreeMap::new();
    for grant in demand.grants.iter().filter(|grant| wants_partition(demand, grant)) {
        let Some(cgroup) = grant.cgroup.as_deref().map(path) else { continue };
        let folders = cgroup.ancestors().filter(|folder| !folder.as_os_str().is_empty());
        for folder in folders {
            below.entry(folder.to_owned()).or_default().extend(grant.cpus.iter());
        }
    }
    let setting = |(folder, cpus): (PathBuf, BTreeSet<CpuId>)| {
        let granted = CpuSet::new(cpus.clone())?;
        let file = Path::new(ROOT).join(&folder).join("cpuset.cpus.exclusive");
        Some(of(&granted, format!("cpuset.cpus.exclusive of {}", folder.display()), file, Want::Cpus(cpus)))
    };
    below.into_iter().filter_map(setting).collect()
}

fn v2(grant: &Quieted, cgroup: &Path, partition: bool) -> Vec<Setting> {
    let folder = Path::new(ROOT).join(cgroup);
    let mut settings = Vec::new();
    for (whose, folder) in [("pod's", folder.parent()), ("container's", Some(&folder))] {
        let Some(folder) = folder else { continue };
        let want = Want::Word("max".to_owned());
        settings.push(of(&grant.cpus, format!("{whose} cpu.max"), folder.join("cpu.max"), want));
    }
    settings.push(cpus(grant, &folder, "cpuset.cpus.effective"));
    if partition {
        let file = folder.join("cpuset.cpus.partition");
        let want = Want::Text("isolated".to_owned());
        settings.push(of(&grant.cpus, PARTITION.to_owned(), file, want));
    }
    settings
}

fn v1(grant: &Quieted, cgroup: &Path) -> Vec<Setting> {
    let in_hierarchy = |hierarchy: &str| Path::new(ROOT).join(hierarchy).join(cgroup);
    let (cpu, cpuset) = (in_hierarchy("cpu"), in_hierarchy("cpuset"));
    let mut settings = Vec::new();
    for (whose, folder) in [("pod's", cpu.parent()), ("container's", Some(&*cpu))] {
        let Some(folder) = folder else { continue };
        let want = Want::Text("-1".to_owned());
        settings.push(of(
            &grant.cpus,
            format!("{whose} cpu.cfs_quota_us"),
            folder.join("cpu.cfs_quota_us"),
            want,
        ));
    }
    settings.push(cpus(grant, &cpuset, "cpuset.effective_cpus"));
    let file = cpuset.join("cpuset.sched_load_balance");
    let want = Want::Text("0".to_owned());
    settings.push(of(&grant.cpus, "cpuset.sched_load_balance".to_owned(), file, want));
    settings
}

fn cpus(grant: &Quieted, folder: &Path, effective: &str) -> Setting {
    let all = grant.cpus.iter().chain(grant.shared.iter().flat_map(CpuSet::iter)).collect();
    let file = folder.join("cpuset.cpus");
    let setting = of(&grant.cpus, "container's cpuset.cpus".to_owned(), file, Want::Cpus(all));
    Setting { effective: Some(folder.join(effective)), ..setting }
}

fn of(cpus: &CpuSet, name: String, file: PathBuf, want: Want) -> Setting {
    Setting { area: Area::Cgroup, name, file, want, effective: None, cpus: cpus.clone() }
}
