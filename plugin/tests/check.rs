//! `quietcore check` as a person runs it, on this machine's kernel: no nohz_full, and no BPF LSM program that
//! it would run.
#![allow(clippy::unwrap_used, reason = "this is a test, also what is not inside a #[test]")]

use std::process::{Command, Output};

use serde_json::Value;

fn check(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quietcore")).arg("check").args(flags).output().unwrap()
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
fn cores_that_are_not_there_are_refused() {
    let output = check(&["--cpu", "999"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("CPUs 999 are not online"));
}
