//! Action `Freeze`: the process stands still at the instruction that broke the promise, as at a debugger's
//! breakpoint, until somebody lets it go on.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use quietcore::{
    agent::resume::{self, ResumeError},
    args::ResumeArgs,
    guard::abi::{
        QC_EXCEPTION, QC_F_SEND_FAILED, QC_F_SIGNALLED, QC_FREEZE, QC_INTERRUPT, QC_KIND_PAGE_FAULT,
        QC_KIND_SYSCALL, QC_SYSCALL, qc_record,
    },
    policy::effective::{Action, ArmAfter},
};
use rustix::process::Signal;

use crate::{
    counts::only,
    stand::{Running, Stand, kinds, number},
};

const SIGSTOP: u32 = 19;

/// Where it will go on, as the kernel shows it of a thread that does not run (proc_pid_syscall(5)).
fn place(run: &Running) -> u64 {
    let shown = fs::read_to_string(format!("/proc/{}/syscall", run.pid())).unwrap();
    number(shown.split_whitespace().next_back().unwrap())
}

/// A word of its memory, read as a debugger does.
fn word(run: &Running, address: u64) -> u64 {
    let memory = fs::File::open(format!("/proc/{}/mem", run.pid())).unwrap();
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, address).unwrap();
    u64::from_ne_bytes(bytes)
}

fn entries(records: &[qc_record]) -> Vec<qc_record> {
    records.iter().filter(|record| record.kind < 16).copied().collect()
}

/// Its `n`th entry, once it stands still after that.
#[track_caller]
fn wait_frozen(stand: &Stand, run: &Running, seen: &mut Vec<qc_record>, n: usize) -> qc_record {
    stand.wait_until("it stands still", |records| {
        n <= seen.len() + entries(records).len() && run.state() == "T"
    });
    seen.extend(entries(&stand.records()));
    assert_eq!(seen.len(), n, "{:?}", kinds(seen));
    seen[n - 1]
}

/// All, or one by its number. Without an agent there is no ledger.
fn resume_args(pin_dir: &Path, pid: Option<i32>) -> ResumeArgs {
    let state_dir = PathBuf::from("/nonexistent");
    ResumeArgs { pod: None, pid, all: pid.is_none(), state_dir, pin_dir: pin_dir.to_owned() }
}

fn resume_pid(stand: &Stand, pid: i32) -> Result<(), ResumeError> {
    resume::run(&resume_args(stand.agent().root(), Some(pid)), &mut std::io::sink())
}

fn resume(stand: &Stand, run: &Running) -> Result<(), ResumeError> {
    resume_pid(stand, run.pid())
}

#[track_caller]
fn check_a_hundred(class: u32, kind: u32, day: &str) {
    let stand = Stand::of_an_agent();
    let mut run = stand.start_entries(&only(class, Action::Freeze), day, 100);
    run.wait_for("ready");
    let (turns_at, mut seen) = (run.told("turns_at"), Vec::new());
    for turn in 1..=100 {
        let record = wait_frozen(&stand, &run, &mut seen, turn);
        assert_eq!((u32::from(record.kind), u32::from(record.action)), (kind, QC_FREEZE));
        assert_eq!((record.flags, record.signal), (QC_F_SIGNALLED, SIGSTOP));
        assert_eq!(place(&run), record.ip, "turn {turn}");
        assert_eq!(word(&run, turns_at), turn as u64);
        resume(&stand, &run).unwrap();
    }
    let run = run.finish(&stand);
    assert!(run.output.contains("done"), "{}", run.output);
    assert_eq!((run.counts.signals, run.counts.violations[class as usize]), (100, 100));
}

#[test]
fn a_hundred_system_calls_stop_it_a_hundred_times_right_behind_the_call() {
    check_a_hundred(QC_SYSCALL, QC_KIND_SYSCALL, "count-calls");
}

#[test]
fn a_hundred_page_faults_stop_it_a_hundred_times_at_the_faulting_instruction() {
    check_a_hundred(QC_EXCEPTION, QC_KIND_PAGE_FAULT, "count-faults");
}

#[test]
fn a_hundred_interrupts_stop_it_a_hundred_times_where_they_hit() {
    let stand = Stand::of_an_agent();
    let mut run = stand.start_entries(&only(QC_INTERRUPT, Action::Freeze), "count-beside-noise", 0);
    run.wait_for("ready");
    let mut seen = Vec::new();
    for turn in 1..=100 {
        // One that comes while it stops is another entry, and another stop.
        stand.wait_until("it stands still", |records| {
            turn <= seen.len() + entries(records).len() && run.state() == "T"
        });
        seen.extend(entries(&stand.records()));
        assert_eq!(place(&run), seen.last().unwrap().ip, "turn {turn}");
        run.signal(Signal::CONT);
    }
    let run = run.kill(&stand);
    // Of two with no instruction in between the second's is sent when the first's is on its way.
    let is_told = |record: &qc_record| record.flags & (QC_F_SIGNALLED | QC_F_SEND_FAILED) != 0;
    assert!(seen.iter().all(is_told), "{:?}", kinds(&seen));
    assert!(100 <= run.counts.signals);
}

#[test]
fn the_first_process_of_a_pid_namespace_stops_too() {
    let stand = Stand::of_an_agent();
    let mut run = stand.start_entries_as_init(&only(QC_SYSCALL, Action::Freeze), "count-calls", 1);
    run.wait_for("ready");
    let record = wait_frozen(&stand, &run, &mut Vec::new(), 1);
    assert_eq!((record.pid_level, record.pids[1], record.flags), (1, 1, QC_F_SIGNALLED));
    resume(&stand, &run).unwrap();
    assert!(run.finish(&stand).output.contains("done"));
}

#[test]
fn once_resumed_under_one_shot_it_stops_no_more() {
    let stand = Stand::of_an_agent();
    let mut policy = only(QC_SYSCALL, Action::Freeze);
    policy.arm_after = ArmAfter::OneShot;
    let mut run = stand.start_entries(&policy, "count-calls", 10);
    run.wait_for("ready");
    wait_frozen(&stand, &run, &mut Vec::new(), 1);
    resume(&stand, &run).unwrap();
    let run = run.finish(&stand);
    assert!(run.output.contains("done"), "{}", run.output);
    assert_eq!(run.counts.signals, 1);
}

#[test]
fn audit_stops_nobody() {
    let stand = Stand::of_an_agent();
    let mut policy = only(QC_SYSCALL, Action::Freeze);
    policy.enforce = false;
    let run = stand.run_entries(&policy, "count-calls", 10);
    assert!(run.output.contains("done"), "{}", run.output);
    assert_eq!((run.counts.signals, run.counts.violations[0]), (0, 10));
}

#[test]
fn what_the_guard_did_not_stop_is_not_resumed_and_the_error_says_what_to_do() {
    let stand = Stand::of_an_agent();
    let mut run = stand.start_entries(&only(QC_SYSCALL, Action::Freeze), "count-calls", 1);
    run.wait_for("ready");
    wait_frozen(&stand, &run, &mut Vec::new(), 1);
    resume(&stand, &run).unwrap();
    let pid = run.pid();
    run.finish(&stand);
    assert!(matches!(resume_pid(&stand, pid), Err(ResumeError::NoProcess(of)) if of == pid));

    let mut run = stand.start_entries(&only(QC_SYSCALL, Action::Freeze), "asleep", 0);
    run.wait_for("ready");
    assert!(matches!(resume(&stand, &run), Err(ResumeError::Runs(_))));
    run.signal(Signal::STOP);
    stand.wait_until("it is stopped", |_| run.state() == "T");
    let error = resume(&stand, &run).unwrap_err().to_string();
    assert!(error.contains("was not stopped by quietcore: kill -CONT"), "{error}");
    assert!(matches!(
        resume::run(&resume_args(stand.agent().root(), None), &mut std::io::sink()),
        Err(ResumeError::Nothing)
    ));
    run.kill(&stand);
}

#[test]
fn where_no_guard_is_pinned_the_error_says_so() {
    let error = resume::run(&resume_args(Path::new("/nonexistent"), None), &mut std::io::sink())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("no guard is pinned at /nonexistent: run this on a node"), "{error}");
}

/// The lab has no debugger.
#[cfg(not(feature = "lab"))]
#[test]
fn gdb_and_gcore_see_it_where_it_stands_and_it_goes_on_after_them() {
    let stand = Stand::of_an_agent();
    let mut run = stand.start_entries(&only(QC_SYSCALL, Action::Freeze), "count-calls", 1);
    run.wait_for("ready");
    let record = wait_frozen(&stand, &run, &mut Vec::new(), 1);
    let folder = tempfile::tempdir().unwrap();
    let core = folder.path().join("core");
    let debugger = |words: &[&str]| {
        let output = std::process::Command::new("gdb").args(["-nx", "-batch"]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let ask = ["-ex", "printf \"pc=%#lx turns=%lu\\n\", $pc, *(unsigned long *)$at"];
    let at = format!("set $at = {:#x}", run.told("turns_at"));
    let expect = format!("pc={:#x} turns=1", record.ip);
    let pid = run.pid().to_string();
    let save = format!("gcore {}", core.display());
    let seen =
        debugger(&[["-p", pid.as_str(), "-ex", &at].as_slice(), &ask, &["-ex", save.as_str()]].concat());
    assert!(seen.contains(&expect), "{seen}");
    let kept = core.display().to_string();
    let seen = debugger(&[["-c", kept.as_str(), "-ex", &at].as_slice(), &ask].concat());
    assert!(seen.contains(&expect), "{seen}");
    assert_eq!(run.state(), "T");
    resume(&stand, &run).unwrap();
    assert!(run.finish(&stand).output.contains("done"));
}
