//! A stand-in for the container runtime: a shell that waits on a core like the runtime's init, is watched, and
//! then execs the shim with a workload.
#![allow(unreachable_pub, reason = "each test binary is a crate of its own")]
#![allow(dead_code, reason = "not every one uses all of it")]
#![allow(clippy::unwrap_used, reason = "this is a test, also what is not inside a #[test]")]

mod guards;
pub mod null_selector;
pub mod programs;
mod running;

use std::{
    io::{BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use guards::{Agent, TestGuard};
use programs::{entries, tiny, workload};
use quietcore::{
    agent::shim_file,
    arm::plan::shim_plan,
    cores::{set::CpuSet, shared::with},
    guard::{
        abi::{QC_KIND_CAME_ON, qc_counts, qc_record},
        detector::Detector,
        load::Guard,
        rules::rules,
        slots::Slot,
    },
    policy::{
        accept::node_default,
        effective::{Action, ArmAfter, Effective},
    },
};
pub use running::{Run, Running};

pub fn enforce(actions: [Action; 4]) -> Effective {
    Effective { enforce: true, actions, ..node_default() }
}

/// Enforced, and armed until the program says otherwise.
pub fn continuous(actions: [Action; 4]) -> Effective {
    Effective { arm_after: ArmAfter::Continuous, ..enforce(actions) }
}

pub fn kinds(records: &[qc_record]) -> Vec<u32> {
    records.iter().map(|record| u32::from(record.kind)).collect()
}

/// The kinds that are no entries, and do not belong to one.
pub fn story(records: &[qc_record]) -> Vec<u32> {
    kinds(records).into_iter().filter(|kind| 16 <= *kind && *kind != QC_KIND_CAME_ON).collect()
}

pub struct Stand {
    guard: TestGuard,
    core: &'static str,
    seen: Mutex<Vec<qc_record>>,
    shim: PathBuf,
    _state: tempfile::TempDir,
}

/// How the stand-in for the runtime's init comes to exec the shim.
struct How {
    around: &'static [&'static str],
    script: &'static str,
    watched: bool,
    slot: u8,
    /// In the cpuset besides the core.
    shared: Option<&'static str>,
}

impl Default for How {
    fn default() -> How {
        How { around: &[], script: "read go; exec \"$@\" 2>&1", watched: true, slot: SLOT, shared: None }
    }
}

pub const SLOT: u8 = 7;

impl Stand {
    pub fn new() -> Stand {
        Stand::on("1")
    }

    /// With the detector that the guard itself chooses for this core.
    pub fn on(core: &'static str) -> Stand {
        Stand::with(core, guards::chosen(core))
    }

    pub fn with(core: &'static str, detector: Detector) -> Stand {
        Stand::over(core, TestGuard::shared(detector, core))
    }

    /// Not shared, for a test that has an agent too: who came last answers the prctl.
    pub fn beside_an_agent() -> Stand {
        let core = "1";
        Stand::private(core, guards::chosen(core))
    }

    /// Attached for this one alone.
    pub fn private(core: &'static str, detector: Detector) -> Stand {
        Stand::over(core, TestGuard::private(detector, core))
    }

    /// For tests of what outlives an agent.
    pub fn of_an_agent() -> Stand {
        Stand::of_an_agent_with("1")
    }

    pub fn of_an_agent_with(core: &'static str) -> Stand {
        Stand::over(core, TestGuard::pinned(guards::chosen(core), core))
    }

    fn over(core: &'static str, guard: TestGuard) -> Stand {
        let state = tempfile::tempdir().unwrap();
        // Of another user, like a container.
        let shim = shim_file::install(state.path()).unwrap();
        let stand = Stand { guard, core, seen: Mutex::default(), shim, _state: state };
        // Those of the test before.
        stand.records();
        stand
    }

    pub fn guard(&self) -> &Guard {
        self.guard.get()
    }

    pub fn agent(&self) -> &Agent {
        self.guard.agent()
    }

    pub fn agent_mut(&mut self) -> &mut Agent {
        self.guard.agent_mut()
    }

    fn cpus(&self) -> CpuSet {
        self.core.parse().unwrap()
    }

    pub fn run(&self, policy: &Effective, day: &str) -> Run {
        self.start(policy, day).finish(self)
    }

    pub fn run_as_init(&self, policy: &Effective, day: &str) -> Run {
        self.start_in(
            policy,
            &[workload(), day],
            &How { around: &["unshare", "--pid", "--fork"], ..How::default() },
        )
        .finish(self)
    }

    pub fn start(&self, policy: &Effective, day: &str) -> Running {
        self.start_in(policy, &[workload(), day], &How::default())
    }

    pub fn run_unwatched(&self, day: &str) -> Run {
        self.start_in(
            &enforce([Action::Report; 4]),
            &[workload(), day],
            &How { watched: false, ..How::default() },
        )
        .finish(self)
    }

    /// A process that the runtime's init starts, as it starts hooks.
    pub fn run_as_hook(&self, day: &str) -> Run {
        let how = How { script: "read go; \"$@\" 2>&1; exit $?", ..How::default() };
        self.start_in(&enforce([Action::Report; 4]), &[workload(), day], &how).finish(self)
    }

    /// The slot goes to another container.
    pub fn reuse_slot(&self, policy: &Effective) {
        let slot = Slot::new(SLOT).unwrap();
        self.guard().slots.close(slot);
        self.guard().slots.open(slot, rules(policy, &self.cpus()));
    }

    /// A program that enters the kernel in a known way: `entries.c`.
    pub fn run_entries(&self, policy: &Effective, day: &str, n: u32) -> Run {
        self.start_entries(policy, day, n).finish(self)
    }

    pub fn start_entries(&self, policy: &Effective, day: &str, n: u32) -> Running {
        self.start_in(policy, &[entries(), day, &n.to_string()], &How::default())
    }

    /// A day of the workload in a container with this shared CPU.
    pub fn start_sharing(&self, policy: &Effective, day: &str, shared: &'static str) -> Running {
        let how = How { shared: Some(shared), ..How::default() };
        self.start_in(policy, &[workload(), day], &how)
    }

    /// Any other.
    pub fn run_program(&self, policy: &Effective, program: &[&str]) -> Run {
        self.start_in(policy, program, &How::default()).finish(self)
    }

    /// Another container on the same core. Its slot is closed by whoever asked for it.
    pub fn start_entries_in(&self, slot: u8, policy: &Effective, day: &str, n: u32) -> Running {
        let how = How { slot, ..How::default() };
        self.start_in(policy, &[entries(), day, &n.to_string()], &how)
    }

    pub fn start_entries_as_init(&self, policy: &Effective, day: &str, n: u32) -> Running {
        let how = How { around: &["unshare", "--pid", "--fork"], ..How::default() };
        self.start_in(policy, &[entries(), day, &n.to_string()], &how)
    }

    /// `tiny.c`, armed by the exec.
    pub fn run_tiny(&self, policy: &Effective, args: &[&str]) -> Run {
        let program: Vec<_> = [tiny()].into_iter().chain(args.iter().copied()).collect();
        self.start_in(policy, &program, &How::default()).finish(self)
    }

    fn start_in(&self, policy: &Effective, program: &[&str], how: &How) -> Running {
        let cpus = self.cpus();
        let slot = Slot::new(how.slot).unwrap();
        let shared: Option<CpuSet> = how.shared.map(|list| list.parse().unwrap());
        let plan = shim_plan(&cpus, shared.as_ref(), policy, self.guard().provider);
        let mut command = Command::new("taskset");
        command.env("QUIETCORE_CPUS", self.core);
        command.args(["-c", &with(&cpus, shared.as_ref()).to_string()]).args(how.around).args([
            "setpriv",
            "--no-new-privs",
            "sh",
            "-c",
            how.script,
            "sh",
        ]);
        command.arg(&self.shim).args([plan.as_str(), "--"]).args(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = shell_of(i32::try_from(child.id()).unwrap(), how.around.is_empty());
        self.guard().slots.open(slot, rules(policy, &cpus));
        if how.watched {
            self.guard().watch(pid, slot).unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout, output: String::new(), pid }
    }

    /// From "go" to the end of a program that does nothing, with the shim before it or without.
    pub fn time_to_exec(&self, policy: &Effective, with_shim: bool) -> Duration {
        let cpus = self.cpus();
        let slot = Slot::new(SLOT).unwrap();
        let mut command = Command::new("taskset");
        command.args([
            "-c",
            self.core,
            "setpriv",
            "--no-new-privs",
            "sh",
            "-c",
            "read go; exec \"$@\"",
            "sh",
        ]);
        if with_shim {
            command
                .arg(&self.shim)
                .args([shim_plan(&cpus, None, policy, self.guard().provider).as_str(), "--"]);
        }
        let mut child = command.args([workload(), "nothing"]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = shell_of(i32::try_from(child.id()).unwrap(), true);
        self.guard().slots.open(slot, rules(policy, &cpus));
        self.guard().watch(pid, slot).unwrap();
        let started = Instant::now();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let status = child.wait().unwrap();
        let elapsed = started.elapsed();
        assert!(status.success());
        elapsed
    }

    /// Every record so far, each once: the next call has what came since.
    pub fn records(&self) -> Vec<qc_record> {
        self.read_until(|| true);
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn read_until(&self, stop: impl Fn() -> bool) {
        let mut seen = self.seen.lock().unwrap();
        self.guard().records().unwrap().drain_until(stop, |record| seen.push(record)).unwrap();
    }

    /// Of the records that the next `records` or `Run` will have.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&[qc_record]) -> bool) {
        for _ in 0..1000 {
            self.read_until(|| true);
            if is_so(&self.seen.lock().unwrap()) {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "a test that waits for another process")]
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited 10 s until {what}");
    }

    pub fn counts(&self) -> qc_counts {
        self.guard().slots.counts(Slot::new(SLOT).unwrap())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.now() {
            guard.slots.live().for_each(|slot| guard.slots.close(slot));
        }
    }
}

/// The process that execs the shim: the started one, or, in a PID namespace, the child of unshare(1).
pub fn shell_of(started: i32, direct: bool) -> i32 {
    for _ in 0..3000 {
        let pid = if direct { Some(started) } else { only_child(started) };
        // A shell that waits in read(2) for "go".
        if let Some(pid) = pid
            && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sh")
            && std::fs::read_to_string(format!("/proc/{pid}/syscall"))
                .is_ok_and(|syscall| syscall.starts_with("0 "))
        {
            return pid;
        }
        #[expect(clippy::disallowed_methods, reason = "a test that waits for another process")]
        std::thread::sleep(Duration::from_millis(10));
    }
    let now = |file: &str| std::fs::read_to_string(format!("/proc/{started}/{file}"));
    panic!("the shell did not start within 30 s: {:?} {:?} {:?}", now("comm"), now("syscall"), now("status"));
}

fn only_child(pid: i32) -> Option<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

pub fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}
