//! `quietcore exec` as a person runs it: the binary, on this machine's kernel. CPU 1 is the quiet one.
#![allow(clippy::unwrap_used, reason = "this is a test, also what is not inside a #[test]")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use quietcore::{
    guard::{detector::Detector, load::Guard, rules::rules, slots::Slot},
    policy::accept::node_default,
};
use serde_json::Value;

#[path = "guard/stand/programs.rs"]
#[allow(dead_code, unreachable_pub, reason = "the guard's tests use all of it")]
mod programs;
use programs::entries;

fn quietcore(flags: &[&str], command: &[&str]) -> Command {
    let mut quietcore = Command::new(env!("CARGO_BIN_EXE_quietcore"));
    quietcore.arg("exec").args(flags).arg("--").args(command).stdin(Stdio::null());
    quietcore
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(flags: &[&str], command: &[&str]) -> Run {
    let Output { status, stdout, stderr } = quietcore(flags, command).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

impl Run {
    /// The lines of JSON but the last, and the last.
    fn json(&self) -> (Vec<Value>, Value) {
        let mut lines: Vec<Value> =
            self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let summary = lines.pop().unwrap_or_else(|| panic!("no JSON: {}", self.stderr));
        assert_eq!(summary["type"], "summary");
        (lines, summary)
    }
}

const CONTINUOUS: [&str; 4] = ["--cpu", "1", "--after", "continuous"];

/// Only system calls count, so that nothing but the program makes violations.
fn only_calls(more: &[&'static str]) -> Vec<&'static str> {
    [&CONTINUOUS[..], &["--exception", "Ignore", "--interrupt", "Ignore"], more].concat()
}

#[test]
fn what_a_person_sees_is_each_violation_and_a_table_and_the_programs_own_output() {
    let flags = only_calls(&["--syscall", "Signal:SIGUSR1"]);
    let run = run(&flags, &["sh", "-c", "trap '' USR1; exec \"$@\"", "-", entries(), "calls", "3"]);
    assert_eq!((run.code, &*run.stdout), (Some(0), "done\n"), "{}", run.stderr);
    let told =
        run.stderr.lines().filter(|line| line.contains("s syscall getppid(2) at ")).collect::<Vec<_>>();
    assert_eq!(told.len(), 3, "{}", run.stderr);
    assert!(
        told.iter().all(|line| line.starts_with("quietcore: +") && line.contains("SIGUSR1 sent, ignored"))
    );
    let table = "syscall       Signal:SIGUSR1";
    let row = run.stderr.lines().find(|line| line.contains(table)).unwrap();
    assert!(row.ends_with("  3  3 getppid(2)"), "{row}");
    assert!(!run.stderr.contains("\x1b["), "no colours where nobody looks: {}", run.stderr);
}

#[test]
fn counts_are_the_programs_own() {
    let flags = only_calls(&["-o", "json"]);
    let run = run(&flags, &[entries(), "calls", "2000"]);
    let (violations, summary) = run.json();
    let calls = &summary["classes"][0];
    assert_eq!((&calls["class"], &calls["whileArmed"]), (&"syscall".into(), &2_000.into()));
    let lost = summary["lost"].as_u64().unwrap();
    assert_eq!(calls["causes"][0]["cause"], "getppid(2)");
    assert_eq!(calls["causes"][0]["count"].as_u64().unwrap() + lost, 2_000);
    assert_eq!(violations.len() as u64 + lost + summary["notPrinted"].as_u64().unwrap(), 2_000);
    assert!(violations.iter().all(|line| line["type"] == "violation" && line["cause"] == "getppid(2)"));
    assert_eq!((&summary["armings"], &summary["verdict"]), (&1.into(), &"violated".into()));
    assert_eq!((&summary["detector"], &summary["provider"]), (&"Tracepoint".into(), &"Seccomp".into()));
    assert!(
        run.stderr.contains("done"),
        "the program's stdout is where stdout holds JSON only: {}",
        run.stderr
    );
}

#[test]
fn a_fault_is_named_by_its_function_while_the_program_lives() {
    let flags = [&CONTINUOUS[..], &["-o", "json", "--interrupt", "Ignore", "--for", "1s"]].concat();
    let (violations, summary) = run(&flags, &[entries(), "spin", "0"]).json();
    assert_eq!(violations.len(), 0, "{violations:?}");
    assert_eq!((&summary["status"], &summary["verdict"]), (&0.into(), &"quiet".into()));
    let quiet = summary["longestQuietSeconds"].as_f64().unwrap();
    assert!(0.5 < quiet && quiet < 1.5, "armed until the deadline: {summary}");
}

#[test]
fn what_is_only_counted_is_in_the_table_and_no_violation() {
    let flags =
        [&CONTINUOUS[..], &["-o", "json", "--interrupt", "Count", "--for", "1s", "--fail-on-violation"]];
    let run = run(&flags.concat(), &[entries(), "spin", "0"]);
    let (violations, summary) = run.json();
    assert_eq!((run.code, violations.len()), (Some(0), 0));
    let interrupts = &summary["classes"][2];
    let causes = interrupts["causes"].as_array().unwrap();
    let by_cause: u64 = causes.iter().map(|cause| cause["count"].as_u64().unwrap()).sum();
    assert_eq!(interrupts["whileArmed"].as_u64().unwrap(), by_cause);
    assert!(causes.iter().any(|cause| cause["cause"] == "local timer tick"), "{summary}");
    let stretches = summary["stretches"].as_array().unwrap();
    let counted: u64 = stretches.iter().map(|stretch| stretch["count"].as_u64().unwrap()).sum();
    // One more than there are entries: the last ends with the program.
    assert_eq!(counted, by_cause + 1);
}

#[test]
fn a_program_that_knows_nothing_is_armed_by_its_exec() {
    let flags = only_calls(&["-o", "json", "--arm", "exec"]);
    let (violations, summary) = run(&flags, &["/bin/true"]).json();
    assert_eq!(summary["armings"], 1);
    assert!(violations.iter().any(|line| line["cause"] == "mmap(2)"), "{violations:?}");
}

#[test]
fn the_status_is_the_commands() {
    let status = |command: &[&str]| run(&["--cpu", "1"], command).code;
    assert_eq!(status(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(status(&["sh", "-c", "kill -KILL $$"]), Some(137));
    let missing = run(&["--cpu", "1"], &["no-such-command"]);
    assert_eq!(missing.code, Some(125));
    assert!(
        missing.stderr.contains("\"no-such-command\": executable file not found in $PATH"),
        "{}",
        missing.stderr
    );
}

#[test]
fn a_run_that_was_not_quiet_or_proved_nothing_fails_where_that_was_asked() {
    let code = |more: &[&'static str], command: &[&str]| run(&only_calls(more), command).code;
    assert_eq!(code(&[], &[entries(), "calls", "1"]), Some(0));
    assert_eq!(code(&["--fail-on-violation"], &[entries(), "calls", "1"]), Some(3));
    assert_eq!(code(&["--fail-on-violation"], &[entries(), "calls", "0"]), Some(0));
    assert_eq!(code(&["--fail-on-violation", "--syscall", "Count"], &[entries(), "calls", "1"]), Some(0));
    let unarmed = run(&only_calls(&["--fail-on-violation"]), &["true"]);
    assert_eq!(unarmed.code, Some(3));
    assert!(unarmed.stderr.contains("no thread was ever armed"), "{}", unarmed.stderr);
    // Its own failure says more than ours.
    assert_eq!(code(&["--fail-on-violation"], &["sh", "-c", "exit 7"]), Some(7));
}

#[test]
fn a_policy_file_is_what_pods_have() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "apiVersion: quietcore.io/v1alpha1\nkind: DataplanePolicy\nmetadata: {name: p}\nspec:\n  \
         entries:\n    syscall: {action: Signal, signal: SIGKILL}\n    exception: {action: Ignore}\n    \
         interrupt: {action: Ignore}\n",
    )
    .unwrap();
    let flags = ["--cpu", "1", "--policy", file.path().to_str().unwrap()];
    let run = run(&flags, &[entries(), "calls", "5"]);
    // Audit is a policy's default; OneShot, so that the first disarms.
    assert_eq!((run.code, &*run.stdout), (Some(0), "done\n"));
    let told: Vec<&str> = run.stderr.lines().filter(|line| line.contains("getppid(2) at")).collect();
    assert_eq!(told.len(), 1, "{}", run.stderr);
    assert!(told[0].contains("Audit: SIGKILL not sent; disarmed"), "{}", told[0]);
}

/// Started, and armed by now.
fn spinning(flags: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let only_ours = ["--syscall", "Ignore", "--exception", "Ignore", "--interrupt", "Ignore"];
    let mut child = quietcore(&[flags, &only_ours].concat(), &[entries(), "spin-told", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "armed\n");
    (child, stdout)
}

#[test]
fn a_signal_ends_the_command_and_the_table_still_comes() {
    for signal in ["-INT", "-TERM"] {
        let (mut child, _stdout) = spinning(&["--cpu", "1"]);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let expect = if signal == "-INT" { 130 } else { 143 };
        assert_eq!(child.wait().unwrap().code(), Some(expect));
        assert!(stderr.contains("quiet while armed"), "{stderr}");
    }
}

const FREEZE: [&str; 8] =
    ["--cpu", "1", "--syscall", "Freeze", "--exception", "Ignore", "--interrupt", "Ignore"];

#[test]
fn a_frozen_command_stands_still_and_its_time_still_ends() {
    let run = run(&[&FREEZE[..], &["--for", "1s"]].concat(), &[entries(), "calls", "3"]);
    assert_eq!((run.code, &*run.stdout), (Some(0), ""), "{}", run.stderr);
    assert!(run.stderr.contains("getppid(2) at ") && run.stderr.contains("process frozen"), "{}", run.stderr);
}

#[test]
fn a_frozen_command_goes_on_as_its_line_says() {
    let mut child = quietcore(&FREEZE, &[entries(), "calls", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines().map(Result::unwrap);
    let told = lines.find(|line| line.contains("process frozen")).unwrap();
    let pid = told.split("kill -CONT ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert!(Command::new("kill").args(["-CONT", pid]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"done\n".to_vec()), "{told} {rest:?}");
}

#[test]
fn when_quietcore_is_killed_the_command_does_not_run_on_unwatched() {
    let (mut child, mut stdout) = spinning(&["--cpu", "1"]);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    // The command holds the other end of this until it ends.
    assert_eq!(stdout.read_to_string(&mut String::new()).unwrap(), 0);
}

#[test]
fn interrupts_are_where_they_were_before() {
    let affinities = || {
        let dirs = std::fs::read_dir("/proc/irq").unwrap().map(|entry| entry.unwrap().path());
        let files = dirs.map(|dir| dir.join("smp_affinity_list")).filter(|file| file.exists());
        let mut all: Vec<(PathBuf, String)> =
            files.map(|file| (file.clone(), std::fs::read_to_string(&file).unwrap())).collect();
        all.sort();
        all
    };
    let before = affinities();
    let (child, _stdout) = spinning(&["--cpu", "1"]);
    let moved = affinities().iter().filter(|(_, cpus)| cpus.trim() == "0").count();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    child.wait_with_output().unwrap();
    assert_eq!(affinities(), before);
    assert!(0 < moved, "{before:?}");
}

#[test]
fn without_privileges_it_says_which_ones() {
    let mut command = quietcore(&["--cpu", "1"], &["true"]);
    let output = command.uid(65534).gid(65534).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr.contains("needs CAP_BPF and CAP_PERFMON: run it with sudo"), "{stderr}");
}

#[test]
fn a_program_that_nobody_prepared_is_armed_once_it_has_settled() {
    // This machine's ticks are counted, and do not break its quiet.
    let settled = ["--arm", "settled", "--settle-for", "500ms", "--interrupt", "Count", "-o", "json"];
    let run = run(&[&CONTINUOUS[..], &settled].concat(), &[entries(), "settle-by-itself", "3"]);
    let (violations, summary) = run.json();
    let calls = violations.iter().filter(|line| line["cause"] == "getppid(2)").count();
    assert_eq!((run.code, &summary["armings"], calls), (Some(0), &1.into(), 3), "{}", run.stdout);
    let before_it_settled = violations.iter().filter(|line| line["cause"] == "execve(2)").count();
    assert_eq!(before_it_settled, 0, "{}", run.stdout);
    assert!(0 < summary["classes"][2]["whileArmed"].as_u64().unwrap(), "ticks: {summary}");
}

#[test]
fn an_agents_core_is_not_taken() {
    let root = PathBuf::from(format!("/sys/fs/bpf/quietcore-test-exec-{}", std::process::id()));
    let agent = Guard::start(&root, Detector::Tracepoint, &"1".parse().unwrap()).unwrap();
    let slot = Slot::new(3).unwrap();
    let flags = ["--cpu", "1", "--pin-dir", root.to_str().unwrap()];
    let before = run(&flags, &["true"]);
    agent.slots.open(slot, rules(&node_default(), &"1".parse().unwrap()));
    let granted = run(&flags, &["true"]);
    agent.slots.close(slot);
    agent.unpin().unwrap();
    assert_eq!(before.code, Some(0), "{}", before.stderr);
    assert_eq!(granted.code, Some(125));
    assert!(granted.stderr.contains("has granted CPU 1 to a strict container"), "{}", granted.stderr);
}

#[test]
fn a_detector_that_is_not_allowed_is_not_taken_instead() {
    let refused = run(&["--cpu", "1", "--detector", "edge"], &["sh", "-c", "echo started"]);
    assert_eq!((refused.code, &*refused.stdout), (Some(125), ""));
    assert!(refused.stderr.contains("--detector edge allows no other detector"), "{}", refused.stderr);
}

#[test]
fn a_cpu_is_left_for_the_rest_of_the_machine() {
    let run = run(&["--cpu", "0-1"], &["true"]);
    assert_eq!(run.code, Some(125));
    assert!(run.stderr.contains("is all that quietcore itself may run on"), "{}", run.stderr);
}
