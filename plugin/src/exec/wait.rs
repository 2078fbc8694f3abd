//! Waits for the command: passes signals on, keeps its deadline, and learns how it ended.

use std::{
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc::SI_KERNEL,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, getpgid, getpgrp},
};
use rustix::process::{PidfdFlags, pidfd_open};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Killed { signal: i32, by_our_deadline: bool },
}

/// What somebody sends to end us ends the command, and then us, in order.
#[derive(Debug)]
pub struct Signals(SignalFd);

pub(super) fn passed_on() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT])
}

impl Signals {
    pub fn take() -> Result<Signals, Errno> {
        let ours = passed_on();
        ours.thread_block()?;
        Ok(Signals(SignalFd::with_flags(&ours, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    fn pass_on(&self, pid: Pid) -> Result<(), Errno> {
        while let Some(info) = self.0.read_signal()? {
            // The terminal sends Ctrl-C to the whole process group: the command has it already.
            let by_terminal = info.ssi_code == SI_KERNEL && getpgid(Some(pid)) == Ok(getpgrp());
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if !by_terminal && let Some(signal) = signal {
                // It may have ended just now.
                let _ = kill(pid, signal);
            }
            // One that action Freeze stopped would not take it.
            let _ = kill(pid, Signal::SIGCONT);
        }
        Ok(())
    }
}

pub fn wait(pid: Pid, signals: &Signals, time: Option<Duration>) -> Result<Ended, Errno> {
    let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(Errno::ESRCH)?;
    let pidfd =
        pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
    let mut deadline = time.map(|time| (Instant::now() + time, Signal::SIGTERM));
    let mut terminated = false;
    loop {
        let left = deadline.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        // Rounded up: a timeout of 0 ms until the last one is over would spin.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        if fds.first().and_then(PollFd::any) == Some(true) {
            return ended(pid, terminated);
        }
        signals.pass_on(pid)?;
        if let Some((at, signal)) = deadline.filter(|(at, _)| *at <= Instant::now()) {
            terminated |= signal == Signal::SIGTERM;
            let _ = kill(pid, signal);
            let _ = kill(pid, Signal::SIGCONT);
            deadline = (signal == Signal::SIGTERM).then_some((at + GRACE, Signal::SIGKILL));
        }
    }
}

fn ended(pid: Pid, terminated: bool) -> Result<Ended, Errno> {
    match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => Ok(Ended::Exited(code)),
        WaitStatus::Signaled(_, signal, _) => {
            let by_our_deadline = terminated && signal == Signal::SIGTERM;
            Ok(Ended::Killed { signal: signal as i32, by_our_deadline })
        }
        // Not asked for: neither WUNTRACED nor WCONTINUED was given.
        _ => Err(Errno::ECHILD),
    }
}
