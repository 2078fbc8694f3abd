//! A stand-in for the container runtime: a shell that waits on CPU 1 like the runtime's init, is watched, and
//! then execs the shim with a workload.
#![allow(unreachable_pub, reason = "each test binary is a crate of its own")]
#![allow(dead_code, reason = "not every test binary uses all of it")]
#![allow(clippy::unwrap_used, reason = "this is a test, but not inside a #[test]")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use quietcore::{
    agent::shim_file,
    arm::plan::{Provider, shim_plan},
    cores::set::CpuSet,
    guard::{
        abi::{qc_counts, qc_record},
        load::Guard,
        rules::rules,
        slots::Slot,
    },
    policy::{
        accept::node_default,
        effective::{Action, Effective},
    },
};

pub fn enforce(actions: [Action; 4]) -> Effective {
    Effective { enforce: true, actions, ..node_default() }
}

pub fn kinds(records: &[qc_record]) -> Vec<u32> {
    records.iter().map(|record| u32::from(record.kind)).collect()
}

/// The kinds that are no entries.
pub fn story(records: &[qc_record]) -> Vec<u32> {
    kinds(records).into_iter().filter(|kind| 16 <= *kind).collect()
}

pub struct Stand {
    pub guard: Guard,
    root: PathBuf,
    shim: PathBuf,
    owns_pins: bool,
    _state: Option<tempfile::TempDir>,
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

const SLOT: u8 = 7;

impl Stand {
    pub fn new() -> Stand {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/sys/fs/bpf/quietcore-test-{}-{number}", std::process::id()));
        let state = tempfile::tempdir().unwrap();
        // Of another user, like a container.
        let shim = shim_file::install(state.path()).unwrap();
        let guard = Guard::start(&root).unwrap();
        Stand { guard, root, shim, owns_pins: true, _state: Some(state) }
    }

    /// What a restarted agent has: the pins, and nothing in memory.
    pub fn restart(&self) -> Stand {
        let guard = Guard::start(&self.root).unwrap();
        Stand { guard, root: self.root.clone(), shim: self.shim.clone(), owns_pins: false, _state: None }
    }

    pub fn run(&self, policy: &Effective, day: &str) -> Run {
        self.start(policy, day).finish(self)
    }

    pub fn run_as_init(&self, policy: &Effective, day: &str) -> Run {
        self.start_in(policy, day, &["unshare", "--pid", "--fork"], true).finish(self)
    }

    pub fn start(&self, policy: &Effective, day: &str) -> Running {
        self.start_in(policy, day, &[], true)
    }

    pub fn run_unwatched(&self, day: &str) -> Run {
        self.start_in(&enforce([Action::Report; 4]), day, &[], false).finish(self)
    }

    fn start_in(&self, policy: &Effective, day: &str, around: &[&str], watched: bool) -> Running {
        let cpus: CpuSet = "1".parse().unwrap();
        let slot = Slot::new(SLOT).unwrap();
        let plan = shim_plan(&cpus, policy, Provider::Seccomp);
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).args(around).args([
            "setpriv",
            "--no-new-privs",
            "sh",
            "-c",
            "read go; exec \"$@\" 2>&1",
            "sh",
        ]);
        command.arg(&self.shim).args([plan.as_str(), "--"]).arg(workload()).arg(day);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = shell_of(i32::try_from(child.id()).unwrap(), around.is_empty());
        self.guard.slots.open(slot, rules(policy, &cpus));
        if watched {
            self.guard.watch(pid, slot).unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout, output: String::new() }
    }

    /// From "go" to the end of a program that does nothing, with the shim before it or without.
    pub fn time_to_exec(&self, policy: &Effective, with_shim: bool) -> Duration {
        let cpus: CpuSet = "1".parse().unwrap();
        let slot = Slot::new(SLOT).unwrap();
        let mut command = Command::new("taskset");
        command.args(["-c", "1", "setpriv", "--no-new-privs", "sh", "-c", "read go; exec \"$@\"", "sh"]);
        if with_shim {
            command.arg(&self.shim).args([shim_plan(&cpus, policy, Provider::Seccomp).as_str(), "--"]);
        }
        command.arg(workload()).arg("nothing");
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let pid = shell_of(i32::try_from(child.id()).unwrap(), true);
        self.guard.slots.open(slot, rules(policy, &cpus));
        self.guard.watch(pid, slot).unwrap();
        let started = Instant::now();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let status = child.wait().unwrap();
        let elapsed = started.elapsed();
        assert!(status.success());
        elapsed
    }

    fn records(&self) -> Vec<qc_record> {
        let mut records = Vec::new();
        self.guard.records().unwrap().drain_until(|| true, |record| records.push(record)).unwrap();
        records
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.guard.slots.close(Slot::new(SLOT).unwrap());
        if self.owns_pins {
            self.guard.unpin().unwrap();
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

    pub fn finish(mut self, stand: &Stand) -> Run {
        self.stdout.read_to_string(&mut self.output).unwrap();
        let status = self.child.wait().unwrap();
        // unshare(1) and the shell pass a signal on as 128 + its number.
        let signal =
            status.signal().or_else(|| status.code().filter(|code| 128 < *code).map(|code| code - 128));
        Run {
            records: stand.records(),
            counts: stand.guard.slots.counts(Slot::new(SLOT).unwrap()),
            output: self.output,
            code: status.code(),
            signal,
        }
    }
}

impl Run {
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
    for _ in 0..500 {
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
    panic!("the shell did not start");
}

fn only_child(pid: i32) -> Option<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

fn workload() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("workload");
        let status = Command::new("gcc")
            .args(["-O2", "-static", "-I"])
            .arg(root.join("abi/include"))
            .arg(root.join("tests/workloads/workload.c"))
            .arg("-o")
            .arg(&built)
            .status()
            .unwrap();
        assert!(status.success());
        built
    })
}
