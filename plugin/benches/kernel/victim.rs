//! The process on the granted core whose speed is measured: `victim.c`, as a container's program where a guard
//! watches it, and by itself where not.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use quietcore::{
    agent::shim_file,
    arm::plan::shim_plan,
    guard::{load::Guard, rules::rules, slots::Slot},
    policy::effective::Effective,
};

use crate::{
    CORE,
    stand::{programs, shell_of},
};

pub struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    _shim: tempfile::TempDir,
}

/// So many times in so long.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub n: u64,
    pub ns: f64,
}

impl Done {
    pub fn each_ns(self) -> f64 {
        self.ns / self.n as f64
    }
}

pub fn program() -> &'static str {
    static BUILT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let sources = ["benches/kernel/victim.c", "benches/kernel/reaction.c"];
    BUILT.get_or_init(|| programs::build(&sources, "victim", &["-pthread"]))
}

pub fn slot() -> Slot {
    Slot::all().next().unwrap()
}

impl Victim {
    pub fn unwatched() -> Victim {
        Victim::start(None)
    }

    pub fn watched(guard: &Guard, policy: &Effective) -> Victim {
        Victim::start(Some((guard, policy)))
    }

    /// The slot is free for the next one once this is dropped and the guard told so.
    fn start(watch: Option<(&Guard, &Effective)>) -> Victim {
        let state = tempfile::tempdir().unwrap();
        let shim = shim_file::install(state.path()).unwrap();
        let cpus = CORE.parse().unwrap();
        let mut command = Command::new("taskset");
        command.args(["-c", CORE, "setpriv", "--no-new-privs", "sh", "-c", "read go; exec \"$@\"", "sh"]);
        if let Some((guard, policy)) = watch {
            command.arg(shim).args([shim_plan(&cpus, None, policy, guard.provider).as_str(), "--"]);
        }
        let mut child = command.arg(program()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = shell_of(child.id().cast_signed(), true);
        if let Some((guard, policy)) = watch {
            guard.slots.open(slot(), rules(policy, &cpus));
            guard.watch(pid, slot()).unwrap();
        }
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut victim = Victim { child, stdin, stdout, _shim: state };
        victim.say("go");
        // It runs, and its libraries and stack are there.
        victim.ask("calls", 1);
        victim
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn arm(&mut self) {
        assert_eq!(self.ask("arm", 1).n, 0, "the prctl was refused");
    }

    /// One thing of victim.c.
    pub fn ask(&mut self, what: &str, number: u64) -> Done {
        let numbers = self.numbers(what, number);
        Done { n: numbers[0], ns: numbers[1] as f64 }
    }

    /// The line that it answers.
    pub fn numbers(&mut self, what: &str, number: u64) -> Vec<u64> {
        self.say(&format!("{what} {number}"));
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        assert!(2 <= numbers.len(), "{what} {number}: {line:?}");
        numbers
    }

    fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Ends when there is nothing more to read.
    pub fn end(mut self) {
        self.stdin = None;
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the victim ended with {status}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
