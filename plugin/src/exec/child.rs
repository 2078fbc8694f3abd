//! The process that becomes the command. It is this very binary first: on its core, stopped, so that it is
//! watched before it execs the shim, which proves the alarm and execs the command.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, ExitCode, Stdio},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{getppid, set_parent_process_death_signal},
    thread::set_no_new_privs,
};

use super::wait;
use crate::{
    agent::shim_file::SHIM,
    cores::{affinity, set::CpuSet},
};

pub const SUBCOMMAND: &str = "exec-child";
/// As the shim's, and as podman's and env's: the tool in front of the command failed.
pub const OUR_FAILURE: u8 = 125;

#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("start the command's process")]
    Spawn(#[source] io::Error),
    #[error("wait for the command's process")]
    Wait(#[source] Errno),
    #[error("the command's process ended before it was watched")]
    Ended,
}

/// What the process was told, and could not do.
#[derive(Debug, thiserror::Error)]
enum NotReady {
    #[error("{SUBCOMMAND} is not run by hand")]
    Usage,
    #[error("quietcore exec is gone")]
    ParentGone,
    #[error("run on CPU {cpus}: {errno}; does a cpuset forbid it?")]
    Affinity { cpus: CpuSet, errno: Errno },
    #[error("set no_new_privs: {0}")]
    NoNewPrivs(rustix::io::Errno),
    #[error("die with quietcore exec: {0}")]
    DeathSignal(rustix::io::Errno),
    #[error("stop until watched: {0}")]
    Stop(Errno),
    #[error("unblock signals: {0}")]
    Unblock(Errno),
    #[error("keep the shim in memory: {0}; is vm.memfd_noexec set?")]
    Shim(io::Error),
    #[error("exec the shim: {0}")]
    Exec(io::Error),
}

/// Returns when it stands still on its core, before the exec that the guard waits for.
pub fn start(cpus: &CpuSet, plan: &str, command: &[OsString], stdout: Stdio) -> Result<Pid, ChildError> {
    let child = Command::new("/proc/self/exe")
        .arg(SUBCOMMAND)
        .args([std::process::id().to_string(), cpus.to_string(), plan.to_owned()])
        .args(command)
        .stdout(stdout)
        .spawn()
        .map_err(ChildError::Spawn)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    match waitpid(pid, Some(WaitPidFlag::WUNTRACED)).map_err(ChildError::Wait)? {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(pid),
        // It has said why, on the stderr that it shares with us.
        _ => Err(ChildError::Ended),
    }
}

/// `quietcore exec-child PARENT CPUS PLAN COMMAND...`
pub fn main(arguments: &[OsString]) -> ExitCode {
    let Err(why) = run(arguments);
    let _ = writeln!(io::stderr(), "quietcore: {why}");
    ExitCode::from(OUR_FAILURE)
}

enum Never {}

fn run(arguments: &[OsString]) -> Result<Never, NotReady> {
    let [parent, cpus, plan, command @ ..] = arguments else { return Err(NotReady::Usage) };
    let text = |argument: &OsStr| argument.to_str().map(str::to_owned).ok_or(NotReady::Usage);
    let cpus: CpuSet = text(cpus)?.parse().map_err(|_| NotReady::Usage)?;
    let plan = text(plan)?;
    // Alone it would run unwatched: the guard ends with its process.
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(NotReady::DeathSignal)?;
    let ours = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if ours != Some(text(parent)?) {
        return Err(NotReady::ParentGone);
    }
    move_to(&cpus)?;
    if plan.contains("provider=seccomp") {
        set_no_new_privs(true).map_err(NotReady::NoNewPrivs)?;
    }
    let shim = shim_in_memory().map_err(NotReady::Shim)?;
    raise(Signal::SIGSTOP).map_err(NotReady::Stop)?;
    // std::process hands our parent's mask down; the command hears what it would have heard without us.
    wait::passed_on().thread_unblock().map_err(NotReady::Unblock)?;
    let program = format!("/proc/self/fd/{}", shim.as_fd().as_raw_fd());
    Err(NotReady::Exec(
        Command::new(program).arg0("quietcore-shim").args([&*plan, "--"]).args(command).exec(),
    ))
}

fn move_to(cpus: &CpuSet) -> Result<(), NotReady> {
    let failed = |errno| NotReady::Affinity { cpus: cpus.clone(), errno };
    affinity::restrict(Pid::from_raw(0), cpus).map_err(failed)
}

/// No path that somebody else could change, and no mount that could be noexec.
fn shim_in_memory() -> io::Result<OwnedFd> {
    let name = "quietcore-shim";
    // MFD_EXEC is Linux 6.3; before, what is in memory may be executed anyway.
    let memory = match memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => memfd_create(name, MemfdFlags::CLOEXEC)?,
        result => result?,
    };
    let mut file = std::fs::File::from(memory);
    file.write_all(SHIM)?;
    Ok(file.into())
}
