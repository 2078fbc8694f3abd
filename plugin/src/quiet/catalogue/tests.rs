use expect_test::{Expect, expect};
use nix::errno::Errno;

use super::*;
use crate::quiet::{
    keeper::Keeper,
    tree::{Fault, Tree},
};

fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn grant(cpus: &str, cgroup: &str) -> Quieted {
    Quieted {
        cores: set(cpus),
        cpus: set(cpus),
        shared: None,
        cgroup: Some(cgroup.to_owned()),
        wakeup_latency_us: None,
        governor: None,
    }
}

fn demand(grants: &[Quieted]) -> Demand {
    Demand {
        grants: grants.to_vec(),
        online: set("0-3"),
        housekeeping: set("0"),
        boot_isolated: None,
        no_partition: None,
    }
}

const POD_A: &str = "/kubepods/burstable/podA/a";
const POD_B: &str = "/kubepods/podB/b";

/// What there is on a small node of cgroup v2.
fn machine() -> Tree {
    let tree = Tree::of(&[
        ("/proc/irq/default_smp_affinity", "f"),
        ("/proc/irq/9/smp_affinity_list", "0-3"),
        ("/proc/irq/24/smp_affinity_list", "1"),
        ("/proc/irq/24/nvme0q1/x", ""),
        ("/proc/sys/kernel/watchdog_cpumask", "0-3"),
        ("/proc/sys/kernel/timer_migration", "1"),
        ("/proc/sys/vm/stat_interval", "1"),
        ("/sys/class/net/eth0/queues/rx-0/rps_cpus", "0"),
        ("/sys/class/net/eth0/queues/tx-0/xps_cpus", "f"),
        ("/sys/devices/system/machinecheck/machinecheck0/check_interval", "12c"),
        ("/sys/block/nvme0n1/queue/wbt_lat_usec", "2000"),
        ("/sys/devices/virtual/workqueue/cpumask", "f"),
        ("/sys/devices/virtual/workqueue/writeback/cpumask", "f"),
        ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory"),
    ]);
    for cpu in 0..4 {
        tree.set(format!("/sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime"), "50000000");
        tree.set(format!("/sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us"), "0");
        tree.set(format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"), "schedutil");
    }
    for folder in ["kubepods", "kubepods/burstable", "kubepods/burstable/podA", "kubepods/podB"] {
        tree.set(format!("/sys/fs/cgroup/{folder}/cpuset.cpus.exclusive"), "");
        tree.set(format!("/sys/fs/cgroup/{folder}/cpu.max"), "max 100000");
    }
    for (folder, cpus) in [(POD_A, "1"), (POD_B, "2-3")] {
        tree.set(format!("/sys/fs/cgroup{folder}/cpuset.cpus"), cpus);
        tree.set(format!("/sys/fs/cgroup{folder}/cpuset.cpus.exclusive"), "");
        tree.set(format!("/sys/fs/cgroup{folder}/cpuset.cpus.partition"), "member");
        tree.set(format!("/sys/fs/cgroup{folder}/cpu.max"), "200000 100000");
    }
    tree
}

/// What a pass over the whole catalogue changes.
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

#[test]
fn a_granted_core_changes_this_and_its_release_gives_all_of_it_back() {
    let quick =
        Quieted { wakeup_latency_us: Some(0), governor: Some("performance".to_owned()), ..grant("1", POD_A) };
    check(
        &machine(),
        &demand(&[quick]),
        expect![[r#"
        /proc/irq/24/smp_affinity_list 0
        /proc/irq/9/smp_affinity_list 0,2-3
        /proc/irq/default_smp_affinity d
        /proc/sys/kernel/watchdog_cpumask 0,2-3
        /proc/sys/vm/stat_interval 120
        /sys/block/nvme0n1/queue/wbt_lat_usec 0
        /sys/class/net/eth0/queues/tx-0/xps_cpus d
        /sys/devices/system/cpu/cpu1/cpufreq/scaling_governor performance
        /sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us n/a
        /sys/devices/system/machinecheck/machinecheck0/check_interval 0
        /sys/devices/virtual/workqueue/cpumask d
        /sys/devices/virtual/workqueue/writeback/cpumask d
        /sys/fs/cgroup/kubepods/burstable/cpuset.cpus.exclusive 1
        /sys/fs/cgroup/kubepods/burstable/podA/a/cpu.max max
        /sys/fs/cgroup/kubepods/burstable/podA/a/cpuset.cpus.exclusive 1
        /sys/fs/cgroup/kubepods/burstable/podA/a/cpuset.cpus.partition isolated
        /sys/fs/cgroup/kubepods/burstable/podA/cpuset.cpus.exclusive 1
        /sys/fs/cgroup/kubepods/cpuset.cpus.exclusive 1
        /sys/kernel/debug/sched/fair_server/cpu1/runtime 0"#]],
    );
}

#[test]
fn folders_above_two_grants_have_both() {
    let two = demand(&[grant("1", POD_A), grant("2-3", POD_B)]);
    let exclusive =
        settings(&machine(), &two).into_iter().filter(|setting| setting.name.contains("exclusive"));
    let lines: Vec<String> = exclusive.map(|setting| format!("{} {}", setting.name, setting.cpus)).collect();
    expect![[r#"
        cpuset.cpus.exclusive of kubepods 1-3
        cpuset.cpus.exclusive of kubepods/burstable 1
        cpuset.cpus.exclusive of kubepods/burstable/podA 1
        cpuset.cpus.exclusive of kubepods/burstable/podA/a 1
        cpuset.cpus.exclusive of kubepods/podB 2-3
        cpuset.cpus.exclusive of kubepods/podB/b 2-3"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn a_core_that_is_isolated_since_the_boot_gets_no_partition_and_neither_does_one_with_shared_cpus() {
    let boot = Demand { boot_isolated: Some(set("1")), ..demand(&[grant("1-2", POD_A)]) };
    let shared = demand(&[Quieted { shared: Some(set("0")), ..grant("1", POD_A) }]);
    for demand in [boot, shared] {
        let settings = settings(&machine(), &demand);
        let partition = settings.iter().find(|setting| setting.file.ends_with("cpuset.cpus.partition"));
        assert_eq!(partition, None);
        assert!(!settings.iter().any(|setting| setting.name.contains("exclusive")));
    }
}

#[test]
fn without_a_grant_nothing_is_asked_for() {
    assert_eq!(settings(&machine(), &demand(&[])), []);
}

/// A day of two containers, of which each operation fails once: whoever is there then keeps what it has.
#[test]
fn a_failure_takes_nothing_from_a_container_that_runs() {
    let day =
        [vec![grant("1", POD_A)], vec![grant("1", POD_A), grant("2-3", POD_B)], vec![grant("1", POD_A)]];
    let kept =
        ["/proc/irq/9/smp_affinity_list", "/sys/fs/cgroup/kubepods/burstable/podA/a/cpuset.cpus.partition"];
    for errno in [Errno::EIO, Errno::EBUSY, Errno::EACCES, Errno::ENOSPC, Errno::EINVAL] {
        for nth in 0.. {
            let tree = machine();
            let mut keeper = Keeper::new(tree.clone(), tree.clone(), tree.journal());
            keeper.keep(&settings(&tree, &demand(&day[0]))).unwrap();
            tree.fault(nth, Fault::Fails(errno));
            for grants in &day[1..] {
                let (settings, known) = all_settings(&tree, &demand(grants));
                let _told = keeper.keep_known(&settings, known);
                let affinity = set(&tree.get(kept[0]));
                assert!(!affinity.contains(CpuId::new(1).unwrap()), "{errno} at {nth}: {affinity}");
                assert_eq!(tree.get(kept[1]), "isolated", "{errno} at {nth}");
            }
            let reached = nth < tree.n_operations();
            tree.heal();
            if !reached {
                break;
            }
        }
    }
}

#[test]
fn an_interrupt_that_stays_is_named_with_its_handler() {
    let tree = machine();
    tree.forbid("/proc/irq/24/smp_affinity_list", nix::errno::Errno::EIO);
    let mut keeper = Keeper::new(tree.clone(), tree.clone(), tree.journal());
    let pass = keeper.keep(&settings(&tree, &demand(&[grant("1", POD_A)]))).unwrap();
    assert_eq!(fixed_interrupts(&tree, &pass), ["24 (nvme0q1)"]);
}

#[test]
fn a_runtime_names_a_cgroup_as_a_path_or_as_systemd_does() {
    let check = |name: &str, path: &str| assert_eq!(cgroup::path(name), std::path::Path::new(path));
    check("/kubepods/burstable/pod1/c", "kubepods/burstable/pod1/c");
    check(
        "kubepods-burstable-pod1_2.slice:cri-containerd:c",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-c.scope",
    );
    check("system.slice:docker:c", "system.slice/docker-c.scope");
}
