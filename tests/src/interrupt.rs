//! What Ctrl-C and SIGTERM do to the supervisor: end the running command, then let it tear down.
//!
//! Signals are turned into a flag here and nowhere else. Only the `testbed` binary calls `install`; in a
//! test process the default dispositions stay, and the supervisor that started it does the rest.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

static STATE: Mutex<State> =
    Mutex::new(State { installed: false, interrupted: false, shielded: false, groups: BTreeSet::new() });

struct State {
    installed: bool,
    interrupted: bool,
    /// Set once teardown has begun: nothing ends the commands that clean up.
    shielded: bool,
    /// Process groups of the commands that run now.
    groups: BTreeSet<Pid>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on SIGINT, SIGTERM and SIGHUP end the commands in flight instead of this process.
pub fn install() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().context("signal thread")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    drop(guard);
    state().installed = true;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => (),
                    _ = terminate.recv() => (),
                    _ = hangup.recv() => (),
                }
                end_running_commands();
            }
        });
    });
    Ok(())
}

fn end_running_commands() {
    let mut state = state();
    state.interrupted = true;
    if !state.shielded {
        for group in &state.groups {
            // it may be gone already; then there is nothing left to end
            let _gone = killpg(*group, Signal::SIGTERM);
        }
    }
}

/// Whether commands must get a process group of their own: a Ctrl-C of the terminal would otherwise
/// reach them beside us, also those that tear down.
pub fn installed() -> bool {
    state().installed
}

/// Whether somebody asked us to stop and teardown has not begun.
pub fn stop_asked() -> bool {
    let state = state();
    state.interrupted && !state.shielded
}

/// Whether somebody ever asked us to stop.
pub fn was_interrupted() -> bool {
    state().interrupted
}

/// From here on no signal ends a command: what cleans up must not be cut short.
pub fn shield() {
    state().shielded = true;
}

/// Remembers the process group of a running command until dropped.
#[derive(Debug)]
pub(crate) struct Registered(Pid);

impl Registered {
    pub(crate) fn new(group: Pid) -> Registered {
        let mut state = state();
        state.groups.insert(group);
        if state.interrupted && !state.shielded {
            // asked between its start and now: the handler did not know it yet
            let _gone = killpg(group, Signal::SIGTERM);
        }
        Registered(group)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        state().groups.remove(&self.0);
    }
}
