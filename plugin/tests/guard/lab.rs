//! What only a nohz_full kernel with BPF LSM shows.

use std::{fs, path::Path};

use quietcore::{
    arm::plan::Provider,
    guard::{
        abi::{
            QC_EXCEPTION, QC_INTERRUPT, QC_KIND_ARM_REFUSED, QC_KIND_ARMED, QC_KIND_DISARMED,
            QC_KIND_LEFT_CORE, QC_KIND_TICK, QC_KIND_TRAP, QC_REFUSED_TICK, QC_SYSCALL, QC_TICK_KNOWN,
        },
        detector::Detector,
        load::Guard,
    },
    policy::effective::Action,
};

use crate::{
    blame::{calls, end, is, on, spin},
    counts::only,
    stand::{Stand, story},
};

#[track_caller]
fn check_file(path: &str, expect: &str) {
    assert_eq!(fs::read_to_string(path).unwrap().trim(), expect, "{path}");
}

#[test]
fn its_kernel_stops_the_tick_of_three_cores_and_isolates_them() {
    check_file("/sys/devices/system/cpu/online", "0-3");
    check_file("/sys/devices/system/cpu/nohz_full", "1-3");
    check_file("/sys/devices/system/cpu/isolated", "1-3");
}

#[test]
fn its_kernel_lets_bpf_decide() {
    let lsm = fs::read_to_string("/sys/kernel/security/lsm").unwrap();
    assert!(lsm.trim().split(',').any(|name| name == "bpf"), "{lsm}");
}

#[test]
fn it_has_what_a_node_has() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounted: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for at in ["/sys/fs/bpf", "/sys/fs/cgroup", "/sys/kernel/debug", "/sys/kernel/security"] {
        assert!(mounted.contains(&at), "{at} in {mounts}");
    }
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap();
    assert!(controllers.split_whitespace().any(|controller| controller == "cpuset"), "{controllers}");
    assert!(Path::new("/sys/kernel/tracing/events/context_tracking/user_exit").exists());
}

#[test]
fn the_better_detector_and_provider_are_chosen_by_themselves() {
    let stand = Stand::new();
    assert_eq!((stand.guard().detector, stand.guard().provider), (Detector::Edge, Provider::Lsm));
}

#[test]
fn an_instruction_that_the_kernel_emulates_is_an_exception_that_nobody_else_tells() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_EXCEPTION, Action::Report), "emulated", 1_000);
    let traps = run.of_kind(QC_KIND_TRAP);
    assert_eq!((traps.len(), run.counts.violations[1]), (1_000, 1_000));
    assert!(traps.iter().all(|trap| trap.detail == 0), "no signal came of them");
}

#[test]
fn a_core_that_goes_offline_disarms_its_thread_and_says_so() {
    let stand = Stand::on("3");
    let mut run = stand.start_entries(&only(QC_INTERRUPT, Action::Report), "spin", 0);
    run.wait_for("arming");
    stand.wait_until("it is armed", |records| story(records).contains(&QC_KIND_ARMED));
    fs::write("/sys/devices/system/cpu/cpu3/online", "0").unwrap();
    stand.wait_until("it left", |records| story(records).contains(&QC_KIND_LEFT_CORE));
    fs::write("/sys/devices/system/cpu/cpu3/online", "1").unwrap();
    let run = run.kill(&stand);
    assert_eq!(story(&run.records), [QC_KIND_ARMED, QC_KIND_LEFT_CORE]);
}

#[track_caller]
fn check_calls(stand: &Stand) {
    let run = stand.run_entries(&only(QC_SYSCALL, Action::Count), "calls", 10_000);
    assert_eq!(run.counts.violations, [10_000, 0, 0, 0], "{}", run.output);
    assert_eq!((run.counts.signals, run.counts.lost, run.counts.unwatched), (0, 0, 0));
    assert_eq!(story(&run.records), [QC_KIND_ARMED, QC_KIND_DISARMED]);
}

#[test]
fn ten_thousand_system_calls_are_as_many_violations_for_the_tracepoint_detector() {
    check_calls(&Stand::with("2", Detector::Tracepoint));
}

#[test]
fn ten_thousand_system_calls_are_as_many_violations_for_the_edge_detector() {
    check_calls(&Stand::with("2", Detector::Edge));
}

/// include/linux/tick.h
const TICK_DEP_MASK_SCHED: u32 = 1 << 2;

#[test]
fn a_tick_is_told_with_what_keeps_it() {
    let stand = Stand::new();
    let run = spin(&stand);
    let hog = on("1", &["sh", "-c", "while :; do :; done"]);
    let kept_by_scheduler = QC_TICK_KNOWN | TICK_DEP_MASK_SCHED;
    stand.wait_until("the scheduler was named", |records| {
        let mut ticks = records.iter().filter(|record| is(record, QC_KIND_TICK));
        ticks.any(|tick| tick.tick_dependency & kept_by_scheduler == kept_by_scheduler)
    });
    end(hog);
    run.kill(&stand);
}

/// Where no other guard is attached: the tracepoints' second program is the one for which the kernel is patched.
#[test]
fn who_attaches_bpf_programs_is_blamed_by_name() {
    let stand = Stand::new();
    let run = spin(&stand);
    let attach = || Guard::start_private(Detector::Edge, &"2".parse().unwrap()).map(drop);
    let attacher = std::thread::Builder::new().name("attacher".into());
    attacher.spawn(attach).unwrap().join().unwrap().unwrap();
    let run = run.kill(&stand);
    let expected = ("attacher".to_owned(), std::process::id(), "do_sync_core".to_owned());
    let calls = calls(&run.records);
    assert!(calls.contains(&expected), "{calls:?}");
}

#[test]
fn a_core_whose_tick_cannot_stop_is_not_ready_and_its_owner_hears_once_why() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(QC_INTERRUPT, Action::Report), "not-ready", 0);
    assert_eq!((run.told("busy").as_str(), run.told("alone").as_str()), ("-11", "0"), "{}", run.output);
    let refused = run.only(QC_KIND_ARM_REFUSED);
    let by_scheduler = 1 << 2;
    assert_eq!(refused.detail, u64::from(QC_REFUSED_TICK));
    assert_eq!(refused.tick_dependency & by_scheduler, by_scheduler);
}
