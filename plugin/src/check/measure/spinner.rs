//! The process that is looked at while it does nothing: a loop on one core, in memory that is all there, without a
//! system call. It is this very binary, started stopped, so that it is watched before it gets there.
//!
//! It execs itself twice, because the guard takes the first exec of a watched process for the shim's, and gives its
//! seat, from which it is armed without an entry, at the second.

#![expect(unsafe_code, reason = "no crate here locks a process's memory")]

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        signal::{Signal, kill, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{getppid, set_parent_process_death_signal},
};

use crate::{
    cores::{
        affinity,
        set::{CpuId, CpuSet},
    },
    exec::child::OUR_FAILURE,
};

pub const SUBCOMMAND: &str = "check-spinner";

#[derive(Debug, thiserror::Error)]
pub enum SpinnerError {
    #[error("start the spinner of CPU {cpu}")]
    Spawn { cpu: u32, source: io::Error },
    #[error("wait for the spinner of CPU {cpu}")]
    Wait { cpu: u32, source: Errno },
    #[error("the spinner of CPU {cpu} ended: {said}")]
    Ended { cpu: u32, said: String },
}

#[derive(Debug, thiserror::Error)]
enum NotSpinning {
    #[error("{SUBCOMMAND} is not run by hand")]
    Usage,
    #[error("quietcore check is gone")]
    ParentGone,
    #[error("{0}; does a cpuset forbid this CPU?")]
    Affinity(Errno),
    #[error("die with quietcore check: {0}")]
    DeathSignal(rustix::io::Errno),
    #[error("stop until watched: {0}")]
    Stop(Errno),
    #[error("exec itself: {0}")]
    Exec(io::Error),
    #[error("say that it spins: {0}")]
    Tell(io::Error),
}

/// Killed when dropped.
#[derive(Debug)]
pub(super) struct Spinner {
    cpu: CpuId,
    child: Child,
    said: ChildStdout,
    spins: bool,
}

impl Spinner {
    /// Returns when it stands still on its core, before the exec that the guard waits for.
    pub(super) fn start(cpu: CpuId) -> Result<Spinner, SpinnerError> {
        let failed = |source| SpinnerError::Spawn { cpu: cpu.number(), source };
        let arguments = [std::process::id().to_string(), cpu.number().to_string(), "stopped".to_owned()];
        let mut child = Command::new("/proc/self/exe");
        let child = child.arg(SUBCOMMAND).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = child.spawn().map_err(failed)?;
        let said = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let mut spinner = Spinner { cpu, child, said, spins: false };
        let status = waitpid(spinner.pid(), Some(WaitPidFlag::WUNTRACED))
            .map_err(|source| SpinnerError::Wait { cpu: cpu.number(), source })?;
        if !matches!(status, WaitStatus::Stopped(_, Signal::SIGSTOP)) {
            return Err(spinner.ended());
        }
        let flags = fcntl_getfl(&spinner.said).map_err(|errno| failed(errno.into()))?;
        fcntl_setfl(&spinner.said, flags | OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
        Ok(spinner)
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(super) fn go(&self) -> Result<(), SpinnerError> {
        kill(self.pid(), Signal::SIGCONT)
            .map_err(|source| SpinnerError::Wait { cpu: self.cpu.number(), source })
    }

    /// From here on it makes no system call. An error: it ended.
    pub(super) fn spins(&mut self) -> Result<bool, SpinnerError> {
        if !self.spins {
            let mut byte = [0];
            match self.said.read(&mut byte) {
                Ok(1) if byte == *READY => self.spins = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => {
                    let rest = self.rest();
                    return Err(self.ended_with(char::from(byte[0]).to_string() + &rest));
                }
            }
        }
        Ok(self.spins)
    }

    /// It was there to the end, or what was measured was not it.
    pub(super) fn still_spins(&mut self) -> Result<(), SpinnerError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.ended()),
        }
    }

    fn ended(&mut self) -> SpinnerError {
        let said = self.rest();
        self.ended_with(said)
    }

    fn ended_with(&self, said: String) -> SpinnerError {
        let said = said.trim_matches(['\0', '\n', ' ']).to_owned();
        let said = if said.is_empty() { "it was killed".to_owned() } else { said };
        SpinnerError::Ended { cpu: self.cpu.number(), said }
    }

    fn rest(&mut self) -> String {
        let mut said = String::new();
        // It writes its one line before it ends.
        let _ = self.said.read_to_string(&mut said);
        said
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const READY: &[u8; 1] = b".";

/// `quietcore check-spinner PARENT CPU STAGE`
pub fn main(arguments: &[OsString]) -> ExitCode {
    let Err(why) = run(arguments);
    // Who waits for it reads this; stderr is the person's.
    let _ = writeln!(io::stdout(), "{why}");
    ExitCode::from(OUR_FAILURE)
}

enum Never {}

fn run(arguments: &[OsString]) -> Result<Never, NotSpinning> {
    let words: Option<Vec<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    let Some([parent, cpu, stage]) = words.as_deref() else { return Err(NotSpinning::Usage) };
    match *stage {
        "stopped" => {
            prepare(parent, cpu)?;
            raise(Signal::SIGSTOP).map_err(NotSpinning::Stop)?;
            exec(parent, cpu, "watched")
        }
        "watched" => exec(parent, cpu, "seated"),
        "seated" => {
            stay_in_memory();
            let mut out = io::stdout();
            out.write_all(READY).and_then(|()| out.flush()).map_err(NotSpinning::Tell)?;
            #[expect(
                clippy::empty_loop,
                reason = "that is what it is for: PAUSE would leave a virtual machine"
            )]
            loop {}
        }
        _ => Err(NotSpinning::Usage),
    }
}

fn prepare(parent: &str, cpu: &str) -> Result<(), NotSpinning> {
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(NotSpinning::DeathSignal)?;
    if getppid().map(|pid| pid.as_raw_nonzero().to_string()).as_deref() != Some(parent) {
        return Err(NotSpinning::ParentGone);
    }
    let cpu = cpu.parse().ok().and_then(CpuId::new).ok_or(NotSpinning::Usage)?;
    affinity::restrict(Pid::from_raw(0), &CpuSet::from(cpu)).map_err(NotSpinning::Affinity)
}

fn exec(parent: &str, cpu: &str, stage: &str) -> Result<Never, NotSpinning> {
    Err(NotSpinning::Exec(Command::new("/proc/self/exe").args([SUBCOMMAND, parent, cpu, stage]).exec()))
}

/// Where RLIMIT_MEMLOCK forbids it, memory pressure may show as a page fault, which is then told as one.
fn stay_in_memory() {
    // SAFETY: takes flags only, and touches no memory of ours but to keep it.
    let _forbidden = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
}
