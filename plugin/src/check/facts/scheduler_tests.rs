use expect_test::{Expect, expect};

use super::*;
use crate::check::facts::testing::{asked, files, lines};

#[track_caller]
fn check(tree: &[(&str, &str)], expect: Expect) {
    let (_root, tree) = files(tree);
    expect.assert_eq(&lines(&judge(&read(&tree, &asked().cores), &asked())));
}

#[test]
fn a_node_that_was_booted_for_it_has_nothing_to_wish_for() {
    check(
        &[
            (NOHZ_FULL_FILE, "1-3\n"),
            (ISOLATED_FILE, "1-3\n"),
            ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,3\n"),
            ("sys/kernel/debug/sched/fair_server/cpu1/runtime", "0\n"),
            ("sys/kernel/debug/sched/fair_server/cpu2/runtime", "0\n"),
            ("sys/kernel/debug/sched/fair_server/cpu3/runtime", "0\n"),
            // Not read: nobody would write that.
            (RT_RUNTIME, "unread\n"),
        ],
        expect![[r#"
            nohz_full: good: 1-3 -> boot with nohz_full=1-3
            isolated CPUs: good: 1-3 -> boot with isolcpus=managed_irq,domain,1-3, or make a cpuset partition of type isolated
            SMT siblings: good: no core is shared with a CPU outside -> 
            deadline server (fair_server): good: off -> for n in CPUs 1-3: echo 0 > /sys/kernel/debug/sched/fair_server/cpuN/runtime
            real-time throttling: not here: the deadline server took its place -> nothing needs to change
        "#]],
    );
}

#[test]
fn a_node_as_it_comes_has_a_remedy_for_each() {
    check(
        &[
            (NOHZ_FULL_FILE, "(null)\n"),
            (ISOLATED_FILE, "\n"),
            ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n"),
            ("sys/kernel/debug/sched/fair_server/cpu1/runtime", "0\n"),
            ("sys/kernel/debug/sched/fair_server/cpu2/runtime", "50000000\n"),
            ("sys/kernel/debug/sched/fair_server/cpu3/runtime", "50000000\n"),
        ],
        expect![[r#"
            nohz_full: missing: none -> boot with nohz_full=1-3
            isolated CPUs: missing: none -> boot with isolcpus=managed_irq,domain,1-3, or make a cpuset partition of type isolated
            SMT siblings: missing: shared: CPU 2 with CPU 0 -> isolate CPU 0 too, or turn it off (chcpu -d 0)
            deadline server (fair_server): missing: on, for CPU 2-3 -> for n in CPUs 1-3: echo 0 > /sys/kernel/debug/sched/fair_server/cpuN/runtime
            real-time throttling: not here: the deadline server took its place -> nothing needs to change
        "#]],
    );
}

#[test]
fn a_partition_isolates_as_the_boot_does() {
    let (_root, tree) = files(&[(ISOLATED_FILE, "1\n"), (PARTITIONED_FILE, "2-3\n")]);
    assert_eq!(isolated(&tree), "1-3".parse().ok());
}

#[test]
fn a_closed_debugfs_is_not_a_kernel_without_the_server() {
    check(
        &[],
        expect![[r#"
            nohz_full: missing: none -> boot with nohz_full=1-3
            isolated CPUs: missing: none -> boot with isolcpus=managed_irq,domain,1-3, or make a cpuset partition of type isolated
            SMT siblings: good: no core is shared with a CPU outside -> 
            deadline server (fair_server): unknown: no debugfs is mounted, or this kernel keeps it closed -> mount -t debugfs debugfs /sys/kernel/debug; then for n in CPUs 1-3: echo 0 > /sys/kernel/debug/sched/fair_server/cpuN/runtime
            real-time throttling: unknown: not read without debugfs: on Linux 6.12 to read it rebuilds the scheduling domains -> only for programs of SCHED_FIFO or SCHED_RR: sysctl kernel.sched_rt_runtime_us=-1
        "#]],
    );
    check(
        &[("sys/kernel/debug/sched/debug", ""), (RT_RUNTIME, "950000\n")],
        expect![[r#"
            nohz_full: missing: none -> boot with nohz_full=1-3
            isolated CPUs: missing: none -> boot with isolcpus=managed_irq,domain,1-3, or make a cpuset partition of type isolated
            SMT siblings: good: no core is shared with a CPU outside -> 
            deadline server (fair_server): not here: this kernel has none -> nothing needs to change
            real-time throttling: missing: sched_rt_runtime_us=950000 -> only for programs of SCHED_FIFO or SCHED_RR: sysctl kernel.sched_rt_runtime_us=-1
        "#]],
    );
}
