//! `quietcore resume`: lets a process go on that action `Freeze` stopped. Runs on the node, as in the agent's
//! container; sends SIGCONT and changes nothing else: whether the thread is armed is between its policy and the
//! guard.

use std::{
    fs,
    io::{self, Write},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{
    args::ResumeArgs,
    cores::{
        ledger::Holder,
        store::{self, StoreError},
    },
    guard::{
        frozen::{FrozenError, PinnedThreads},
        slots::Slot,
    },
};

#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error(transparent)]
    Frozen(#[from] FrozenError),
    #[error(transparent)]
    Ledger(#[from] StoreError),
    #[error("list processes")]
    List(#[source] io::Error),
    #[error("there is no process {0} here (numbers are those of the PID namespace that this runs in)")]
    NoProcess(i32),
    #[error("process {0} is not stopped")]
    Runs(i32),
    #[error("process {pid} is held by the debugger {tracer}: let it go on from there")]
    Traced { pid: i32, tracer: i32 },
    #[error("process {0} was not stopped by quietcore: kill -CONT {0} lets it go on")]
    NotOurs(i32),
    #[error("nothing is frozen on this node")]
    Nothing,
    #[error("no process of pod {pod} is frozen on this node; frozen: {others}")]
    NotThatPod { pod: String, others: String },
    #[error("pods of this name are frozen in several namespaces: say which of {0}")]
    SeveralPods(String),
    #[error("send SIGCONT to process {pid} (it needs CAP_KILL)")]
    Signal { pid: i32, source: Errno },
}

/// A process that stands still since the guard stopped it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frozen {
    pid: i32,
    comm: String,
    /// `None`: the ledger does not know the container.
    holder: Option<Holder>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Traced { tracer: i32 },
    Other,
}

/// Says on `out` who goes on.
pub fn run(args: &ResumeArgs, out: &mut dyn Write) -> Result<(), ResumeError> {
    let ResumeArgs { pod, pid, all: _, state_dir, pin_dir } = args;
    let guard = PinnedThreads::open(pin_dir)?;
    let holders = store::holders(&state_dir.join("ledger.json"))?;
    let resumed = match pid {
        Some(pid) => vec![the_one(*pid, &guard, &holders)?],
        None => choose(all_frozen(&guard, &holders)?, pod.as_deref())?,
    };
    for frozen in resumed {
        resume(frozen.pid)?;
        // It goes on also where nobody is left to tell.
        let _ = writeln!(out, "{}", words(&frozen));
    }
    Ok(())
}

fn the_one(pid: i32, guard: &PinnedThreads, holders: &[(Slot, Holder)]) -> Result<Frozen, ResumeError> {
    match state(pid).ok_or(ResumeError::NoProcess(pid))? {
        State::Stopped => look(pid, guard, holders)?.ok_or(ResumeError::NotOurs(pid)),
        State::Traced { tracer } => Err(ResumeError::Traced { pid, tracer }),
        State::Other => Err(ResumeError::Runs(pid)),
    }
}

fn all_frozen(guard: &PinnedThreads, holders: &[(Slot, Holder)]) -> Result<Vec<Frozen>, ResumeError> {
    let entries = fs::read_dir("/proc").map_err(ResumeError::List)?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut frozen = Vec::new();
    for pid in pids.filter(|pid| state(*pid) == Some(State::Stopped)) {
        frozen.extend(look(pid, guard, holders)?);
    }
    Ok(frozen)
}

fn look(pid: i32, guard: &PinnedThreads, holders: &[(Slot, Holder)]) -> Result<Option<Frozen>, ResumeError> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
    let frozen = guard.frozen_in(pid)?.map(|slot| {
        let holder = holders.iter().find(|(known, _)| *known == slot).map(|(_, holder)| holder.clone());
        Frozen { pid, comm, holder }
    });
    Ok(frozen)
}

/// Those that are meant: of a pod, by its name or `namespace/name`, or all.
fn choose(frozen: Vec<Frozen>, pod: Option<&str>) -> Result<Vec<Frozen>, ResumeError> {
    if frozen.is_empty() {
        return Err(ResumeError::Nothing);
    }
    let Some(pod) = pod else { return Ok(frozen) };
    let is_meant = |frozen: &&Frozen| match (&frozen.holder, pod.split_once('/')) {
        (None, _) => false,
        (Some(holder), None) => holder.pod == pod,
        (Some(holder), Some((namespace, name))) => holder.namespace == namespace && holder.pod == name,
    };
    let meant: Vec<Frozen> = frozen.iter().filter(is_meant).cloned().collect();
    match pods(&meant).len() {
        0 => Err(ResumeError::NotThatPod { pod: pod.to_owned(), others: pods(&frozen).join(", ") }),
        1 => Ok(meant),
        _ => Err(ResumeError::SeveralPods(pods(&meant).join(", "))),
    }
}

/// Each once.
fn pods(frozen: &[Frozen]) -> Vec<String> {
    let name = |frozen: &Frozen| match &frozen.holder {
        Some(holder) => format!("{}/{}", holder.namespace, holder.pod),
        None => format!("process {} of an unknown pod", frozen.pid),
    };
    let mut pods: Vec<String> = frozen.iter().map(name).collect();
    pods.sort_unstable();
    pods.dedup();
    pods
}

fn words(Frozen { pid, comm, holder }: &Frozen) -> String {
    let comm = crate::violation::text::printable(comm, 16);
    match holder {
        Some(Holder { namespace, pod, container, .. }) => {
            format!("process {pid} ({comm}) of pod {namespace}/{pod}, container {container}, goes on")
        }
        None => format!("process {pid} ({comm}) goes on"),
    }
}

fn resume(pid: i32) -> Result<(), ResumeError> {
    let signalled = Pid::from_raw(pid).ok_or(Errno::SRCH).and_then(|pid| {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        pidfd_send_signal(pidfd, Signal::CONT)
    });
    signalled.map_err(|source| ResumeError::Signal { pid, source })
}

/// `None`: there is no such process. A first thread that ended is not what the others are.
fn state(pid: i32) -> Option<State> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let statuses =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let states: Vec<State> = statuses.map(|status| state_in(&status)).collect();
    let traced = states.iter().find(|state| matches!(state, State::Traced { .. }));
    let stopped = states.iter().find(|state| **state == State::Stopped);
    Some(*traced.or(stopped).unwrap_or(&State::Other))
}

fn state_in(status: &str) -> State {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
    match (field("State:").chars().next(), field("TracerPid:").parse().unwrap_or(0)) {
        (Some('t'), tracer) => State::Traced { tracer },
        (Some('T'), _) => State::Stopped,
        _ => State::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frozen(pid: i32, namespace: &str, pod: &str) -> Frozen {
        let [namespace, pod, pod_uid, container] = [namespace, pod, "u", "app"].map(str::to_owned);
        Frozen { pid, comm: "l2fwd".into(), holder: Some(Holder { namespace, pod, pod_uid, container }) }
    }

    #[track_caller]
    fn check(pod: Option<&str>, expect: Result<&[i32], &str>) {
        let all = vec![
            frozen(1, "a", "p"),
            frozen(2, "a", "q"),
            frozen(3, "b", "q"),
            frozen(4, "a", "p"),
            Frozen { holder: None, ..frozen(5, "", "") },
        ];
        let chosen =
            choose(all, pod).map(|chosen| chosen.iter().map(|frozen| frozen.pid).collect::<Vec<_>>());
        match expect {
            Ok(pids) => assert_eq!(chosen.unwrap(), pids),
            Err(words) => assert_eq!(chosen.unwrap_err().to_string(), words),
        }
    }

    #[test]
    fn a_pod_is_meant_by_its_name_where_that_is_enough() {
        check(None, Ok(&[1, 2, 3, 4, 5]));
        check(Some("p"), Ok(&[1, 4]));
        check(Some("b/q"), Ok(&[3]));
        check(Some("q"), Err("pods of this name are frozen in several namespaces: say which of a/q, b/q"));
        let words = "no process of pod b/p is frozen on this node; frozen: a/p, a/q, b/q, process 5 of an unknown pod";
        check(Some("b/p"), Err(words));
        assert!(matches!(choose(Vec::new(), Some("p")), Err(ResumeError::Nothing)));
    }

    #[test]
    fn a_debuggers_stop_is_told_from_ours() {
        let status = |state: &str, tracer| format!("Name:\tx\nState:\t{state}\nTracerPid:\t{tracer}\n");
        assert_eq!(state_in(&status("T (stopped)", 0)), State::Stopped);
        assert_eq!(state_in(&status("t (tracing stop)", 77)), State::Traced { tracer: 77 });
        assert_eq!(state_in(&status("R (running)", 77)), State::Other);
        assert_eq!(state_in(""), State::Other);
    }

    #[test]
    fn who_goes_on_is_named() {
        assert_eq!(words(&frozen(7, "a", "p")), "process 7 (l2fwd) of pod a/p, container app, goes on");
    }
}
