use expect_test::{Expect, expect};

use super::*;
use crate::check::facts::testing::{asked, files, lines};

#[track_caller]
fn check(tree: &[(&str, &str)], expect: Expect) {
    let (_root, tree) = files(tree);
    expect.assert_eq(&lines(&judge(&read(&tree, &Processes::read(&tree), &asked().cores), &asked())));
}

#[test]
fn a_node_as_it_comes_has_a_remedy_for_each() {
    check(
        &[
            (WORKQUEUE_MASKS[0], "f\n"),
            (WORKQUEUE_MASKS[1], "00000000,0000000f\n"),
            (WORKQUEUE_MASKS[2], "1\n"),
            (TIMER_MIGRATION_FILE, "0\n"),
            (WATCHDOG_FILE, "1\n"),
            (NMI_WATCHDOG_FILE, "1\n"),
            (WATCHDOG_MASK, "0-3\n"),
            ("sys/devices/system/machinecheck/machinecheck0/check_interval", "300\n"),
            (CLOCKSOURCE_FILE, "hpet\n"),
            (STAT_INTERVAL_FILE, "1\n"),
            ("proc/17/comm", "rcuop/1\n"),
            ("proc/17/status", "Cpus_allowed_list:\t0-3\n"),
        ],
        expect![[r#"
            RCU callbacks: missing: not offloaded: CPU 2-3 -> boot with rcu_nocbs=1-3 (nohz_full=1-3 does it too)
            workqueues: missing: these hold the cores: cpumask, writeback/cpumask -> echo 1 > /sys/devices/virtual/workqueue/cpumask; echo 1 > /sys/devices/virtual/workqueue/writeback/cpumask
            timer migration: missing: 0 -> sysctl kernel.timer_migration=1
            soft lockup watchdog: missing: on, for CPU 1-3 -> sysctl kernel.watchdog_cpumask=0
            NMI watchdog: missing: on, for CPU 1-3 -> sysctl kernel.nmi_watchdog=0, or kernel.watchdog_cpumask=0
            poll for machine checks: missing: every 300 s -> echo 0 > /sys/devices/system/machinecheck/machinecheck0/check_interval (errors still raise #MC), or boot with mce=ignore_ce
            clock source: missing: hpet -> boot with clocksource=tsc tsc=reliable, where the CPU's TSC is constant and synchronous
            vm.stat_interval: missing: 1 s -> sysctl vm.stat_interval=120
        "#]],
    );
}

#[test]
fn a_node_that_was_made_quiet_has_nothing_to_wish_for() {
    let threads: Vec<(String, String)> = (1..4)
        .flat_map(|cpu| {
            [
                (format!("proc/{}/comm", 16 + cpu), format!("rcuop/{cpu}\n")),
                (format!("proc/{}/status", 16 + cpu), "Cpus_allowed_list:\t0\n".to_owned()),
            ]
        })
        .collect();
    let threads = threads.iter().map(|(path, text)| (&**path, &**text));
    let settings = [
        (WORKQUEUE_MASKS[0], "1\n"),
        (TIMER_MIGRATION_FILE, "1\n"),
        (WATCHDOG_FILE, "1\n"),
        (NMI_WATCHDOG_FILE, "0\n"),
        (WATCHDOG_MASK, "0\n"),
        ("sys/devices/system/machinecheck/machinecheck0/check_interval", "0\n"),
        (CLOCKSOURCE_FILE, "tsc\n"),
        (STAT_INTERVAL_FILE, "1\n"),
        ("sys/devices/system/cpu/isolated", "1-3\n"),
    ];
    check(
        &threads.chain(settings).collect::<Vec<_>>(),
        expect![[r#"
        RCU callbacks: good: offloaded -> boot with rcu_nocbs=1-3 (nohz_full=1-3 does it too)
        workqueues: good: unbound work stays off -> 
        timer migration: good: 1 -> sysctl kernel.timer_migration=1
        soft lockup watchdog: good: on, not for these cores -> sysctl kernel.watchdog_cpumask=0
        NMI watchdog: good: off -> sysctl kernel.nmi_watchdog=0, or kernel.watchdog_cpumask=0
        poll for machine checks: good: off -> echo 0 > /sys/devices/system/machinecheck/machinecheck0/check_interval (errors still raise #MC), or boot with mce=ignore_ce
        clock source: good: tsc -> boot with clocksource=tsc tsc=reliable, where the CPU's TSC is constant and synchronous
        vm.stat_interval: good: 1 s, and the cores are isolated -> sysctl vm.stat_interval=120
    "#]],
    );
}

#[test]
fn threads_that_take_callbacks_here_are_named() {
    let threads = ["rcuop/1", "rcuop/2", "rcuos/3"];
    let files: Vec<(String, &str)> =
        (1..4).map(|pid| (format!("proc/{pid}/comm"), threads[pid - 1])).collect();
    let mut tree: Vec<(&str, &str)> = files.iter().map(|(path, comm)| (&**path, *comm)).collect();
    tree.push(("proc/2/status", "Cpus_allowed_list:\t0-3\n"));
    let (_root, tree) = super::super::testing::files(&tree);
    let facts = read(&tree, &Processes::read(&tree), &asked().cores);
    expect![[r#"
        RCU callbacks: missing: offloaded, to threads that may run here: rcuop/2 -> for t in $(pgrep rcuo); do taskset -pc 0 $t; done
    "#]].assert_eq(&lines(&[rcu(&facts, &asked())]));
}
