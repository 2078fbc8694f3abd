use expect_test::{Expect, expect};

use super::*;
use crate::check::facts::testing::{asked, files, lines};

#[track_caller]
fn check(tree: &[(&str, &str)], expect: Expect) {
    let (_root, tree) = files(tree);
    expect.assert_eq(&lines(&judge(&read(&tree, &Processes::read(&tree)), &asked())));
}

#[test]
fn interrupts_are_told_by_name_and_managed_ones_apart() {
    check(
        &[
            ("proc/irq/9/effective_affinity_list", "0\n"),
            ("proc/irq/9/acpi/x", ""),
            ("proc/irq/24/effective_affinity_list", "2\n"),
            ("proc/irq/24/smp_affinity_list", "0-3\n"),
            ("proc/irq/24/eth0-rx-0/x", ""),
            ("proc/irq/25/smp_affinity_list", "3\n"),
            ("proc/irq/25/nvme0q1/x", ""),
            // Nobody handles it.
            ("proc/irq/26/effective_affinity_list", "1\n"),
            ("proc/irq/30/effective_affinity_list", "1\n"),
            ("proc/irq/30/mlx5_comp1/x", ""),
            ("sys/kernel/debug/irq/irqs/30", "dstate: 0x09401200\n  IRQD_AFFINITY_MANAGED\n"),
            (DEFAULT_MASK, "f\n"),
            (COMMAND_LINE, "BOOT_IMAGE=/vmlinuz isolcpus=1-3 quiet\n"),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "6\n"),
            ("sys/class/net/eth0/queues/tx-0/xps_cpus", "1\n"),
        ],
        expect![[r#"
            managed interrupts: missing: CPU 1-3 not in isolcpus=managed_irq; 25 (nvme0q1), 30 (mlx5_comp1) -> boot with isolcpus=managed_irq,domain,1-3
            device interrupts: missing: 24 (eth0-rx-0) -> echo 0 > /proc/irq/N/smp_affinity_list, or boot with irqaffinity=0
            default affinity: missing: CPU 0-3 -> echo 1 > /proc/irq/default_smp_affinity, or boot with irqaffinity=0
            irqbalance: good: not running -> IRQBALANCE_BANNED_CPULIST=1-3 in /etc/default/irqbalance or /etc/sysconfig/irqbalance, then restart it; or stop it
            packet steering (RPS, XPS): missing: eth0 rx-0 -> echo 1 > /sys/class/net/NIC/queues/rx-N/rps_cpus, and the same for tx-N/xps_cpus
        "#]],
    );
}

#[test]
fn nothing_comes_to_a_core_that_was_kept_free() {
    check(
        &[
            ("proc/irq/24/effective_affinity_list", "0\n"),
            ("proc/irq/24/nvme0q1/x", ""),
            (DEFAULT_MASK, "00000001\n"),
            (COMMAND_LINE, "isolcpus=managed_irq,domain,1-3\n"),
        ],
        expect![[r#"
            managed interrupts: good: isolcpus=managed_irq -> boot with isolcpus=managed_irq,domain,1-3
            device interrupts: good: none comes here -> echo 0 > /proc/irq/N/smp_affinity_list, or boot with irqaffinity=0
            default affinity: good: CPU 0 -> echo 1 > /proc/irq/default_smp_affinity, or boot with irqaffinity=0
            irqbalance: good: not running -> IRQBALANCE_BANNED_CPULIST=1-3 in /etc/default/irqbalance or /etc/sysconfig/irqbalance, then restart it; or stop it
            packet steering (RPS, XPS): good: no queue's mask holds the cores -> echo 1 > /sys/class/net/NIC/queues/rx-N/rps_cpus, and the same for tx-N/xps_cpus
        "#]],
    );
}

#[track_caller]
fn check_balance(environment: &str, isolated: &str, expect: Expect) {
    let (_root, tree) = files(&[
        ("proc/77/comm", "irqbalance\n"),
        ("proc/77/environ", environment),
        ("sys/devices/system/cpu/isolated", isolated),
    ]);
    let facts = read(&tree, &Processes::read(&tree));
    expect.assert_eq(&balance(&facts, &asked()).found);
}

#[test]
fn irqbalance_is_judged_by_what_it_was_told() {
    check_balance(
        "A=b\0IRQBALANCE_BANNED_CPULIST=1-3\0",
        "",
        expect!["running, told to leave CPU 1-3 alone"],
    );
    check_balance("IRQBALANCE_BANNED_CPUS=0000000e\0", "", expect!["running, told to leave CPU 1-3 alone"]);
    check_balance(
        "IRQBALANCE_BANNED_CPULIST=2\0",
        "1-3",
        expect!["running, not told to leave CPU 1,3 alone"],
    );
    check_balance("A=b\0", "1-3", expect!["running; by itself it leaves CPUs alone that the boot isolated"]);
    check_balance("A=b\0", "2", expect!["running, not told to leave CPU 1,3 alone"]);
}

#[test]
fn the_flags_of_isolcpus_are_told_from_its_list() {
    let off = |line: &str| managed_off(line).map(|cpus| cpus.to_string());
    assert_eq!(off("a isolcpus=domain,managed_irq,1-3,5 b"), Some("1-3,5".into()));
    assert_eq!([off("isolcpus=1-3"), off("isolcpus=managed_irq,domain,"), off("")], [None, None, None]);
}

#[test]
fn queues_of_block_devices_look_managed_and_others_do_not() {
    let managed = ["nvme0q1", "nvme10q12", "virtio3-req.0", "virtio1-request.2"];
    assert!(managed.into_iter().all(looks_managed));
    assert!(
        !["nvme0q0", "nvme", "eth0-rx-1", "virtio0-config", "virtio4-input.0"].into_iter().any(looks_managed)
    );
}
