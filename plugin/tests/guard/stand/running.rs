//! A program that runs, and what it was when it had ended: its own words and the guard's.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdout, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
};

use quietcore::guard::abi::{qc_counts, qc_record};
use rustix::process::{Pid, Signal, kill_process};

use super::{Stand, kinds, number};

pub struct Run {
    pub records: Vec<qc_record>,
    pub counts: qc_counts,
    pub output: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

pub struct Running {
    pub(super) child: Child,
    pub(super) stdout: BufReader<ChildStdout>,
    pub(super) output: String,
    /// Of the watched process.
    pub(super) pid: i32,
}

/// Of a test that fails: what spins on the core would be in the way of the next one.
impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::KILL);
            self.child.kill().unwrap();
            self.child.wait().unwrap();
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
        (std::mem::take(&mut self.output), self.child.wait().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// To the watched process.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    /// The value of `key=` in what it printed so far.
    #[track_caller]
    pub fn told(&self, key: &str) -> u64 {
        let mut words = self.output.split_whitespace();
        number(words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap())
    }

    /// Letter of its state: `T` is stopped.
    pub fn state(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // The name before it may hold anything.
        stat.rsplit(") ").next().unwrap()[..1].to_owned()
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
