//! Step 3: everybody else's cgroups, without cores that no partition keeps for their container: beside shared CPUs, with
//! one thread of each core, and with cgroup v1. cpuset.cpus of what is not a granted container's cgroup, or above one.
//!
//! By the cgroups and not by answers to NRI: those come too late for what runs already, cannot be taken back, and NRI
//! refuses a container on which two plugins set a cpuset.

use std::path::{Path, PathBuf};

use super::{
    Area, Demand, Format, Kernel, Quieted, Setting, Want,
    cgroup::{ROOT, Version, path, version, wants_partition},
};
use crate::cores::set::CpuSet;

/// kubepods.slice / QoS class / pod / container, below a kind node's two.
const DEPTH: usize = 7;

pub(super) fn settings(kernel: &impl Kernel, demand: &Demand) -> Vec<Setting> {
    let version = version(kernel);
    let open = demand.grants.iter().filter(|grant| is_open(demand, grant, version));
    let Some(cores) = CpuSet::new(open.flat_map(|grant| grant.cores.iter()).collect()) else {
        return Vec::new();
    };
    let root = match version {
        Version::V1 => Path::new(ROOT).join("cpuset"),
        Version::V2 => PathBuf::from(ROOT),
    };
    let granted = demand.grants.iter().filter_map(|grant| grant.cgroup.as_deref());
    let granted: Vec<PathBuf> = granted.map(|name| root.join(path(name))).collect();
    let mut others = Vec::new();
    walk(kernel, &Walk { version, granted: &granted }, &root, DEPTH, &mut others);
    let elsewhere = demand.online.without(&cores).unwrap_or_else(|| demand.housekeeping.clone());
    let setting = |folder: PathBuf| {
        let name = folder.strip_prefix(&root).unwrap_or(&folder).display().to_string();
        let want = Want::Without {
            cpus: cores.clone(),
            instead: elsewhere.clone(),
            format: match version {
                Version::V1 => Format::List,
                Version::V2 => Format::ListOrAll,
            },
        };
        Setting {
            area: Area::OthersCgroup,
            name: format!("cpuset.cpus of {name}"),
            file: folder.join("cpuset.cpus"),
            want,
            effective: None,
            cpus: cores.clone(),
        }
    };
    others.into_iter().map(setting).collect()
}

/// May anybody's threads be scheduled on its cores, as far as partitions and the boot are concerned?
fn is_open(demand: &Demand, grant: &Quieted, version: Version) -> bool {
    let by_boot = demand.boot_isolated.as_ref().is_some_and(|isolated| grant.cores.is_subset(isolated));
    let refused = demand.no_partition.as_ref().is_some_and(|refused| refused.overlaps(&grant.cores));
    let is_whole = grant.cpus == grant.cores;
    let by_partition = version == Version::V2 && wants_partition(demand, grant) && is_whole && !refused;
    !by_boot && !by_partition
}

struct Walk<'a> {
    version: Version,
    granted: &'a [PathBuf],
}

/// With v2 the outermost folder of others decides for all below it; with v1 each has its own, and the innermost do.
fn walk(kernel: &impl Kernel, walk_: &Walk<'_>, folder: &Path, depth: usize, others: &mut Vec<PathBuf>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for name in kernel.folders(folder).unwrap_or_default() {
        let below = folder.join(name);
        let is_granted = walk_.granted.iter().any(|granted| below.starts_with(granted));
        let is_above = walk_.granted.iter().any(|granted| granted.starts_with(&below));
        let has_more = || kernel.folders(&below).is_ok_and(|names| !names.is_empty());
        match walk_.version {
            _ if is_granted => {}
            Version::V2 if is_above => walk(kernel, walk_, &below, depth, others),
            Version::V1 if is_above || has_more() => walk(kernel, walk_, &below, depth, others),
            Version::V1 | Version::V2 => others.push(below),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::quiet::{keeper::Keeper, tree::Tree};

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    fn grant(cgroup: &str) -> Quieted {
        Quieted {
            cores: set("2-3"),
            cpus: set("2-3"),
            shared: None,
            cgroup: Some(cgroup.to_owned()),
            wakeup_latency_us: None,
            governor: None,
        }
    }

    fn demand(grant: Quieted) -> Demand {
        Demand {
            grants: vec![grant],
            online: set("0-4"),
            housekeeping: set("0-1"),
            boot_isolated: None,
            no_partition: None,
        }
    }

    /// A strict pod with a sidecar, another pod, and the machine's daemons; each with its own idea of its cpuset.
    fn machine(root: &str, inherited: &str) -> Tree {
        let tree = Tree::default();
        for (folder, cpus) in [
            ("kubepods", inherited),
            ("kubepods/podS", inherited),
            ("kubepods/podS/strict", "0,2-3"),
            ("kubepods/podS/sidecar", inherited),
            ("kubepods/podO", inherited),
            ("kubepods/podO/o", "1-2"),
            ("system.slice", "3"),
            ("user.slice", inherited),
        ] {
            tree.set(format!("{root}/{folder}/cpuset.cpus"), cpus);
        }
        tree
    }

    /// What changes, and that it becomes again what it was.
    #[track_caller]
    fn check(tree: &Tree, demand: &Demand, expect: Expect) {
        let before = tree.files();
        let mut keeper = Keeper::new(tree.clone(), tree.clone(), tree.journal());
        keeper.keep(&settings(tree, demand)).unwrap();
        let changed = tree.files().into_iter().filter(|(file, text)| before.get(file) != Some(text));
        let lines: Vec<String> =
            changed.map(|(file, text)| format!("{} {}", file.display(), text.trim_end())).collect();
        expect.assert_eq(&lines.join("\n"));
        keeper.keep(&[]).unwrap();
        assert_eq!(tree.files(), before);
    }

    fn v2() -> Tree {
        let tree = machine("/sys/fs/cgroup", "");
        tree.set("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu");
        tree
    }

    #[test]
    fn beside_shared_cpus_all_others_leave_the_cores_also_a_sidecar() {
        let shared = Quieted { shared: Some(set("0")), ..grant("/kubepods/podS/strict") };
        check(
            &v2(),
            &demand(shared),
            expect![[r#"
                /sys/fs/cgroup/kubepods/podO/cpuset.cpus 0-1,4
                /sys/fs/cgroup/kubepods/podS/sidecar/cpuset.cpus 0-1,4
                /sys/fs/cgroup/system.slice/cpuset.cpus 0-1,4
                /sys/fs/cgroup/user.slice/cpuset.cpus 0-1,4"#]],
        );
    }

    #[test]
    fn a_cgroup_with_processes_has_all_cpus_again_where_it_had_no_set_of_its_own() {
        let tree = v2();
        tree.set("/sys/devices/system/cpu/possible", "0-7");
        tree.populate("/sys/fs/cgroup/user.slice/cpuset.cpus");
        let shared = Quieted { shared: Some(set("0")), ..grant("/kubepods/podS/strict") };
        let mut keeper = Keeper::new(tree.clone(), tree.clone(), tree.journal());
        keeper.keep(&settings(&tree, &demand(shared))).unwrap();
        assert_eq!(tree.get("/sys/fs/cgroup/user.slice/cpuset.cpus"), "0-1,4");
        assert_eq!(keeper.keep(&[]).unwrap().not_restored, Vec::<String>::new());
        assert_eq!(tree.get("/sys/fs/cgroup/user.slice/cpuset.cpus"), "0-7");
        assert_eq!(tree.get("/sys/fs/cgroup/kubepods/podO/cpuset.cpus"), "");
    }

    #[test]
    fn what_its_owner_sets_meanwhile_is_narrowed_and_given_back_and_never_widened() {
        let tree = v2();
        let file = "/sys/fs/cgroup/user.slice/cpuset.cpus";
        let shared = Quieted { shared: Some(set("0")), ..grant("/kubepods/podS/strict") };
        let mut keeper = Keeper::new(tree.clone(), tree.clone(), tree.journal());
        keeper.keep(&settings(&tree, &demand(shared.clone()))).unwrap();
        tree.set(file, "1-3");
        let pass = keeper.keep(&settings(&tree, &demand(shared))).unwrap();
        assert_eq!((tree.get(file).as_str(), pass.drift.len()), ("1", 1));
        keeper.keep(&[]).unwrap();
        assert_eq!(tree.get(file), "1-3");
    }

    #[test]
    fn the_idle_threads_of_a_core_are_nobody_elses() {
        let one_thread = Quieted { cpus: set("2"), ..grant("/kubepods/podS/strict") };
        let settings = settings(&v2(), &demand(one_thread));
        assert!(!settings.is_empty() && settings.iter().all(|setting| setting.cpus == set("2-3")));
    }

    #[test]
    fn what_a_partition_or_the_boot_keeps_needs_nothing() {
        let whole = demand(grant("/kubepods/podS/strict"));
        assert_eq!(settings(&v2(), &whole), []);
        let shared = Quieted { shared: Some(set("0")), ..grant("/kubepods/podS/strict") };
        let boot = Demand { boot_isolated: Some(set("2-3")), ..demand(shared) };
        assert_eq!(settings(&v2(), &boot), []);
        let refused = Demand { no_partition: Some(set("2")), ..whole };
        assert!(!settings(&v2(), &refused).is_empty());
    }

    #[test]
    fn with_cgroup_v1_each_cgroup_of_others_is_set_by_itself() {
        check(
            &machine("/sys/fs/cgroup/cpuset", "0-3"),
            &demand(grant("/kubepods/podS/strict")),
            expect![[r#"
                /sys/fs/cgroup/cpuset/kubepods/podO/o/cpuset.cpus 1
                /sys/fs/cgroup/cpuset/kubepods/podS/sidecar/cpuset.cpus 0-1
                /sys/fs/cgroup/cpuset/system.slice/cpuset.cpus 0-1,4
                /sys/fs/cgroup/cpuset/user.slice/cpuset.cpus 0-1"#]],
        );
    }
}
