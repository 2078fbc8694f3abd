//! `quietcore check` as a person runs it, on this machine's kernel: no nohz_full, and no BPF LSM program that
//! it would run. CPU 1 is the one that is measured.
#![allow(clippy::unwrap_used, reason = "this is a test, also what is not inside a #[test]")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use quietcore::{
    guard::{detector::Detector, load::Guard, rules::rules, slots::Slot},
    policy::accept::node_default,
};
use serde_json::Value;

fn check(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quietcore")).arg("check").args(flags).output().unwrap()
}

fn json(flags: &[&str]) -> Value {
    let output = check(&[flags, &["-o", "json"]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn finding<'a>(report: &'a Value, item: &str) -> &'a Value {
    report["findings"].as_array().unwrap().iter().find(|finding| finding["item"] == item).unwrap()
}

#[test]
fn this_kernel_gets_tracepoint_and_seccomp_and_the_reasons() {
    let output = check(&["--cpu", "1", "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = &report["verdict"];
    assert_eq!((&verdict["detector"], &verdict["provider"]), (&"Tracepoint".into(), &"Seccomp".into()));
    let reasons: Vec<&str> =
        verdict["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap()).collect();
    assert!(reasons[0].starts_with("not Edge: CPU 1 is not in nohz_full"), "{reasons:?}");
    assert!(reasons[1].starts_with("not Lsm: this kernel "), "{reasons:?}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_is_not_measured_is_not_told_as_zero() {
    let report = json(&["--cpu", "1"]);
    assert_eq!((&report["measured"], &report["leftOut"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    let nohz_full = finding(&report, "nohz_full");
    assert_eq!((&nohz_full["state"], &nohz_full["entriesPerMinute"]), (&"missing".into(), &Value::Null));
    assert_eq!(nohz_full["remedy"], "boot with nohz_full=1");
}

#[test]
fn the_tick_of_this_kernel_is_counted_and_put_down_to_nohz_full() {
    let report = json(&["--cpu", "1", "--for", "1s"]);
    let core = &report["measured"][0];
    assert_eq!((&core["cpu"], &core["seconds"]), (&1.into(), &1.0.into()));
    let causes = core["causes"].as_array().unwrap();
    let ticks = causes.iter().find(|cause| cause["cause"].as_str().unwrap().starts_with("local timer tick"));
    let ticks = ticks.unwrap_or_else(|| panic!("{causes:?}"));
    assert_eq!(ticks["class"], "interrupt");
    assert!(0.0 < ticks["perMinute"].as_f64().unwrap(), "{ticks}");
    let of_class = core["entriesPerMinute"]["interrupt"].as_f64().unwrap();
    assert!(ticks["perMinute"].as_f64().unwrap() <= of_class, "{core}");
    let put_down = finding(&report, "nohz_full")["entriesPerMinute"].as_f64().unwrap();
    assert!(ticks["perMinute"].as_f64().unwrap() <= put_down && put_down <= of_class, "{put_down}, {core}");
    // A loop that does nothing calls nobody.
    assert_eq!(core["entriesPerMinute"]["syscall"], 0.0);
}

/// Interrupts' affinity, which `exec` would move.
fn affinities() -> Vec<(PathBuf, String)> {
    let folders = fs::read_dir("/proc/irq").unwrap().map(|entry| entry.unwrap().path());
    let files = folders.map(|folder| folder.join("smp_affinity_list")).filter(|file| file.exists());
    let mut read: Vec<_> = files.map(|file| (file.clone(), fs::read_to_string(&file).unwrap())).collect();
    read.sort();
    read
}

#[test]
fn measuring_changes_no_setting_and_leaves_nobody_behind() {
    let before = affinities();
    let output = check(&["--cpu", "1", "--for", "1s"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("CPU 1, 1 s of a loop that does nothing: "), "{text}");
    assert_eq!(affinities(), before);
    assert!(!output.stderr.contains(&b'\r'), "no progress where no terminal is");
}

#[test]
fn a_core_where_a_program_runs_that_was_put_there_is_left_out_by_its_name() {
    let mut hog =
        Command::new("taskset").args(["-c", "1", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
    // It is a shell of its own once it was exec'd.
    let comm = Path::new("/proc").join(hog.id().to_string()).join("comm");
    while fs::read_to_string(&comm).unwrap().trim() != "sh" {
        std::thread::yield_now();
    }
    let report = json(&["--cpu", "1", "--for", "1s"]);
    hog.kill().unwrap();
    hog.wait().unwrap();
    assert_eq!(report["measured"], Value::Array(vec![]));
    let left_out = &report["leftOut"][0];
    assert_eq!(left_out["cpus"], "1");
    assert_eq!(left_out["why"], format!("sh (pid {}) runs there", hog.id()));
}

/// What an agent pins while a strict container runs.
struct Agent {
    pins: PathBuf,
    guard: Guard,
}

impl Agent {
    fn with_a_container_on_cpu_1() -> Agent {
        let pins = PathBuf::from(format!("/sys/fs/bpf/quietcore-check-test-{}", std::process::id()));
        let cpus = "1".parse().unwrap();
        let guard = Guard::start(&pins, Detector::Tracepoint, &cpus).unwrap();
        guard.slots.open(Slot::new(1).unwrap(), rules(&node_default(), &cpus));
        Agent { pins, guard }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.guard.unpin().unwrap();
    }
}

#[test]
fn beside_strict_pods_nothing_is_attached_unless_that_is_asked_for() {
    let agent = Agent::with_a_container_on_cpu_1();
    let pins = agent.pins.to_str().unwrap();
    let flags = ["--cpu", "1", "--pin-dir", pins, "--for", "1s"];
    let report = json(&flags);
    let why = report["leftOut"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("strict containers run on CPU 1, and to attach"), "{why}");
    let lsm = finding(&report, "BPF LSM");
    assert_eq!(lsm["state"], "unknown");
    assert!(lsm["found"].as_str().unwrap().starts_with("not tried: strict pods run here"), "{lsm}");

    let report = json(&[&flags[..], &["--beside-strict-pods"]].concat());
    let why = &report["leftOut"][0]["why"];
    assert_eq!(*why, "the agent on this machine has granted it to a strict container");
}

#[test]
fn a_spinner_ends_with_who_started_it() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_quietcore"));
    let mut check = check.args(["check", "--cpu", "1", "--for", "5m"]).stdout(Stdio::null()).spawn().unwrap();
    let spinner = loop {
        let children = format!("/proc/{0}/task/{0}/children", check.id());
        let child = fs::read_to_string(children).unwrap().split_whitespace().next().map(str::to_owned);
        if let Some(child) = child {
            break PathBuf::from("/proc").join(child);
        }
        std::thread::yield_now();
    };
    check.kill().unwrap();
    check.wait().unwrap();
    while spinner.exists() {
        std::thread::yield_now();
    }
}

#[test]
fn without_a_quiet_core_it_is_asked_which_to_measure() {
    let output = check(&["--for", "1s"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("no CPU is isolated or in nohz_full: name those to measure by --cpu"), "{told}");
}

#[test]
fn cores_that_are_not_there_are_refused() {
    let output = check(&["--cpu", "999"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("CPUs 999 are not online"));
}
