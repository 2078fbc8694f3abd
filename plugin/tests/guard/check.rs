//! `quietcore check --for` on a nohz_full kernel whose init has turned off what enters a quiet core: what is on again
//! is found again.

use std::{fs, process::Command};

use serde_json::Value;

fn check(flags: &[&str]) -> Value {
    let mut check = Command::new(env!("CARGO_BIN_EXE_quietcore"));
    let output = check.args(["check", "-o", "json", "--for", "10s"]).args(flags).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn finding<'a>(report: &'a Value, item: &str) -> &'a Value {
    report["findings"].as_array().unwrap().iter().find(|finding| finding["item"] == item).unwrap()
}

/// Turned on; off again when dropped, as the lab's init left it.
struct Server;

const RUNTIME: &str = "/sys/kernel/debug/sched/fair_server/cpu2/runtime";

impl Server {
    fn of_cpu_2() -> Server {
        fs::write(RUNTIME, "50000000").unwrap();
        Server
    }
}

impl Drop for Server {
    /// Refused where somebody made the kernel rebuild its scheduling domains meanwhile.
    fn drop(&mut self) {
        fs::write(RUNTIME, "0").unwrap();
    }
}

#[test]
fn check_finds_every_isolated_core_quiet() {
    let report = check(&[]);
    assert_eq!(report["cores"], "1-3");
    let cores = report["measured"].as_array().unwrap();
    assert_eq!(cores.iter().map(|core| &core["cpu"]).collect::<Vec<_>>(), [1, 2, 3], "{}", report["leftOut"]);
    for core in cores {
        assert_eq!(core["causes"], Value::Array(vec![]), "{core}");
        assert_eq!(core["entriesPerMinute"]["interrupt"], 0.0);
    }
    for item in ["nohz_full", "isolated CPUs", "deadline server (fair_server)", "poll for machine checks"] {
        let found = finding(&report, item);
        assert_eq!((&found["state"], &found["entriesPerMinute"]), (&"good".into(), &0.0.into()), "{found}");
    }
    assert_eq!(report["verdict"]["grade"], "asAsked", "{}", report["verdict"]);
}

#[test]
fn check_names_the_deadline_server_of_the_core_that_has_one_and_its_rate() {
    let server = Server::of_cpu_2();
    let report = check(&["--cpu", "1-2"]);
    drop(server);
    let cores = &report["measured"];
    assert_eq!(cores[0]["causes"], Value::Array(vec![]), "{cores}");
    // Two a second: its kick, and the tick after it.
    let entries = cores[1]["entriesPerMinute"]["interrupt"].as_f64().unwrap();
    assert!(60.0 < entries, "{cores}");
    let found = finding(&report, "deadline server (fair_server)");
    assert_eq!((&found["state"], &found["found"]), (&"missing".into(), &"on, for CPU 2".into()));
    assert_eq!(found["entriesPerMinute"], entries, "{cores}");
}
