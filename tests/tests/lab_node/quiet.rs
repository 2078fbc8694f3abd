//! What the agent makes of the kernel's settings while cores are granted, and afterwards: all of it read from the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use quietcore_tests::wait::{Seen, until};

use crate::node::{Node, Pod};

const SOON: Duration = Duration::from_secs(120);
const CGROUP: &str = "/sys/fs/cgroup";

/// Did the boot take the cores from the scheduler (isolcpus=domain)? Else a partition does.
pub(crate) fn isolated_by_boot() -> bool {
    !read("/sys/devices/system/cpu/isolated").is_empty()
}

/// What a kernel does not give back after the last grant. Compared exactly: a file that is given back one day is taken
/// out here, and another kernel has a line of its own.
const KEPT_BY_KERNEL: [(&str, &[&str]); 1] = [("6.12.", &[])];

fn kept_by_kernel() -> &'static [&'static str] {
    let release = read("/proc/sys/kernel/osrelease");
    let known = KEPT_BY_KERNEL.iter().find(|(beginning, _)| release.starts_with(beginning));
    known.unwrap_or_else(|| panic!("what kernel {release} keeps is not listed")).1
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim_end().to_owned()
}

/// Every setting of this kernel that the agent may touch.
fn settings() -> BTreeMap<String, String> {
    let mut files: Vec<String> = [
        "/proc/irq/default_smp_affinity",
        "/proc/sys/kernel/watchdog_cpumask",
        "/proc/sys/kernel/timer_migration",
        "/proc/sys/vm/stat_interval",
        "/sys/devices/system/machinecheck/machinecheck0/check_interval",
        "/sys/devices/virtual/workqueue/cpumask",
        "/sys/devices/virtual/workqueue/cpumask_isolated",
        "/sys/block/nvme0n1/queue/wbt_lat_usec",
        "/sys/fs/cgroup/cpuset.cpus.isolated",
        "/sys/fs/cgroup/kubepods/cpuset.cpus.exclusive",
        "/sys/fs/cgroup/kubepods/besteffort/cpuset.cpus.exclusive",
    ]
    .map(str::to_owned)
    .to_vec();
    files.extend(below("/proc/irq", "smp_affinity_list"));
    files.extend(below("/sys/devices/virtual/workqueue", "cpumask"));
    files.extend((0..4).map(|cpu| format!("/sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime")));
    files.into_iter().map(|file| (file.clone(), read(&file))).collect()
}

fn below(folder: &str, name: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path().join(name)).filter(|file| file.exists());
    files.map(|file| file.display().to_string()).collect()
}

/// Where a pod's container is, once it runs.
pub(crate) fn cgroup(pod: &Pod) -> String {
    let id = pod.wait_container_id();
    let found = find(Path::new(CGROUP), &id, 5);
    found.unwrap_or_else(|| panic!("no cgroup of {id}"))
}

fn find(folder: &Path, name: &str, depth: u32) -> Option<String> {
    let folders: Vec<_> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    let here = folders.iter().find(|path| path.ends_with(name)).map(|path| path.display().to_string());
    here.or_else(|| folders.iter().find_map(|path| find(path, name, depth.checked_sub(1)?)))
}

/// Nothing is granted, and everything given back.
#[track_caller]
fn wait_for_rest(before: &BTreeMap<String, String>) {
    until("the settings to be as before", SOON, || {
        let differences: Vec<String> = settings()
            .iter()
            .filter(|(file, now)| {
                before.get(*file) != Some(now) && !kept_by_kernel().contains(&file.as_str())
            })
            .map(|(file, now)| format!("{file}: {:?} before, {now:?} now", before.get(file)))
            .collect();
        Ok(if differences.is_empty() { Seen::Done(()) } else { Seen::NotYet(differences.join("\n")) })
    });
    for file in kept_by_kernel() {
        assert_ne!(before.get(*file), Some(&read(file)), "this kernel gives {file} back");
    }
}

/// What is given back is given back in one go, which takes a moment here.
#[track_caller]
pub(crate) fn at_rest() -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    until("no core to be granted", SOON, || {
        let servers =
            (1..4).map(|cpu| read(&format!("/sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime")));
        let n_quiet = servers.filter(|runtime| runtime == "0").count();
        let now = settings();
        let interval = read("/proc/sys/vm/stat_interval");
        let is_still = std::mem::replace(&mut last, now.clone()) == now;
        let rests = n_quiet == 0 && interval != "120" && is_still;
        Ok(if rests {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{n_quiet} deadline servers off, {interval}"))
        })
    });
    last
}

#[test]
fn a_grant_changes_the_node_as_far_as_it_must_and_its_end_gives_all_of_it_back() {
    let node = Node::get();
    let before = at_rest();
    let pod = node.pod("settings", "all", "spin");
    pod.wait_log("arming");
    let folder = cgroup(&pod);
    let core = read(&format!("{folder}/cpuset.cpus.effective"));
    assert!(["1", "2", "3"].contains(&&*core), "{core}");
    let partition = if isolated_by_boot() { "member" } else { "isolated" };
    assert_eq!(read(&format!("{folder}/cpuset.cpus.partition")), partition);
    assert_eq!(read(&format!("{folder}/cpu.max")), "max 100000");
    assert_eq!(read(&format!("/sys/kernel/debug/sched/fair_server/cpu{core}/runtime")), "0");
    assert_eq!(read("/sys/devices/system/machinecheck/machinecheck0/check_interval"), "0");
    assert_eq!(read("/proc/sys/vm/stat_interval"), "120");
    for file in below("/proc/irq", "effective_affinity_list") {
        // a queue of the core's own, which serves nobody else
        let own = read(&file.replace("effective", "smp")) == core;
        assert!(own || read(&file) != core, "{file}");
    }
    assert!(node.told(&pod).is_empty(), "{:?}", node.told(&pod));
    drop(pod);
    wait_for_rest(&before);
}

#[test]
fn two_grants_share_what_is_the_nodes_and_each_gives_back_its_own() {
    let node = Node::get();
    let before = at_rest();
    let first = node.pod("first", "all", "spin");
    first.wait_log("arming");
    let second = node.pod("second", "all", "spin");
    second.wait_log("arming");
    let folders = [&first, &second].map(cgroup);
    let cores = folders.each_ref().map(|folder| read(&format!("{folder}/cpuset.cpus.effective")));
    assert_ne!(cores[0], cores[1]);
    drop(first);
    let server = |core: &str| read(&format!("/sys/kernel/debug/sched/fair_server/cpu{core}/runtime"));
    until("the first one's core to be given back", SOON, || {
        let runtime = server(&cores[0]);
        Ok(if runtime == "0" { Seen::NotYet(runtime) } else { Seen::Done(()) })
    });
    assert_eq!((server(&cores[1]), read("/proc/sys/vm/stat_interval")), ("0".to_owned(), "120".to_owned()));
    assert!(node.told(&second).is_empty(), "{:?}", node.told(&second));
    drop(second);
    wait_for_rest(&before);
}

#[test]
fn what_somebody_changes_is_set_again_and_the_owner_hears_of_it() {
    let node = Node::get();
    let before = at_rest();
    let pod = node.pod("drifts", "report", "spin");
    pod.wait_log("arming");
    let folder = cgroup(&pod);
    let core = read(&format!("{folder}/cpuset.cpus.effective"));
    let server = format!("/sys/kernel/debug/sched/fair_server/cpu{core}/runtime");
    fs::write(&server, "50000000").expect("a deadline server can be switched on");
    fs::write("/proc/sys/vm/stat_interval", "1").expect("a sysctl can be written");
    if !isolated_by_boot() {
        fs::write(format!("{folder}/cpuset.cpus.partition"), "member").expect("a partition can be dissolved");
    }
    let told = pod.wait_told("the deadline server", |note| {
        note.starts_with(&format!("somebody changed deadline server of CPU {core} to \"50000000\""))
    });
    assert_eq!(told["reason"], "DriftRepaired");
    pod.wait_told("the sysctl", |note| note.contains("vm.stat_interval") && note.contains("\"120\" again"));
    assert_eq!((read(&server), read("/proc/sys/vm/stat_interval")), ("0".to_owned(), "120".to_owned()));
    if !isolated_by_boot() {
        pod.wait_told("the partition", |note| note.contains("cpuset partition"));
        assert_eq!(read(&format!("{folder}/cpuset.cpus.partition")), "isolated");
    }
    drop(pod);
    wait_for_rest(&before);
}
