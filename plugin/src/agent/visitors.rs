//! Processes that `kubectl exec`, probes and lifecycle hooks bring into a strict container. No NRI event tells of them
//! and the runtime lets them run on all of its CPUs: they are moved to the shared ones, or, where there are none, the
//! owner hears of them.
//!
//! A visitor is who is in the container's cgroup and not watched by the guard: whatever the program starts is. Looked
//! for each second, and at once when the guard saw one take a core. What became of one is decided in `decide`, pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use super::containers::{Containers, Key};
use crate::{
    cores::{grants::Grants, ledger::Grant, set::CpuSet},
    guard::{
        abi::{QC_CAME_KTHREAD, QC_CAME_WATCHED, QC_KIND_CAME_ON, QC_KIND_SWITCH, qc_record},
        load::Guard,
        slots::Slot,
    },
    report::{ContainerInfo, Reason, Reporter, Subject},
    violation::{blame::Relation, happening::Happening, text::printable},
};

mod processes;

use processes::Folders;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A probe comes as a new process each time: it is told by its name, once.
const NAMES_TOLD: usize = 16;
/// A container that makes processes without end is looked at a part at a time.
const NEW_AT_ONCE: usize = 1024;
/// What a process is called before its exec: not yet the program that it becomes. The next look finds that, or nobody.
const RUNTIMES: [&str; 3] = ["runc:[", "crun", "youki:["];
const COMM_MAX: usize = 16;
/// Sightings that wait; with more of them the look that they cause finds who stayed.
const WAITING: usize = 64;

/// One look at a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    LeaveAlone,
    /// To the shared CPUs.
    Move,
    /// It was there, and left.
    MoveBack,
    /// There are no shared CPUs.
    Tell,
}

/// `strays`: it may run elsewhere than on the shared CPUs. `moved`: to them, at an earlier look.
pub fn decide(has_shared: bool, strays: bool, moved: bool) -> Turn {
    match (has_shared, strays, moved) {
        (false, _, _) => Turn::Tell,
        (true, false, _) => Turn::LeaveAlone,
        (true, true, false) => Turn::Move,
        (true, true, true) => Turn::MoveBack,
    }
}

/// What the owner hears.
#[derive(Debug, Clone, PartialEq, Eq)]
enum News<'a> {
    OnCore,
    Left { shared: &'a CpuSet },
    NotMoved { shared: &'a CpuSet, why: String },
}

/// A process as the owner is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Visitor {
    pid: i32,
    comm: String,
    /// Its parent, with its own number.
    parent: Option<String>,
}

fn note(container: &str, visitor: &Visitor, cpus: &CpuSet, news: &News<'_>) -> String {
    let Visitor { pid, comm, parent } = visitor;
    let comm = printable(comm, COMM_MAX);
    let parent = parent.as_ref().map(|parent| format!(", a child of {}", printable(parent, 2 * COMM_MAX)));
    let who = format!(
        "process {pid} ({comm}{}), started in container {container} by exec or a probe,",
        parent.unwrap_or_default()
    );
    match news {
        News::OnCore => format!(
            "{who} may run on the granted CPUs {cpus} only, and takes them from the program's threads; give such processes \
             a CPU by cores.sharedCpus: 1 in the policy, or use no exec and no exec probes"
        ),
        News::Left { shared } => {
            format!(
                "{who} left the shared CPUs {shared} for granted ones; it was moved back, and is each time"
            )
        }
        News::NotMoved { shared, why } => {
            format!(
                "{who} cannot be moved to the shared CPUs {shared}: {why}; it may run on the granted ones"
            )
        }
    }
}

/// Of one container, from look to look.
#[derive(Debug, Default)]
struct Seen {
    /// The program's own processes: a number that is still there needs no second look.
    program: BTreeSet<i32>,
    moved: BTreeSet<i32>,
    told: BTreeSet<i32>,
    names_told: BTreeSet<String>,
}

/// Seen by the guard when it took a core.
#[derive(Debug)]
struct Sighting {
    key: Key,
    /// In the initial PID namespace.
    visitor: Visitor,
}

/// Where the reader of records says whom it saw.
#[derive(Debug, Clone)]
pub struct Sightings(mpsc::SyncSender<Sighting>);

impl Sightings {
    pub fn record(&self, record: &qc_record) {
        let kind = u32::from(record.kind);
        let ours = record.came_flags & (QC_CAME_KTHREAD | QC_CAME_WATCHED) != 0;
        if ![QC_KIND_CAME_ON, QC_KIND_SWITCH].contains(&kind) || ours {
            return;
        }
        let came = Happening::try_from(record).ok().and_then(|happening| happening.blame.came);
        let slot = u8::try_from(record.slot).ok().and_then(Slot::new);
        let (Some(came), Some(slot)) = (came, slot) else { return };
        if came.relation == Relation::SameContainer {
            let pid = i32::try_from(came.task.tgid).unwrap_or_default();
            let visitor = Visitor { pid, comm: came.task.comm, parent: None };
            // Full: a look is about to be.
            let _ = self.0.try_send(Sighting { key: (slot, record.generation), visitor });
        }
    }
}

#[expect(missing_debug_implementations, reason = "the reporter has none")]
pub struct Visitors {
    pub guard: Arc<Guard>,
    pub grants: Arc<Grants>,
    pub containers: Arc<Containers>,
    pub reporter: Reporter,
}

impl Visitors {
    /// For a thread of its own, of a housekeeping CPU as all of the agent's.
    pub fn spawn(self) -> Sightings {
        let (sender, sightings) = mpsc::sync_channel(WAITING);
        std::thread::spawn(move || self.keep(&sightings));
        Sightings(sender)
    }

    fn keep(&self, sightings: &mpsc::Receiver<Sighting>) {
        let mut folders = Folders::new(Path::new("/sys/fs/cgroup"), Path::new("/proc"));
        let mut seen: BTreeMap<Key, Seen> = BTreeMap::new();
        loop {
            let first = match sightings.recv_timeout(LOOK_EVERY) {
                Ok(sighting) => Some(sighting),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let grants = self.running();
            seen.retain(|key, _| grants.iter().any(|(known, _)| known == key));
            folders.retain(|id| grants.iter().any(|(_, grant)| grant.claim.container_id == id));
            // Whoever was quick is gone by now: the guard's words are all there is.
            for Sighting { key, visitor } in first.into_iter().chain(sightings.try_iter()) {
                if let Some((_, grant)) = grants.iter().find(|(known, _)| *known == key)
                    && grant.claim.shared.is_none()
                {
                    self.tell_by_name(key, grant, seen.entry(key).or_default(), visitor);
                }
            }
            for (key, grant) in &grants {
                let Some(pid) = grant.claim.pid else { continue };
                if let Some(folder) = folders.of(&grant.claim.container_id, pid) {
                    self.look(*key, grant, &folder, seen.entry(*key).or_default());
                }
            }
        }
    }

    /// Those that the guard watches: without it nobody could tell a visitor from the program.
    fn running(&self) -> Vec<(Key, Grant)> {
        let grants = self.grants.read(|ledger| ledger.grants().collect::<Vec<_>>());
        let started = grants.into_iter().filter(|grant| grant.claim.pid.is_some());
        let live = started.filter(|grant| self.guard.slots.is_live(grant.claim.slot));
        live.map(|grant| ((grant.claim.slot, self.guard.slots.generation(grant.claim.slot)), grant)).collect()
    }

    fn look(&self, key: Key, grant: &Grant, folder: &Path, seen: &mut Seen) {
        let pids = processes::pids(folder);
        seen.program.retain(|pid| pids.contains(pid));
        seen.moved.retain(|pid| pids.contains(pid));
        seen.told.retain(|pid| pids.contains(pid));
        let new: Vec<i32> = pids.into_iter().filter(|pid| !seen.program.contains(pid)).collect();
        for pid in new.into_iter().take(NEW_AT_ONCE) {
            match self.guard.is_watched(pid, key) {
                Ok(Some(true)) => {
                    seen.program.insert(pid);
                }
                Ok(Some(false)) => self.visited(key, grant, pid, seen),
                Ok(None) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(step = 7, pid, error, "cannot tell whose process it is");
                }
            }
        }
    }

    fn visited(&self, key: Key, grant: &Grant, pid: i32, seen: &mut Seen) {
        let shared = grant.claim.shared.as_ref();
        let strays = match shared.map(|shared| processes::may_leave(pid, shared)) {
            None => true,
            Some(Some(strays)) => strays,
            Some(None) => return,
        };
        let visitor = || {
            let (comm, parent) = processes::names(pid);
            Visitor { pid, comm, parent }
        };
        match (decide(shared.is_some(), strays, seen.moved.contains(&pid)), shared) {
            (Turn::LeaveAlone, _) | (Turn::Move | Turn::MoveBack, None) => {}
            (Turn::Tell, _) => self.tell_by_name(key, grant, seen, visitor()),
            (turn, Some(shared)) => {
                let news = match processes::move_to(pid, shared) {
                    Err(errno) => Some(News::NotMoved { shared, why: errno.desc().to_owned() }),
                    Ok(()) if turn == Turn::MoveBack => Some(News::Left { shared }),
                    Ok(()) => None,
                };
                let Visitor { comm, .. } = visitor();
                tracing::debug!(step = 5, pid, comm, %shared, ?turn, "visitor is put on the shared CPUs");
                seen.moved.insert(pid);
                if let Some(news) = news
                    && seen.told.insert(pid)
                {
                    self.tell(key, grant, &visitor(), &news);
                }
            }
        }
    }

    fn tell_by_name(&self, key: Key, grant: &Grant, seen: &mut Seen, visitor: Visitor) {
        let is_runtime = RUNTIMES.iter().any(|name| visitor.comm.starts_with(name));
        if is_runtime || NAMES_TOLD <= seen.names_told.len() || !seen.names_told.insert(visitor.comm.clone())
        {
            return;
        }
        self.tell(key, grant, &visitor, &News::OnCore);
    }

    fn tell(&self, key: Key, grant: &Grant, visitor: &Visitor, news: &News<'_>) {
        let Some(info) = self.containers.find(key) else { return };
        let ContainerInfo { container, .. } = &*info;
        let note = note(container, visitor, &grant.cpus, news);
        self.reporter.event(Subject::Container(info), Reason::VisitorOnCore, note);
    }
}

#[cfg(test)]
mod tests;
