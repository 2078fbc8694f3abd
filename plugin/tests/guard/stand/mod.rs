//! A stand-in for the container runtime: a shell that waits on a core like the runtime's init, is watched, and
//! then execs the shim with a workload.
#![allow(unreachable_pub, reason = "each test binary is a crate of its own")]
#![allow(dead_code, reason = "not every one uses all of it")]
#![allow(clippy::unwrap_used, reason = "this is a test, also what is not inside a #[test]")]

pub mod programs;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use programs::{entries, tiny, workload};
use quietcore::{
    agent::shim_file,
    arm::plan::shim_plan,
    cores::{set::CpuSet, topology::Topology},
    guard::{
        abi::{QC_KIND_CAME_ON, qc_counts, qc_record},
        detector::Detector,
        load::{Guard, GuardError},
        rules::rules,
        slots::Slot,
        support::Kernel,
    },
    policy::{
        accept::node_default,
        effective::{Action, ArmAfter, Effective},
    },
};

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
    guard: Option<Guard>,
    detector: Detector,
    core: &'static str,
    seen: Mutex<Vec<qc_record>>,
    root: PathBuf,
    shim: PathBuf,
    _state: tempfile::TempDir,
}

pub struct Run {
    pub records: Vec<qc_record>,
    pub counts: qc_counts,
    pub output: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    output: String,
}

/// How the stand-in for the runtime's init comes to exec the shim.
struct How {
    around: &'static [&'static str],
    script: &'static str,
    watched: bool,
}

impl Default for How {
    fn default() -> How {
        How { around: &[], script: "read go; exec \"$@\" 2>&1", watched: true }
    }
}

const SLOT: u8 = 7;

impl Stand {
    pub fn new() -> Stand {
        Stand::on("1")
    }

    /// With the detector that the guard itself chooses for this core.
    pub fn on(core: &'static str) -> Stand {
        let nohz_full = Topology::read(Path::new("/sys")).unwrap().nohz_full;
        let detector =
            Detector::choose(&Kernel::probe().unwrap(), &core.parse().unwrap(), nohz_full.as_ref());
        Stand::with(core, detector)
    }

    pub fn with(core: &'static str, detector: Detector) -> Stand {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/sys/fs/bpf/quietcore-test-{}-{number}", std::process::id()));
        let state = tempfile::tempdir().unwrap();
        // Of another user, like a container.
        let shim = shim_file::install(state.path()).unwrap();
        let mut stand =
            Stand { guard: None, detector, core, seen: Mutex::default(), root, shim, _state: state };
        stand.start_agent().unwrap();
        stand
    }

    pub fn guard(&self) -> &Guard {
        self.guard.as_ref().unwrap()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All that an agent's death closes; the pins stay.
    pub fn lose_agent(&mut self) {
        self.guard = None;
    }

    pub fn start_agent(&mut self) -> Result<(), GuardError> {
        self.guard = Some(self.another_agent()?);
        Ok(())
    }

    pub fn another_agent(&self) -> Result<Guard, GuardError> {
        Guard::start(&self.root, self.detector, &self.cpus())
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

    /// `tiny.c`, armed by the exec.
    pub fn run_tiny(&self, policy: &Effective, args: &[&str]) -> Run {
        let program: Vec<_> = [tiny()].into_iter().chain(args.iter().copied()).collect();
        self.start_in(policy, &program, &How::default()).finish(self)
    }

    fn start_in(&self, policy: &Effective, program: &[&str], how: &How) -> Running {
        let cpus = self.cpus();
        let slot = Slot::new(SLOT).unwrap();
        let plan = shim_plan(&cpus, policy, self.guard().provider);
        let mut command = Command::new("taskset");
        command.args(["-c", self.core]).args(how.around).args([
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
        Running { child, stdout, output: String::new() }
    }

    /// Every record so far, each once: the next call has what came since.
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
            command.arg(&self.shim).args([shim_plan(&cpus, policy, self.guard().provider).as_str(), "--"]);
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
        if let Some(guard) = &self.guard {
            guard.slots.close(Slot::new(SLOT).unwrap());
            guard.unpin().unwrap();
        }
    }
}

impl Running {
    pub fn wait_for(&mut self, text: &str) {
        while !self.output.contains(text) {
            let n_bytes = self.stdout.read_line(&mut self.output).unwrap();
            assert_ne!(n_bytes, 0, "no {text:?} in {}", self.output);
        }
    }

    pub fn kill(mut self, stand: &Stand) -> Run {
        self.child.kill().unwrap();
        self.finish(stand)
    }

    /// Reads the records while the program runs, as the agent does.
    pub fn finish(self, stand: &Stand) -> Run {
        let ended = AtomicBool::new(false);
        let (output, status) = std::thread::scope(|scope| {
            scope.spawn(|| stand.read_until(|| ended.load(Ordering::Acquire)));
            let (output, status) = self.wait();
            ended.store(true, Ordering::Release);
            (output, status)
        });
        Run::new(stand, output, status)
    }

    /// Reads none before the program has ended.
    pub fn finish_unread(self, stand: &Stand) -> Run {
        let (output, status) = self.wait();
        Run::new(stand, output, status)
    }

    fn wait(mut self) -> (String, ExitStatus) {
        self.stdout.read_to_string(&mut self.output).unwrap();
        (self.output, self.child.wait().unwrap())
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }
}

impl Run {
    fn new(stand: &Stand, output: String, status: ExitStatus) -> Run {
        // unshare(1) and the shell pass a signal on as 128 + its number.
        let signal =
            status.signal().or_else(|| status.code().filter(|code| 128 < *code).map(|code| code - 128));
        Run { records: stand.records(), counts: stand.counts(), output, code: status.code(), signal }
    }

    pub fn of_kind(&self, kind: u32) -> Vec<&qc_record> {
        self.records.iter().filter(|record| u32::from(record.kind) == kind).collect()
    }

    /// Each value of `key=`, in order.
    pub fn list(&self, key: &str) -> Vec<u64> {
        let values = self.output.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.map(number).collect()
    }

    #[track_caller]
    pub fn only(&self, kind: u32) -> qc_record {
        let found: Vec<_> = self.records.iter().filter(|record| u32::from(record.kind) == kind).collect();
        assert_eq!(found.len(), 1, "{:?}; {}", kinds(&self.records), self.output);
        *found[0]
    }

    /// The value of `key=` in what the workload printed.
    #[track_caller]
    pub fn told(&self, key: &str) -> String {
        let words = self.output.split_whitespace();
        let found = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).next_back();
        found.unwrap_or_else(|| panic!("no {key} in {:?}", self.output)).to_owned()
    }
}

/// The process that execs the shim: the started one, or, in a PID namespace, the child of unshare(1).
fn shell_of(started: i32, direct: bool) -> i32 {
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
