//! Step 3, kept up: every few seconds, from a housekeeping CPU, which of the offered cores are fit for a new pod, and
//! whether somebody else was put on a granted one.
//!
//! What is unfit is decided in `cores::health`; here are the facts, the repair, and who hears of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{errno::Errno, unistd::Pid};
use tokio::{sync::watch, time::MissedTickBehavior};

use super::containers::Containers;
use crate::{
    cores::{
        affinity,
        device_plugin::Published,
        grants::Grants,
        health::{Doubts, Facts, unhealthy},
        ledger::Grant,
        occupants::{Occupant, Occupants},
        set::{CpuId, CpuSet},
        topology::{Topology, live::Live},
    },
    quiet::{
        judge,
        setting::{Outcome, State},
        worker::Standing,
    },
    report::{Reason, Reporter, Subject},
};

const LOOK_EVERY: Duration = Duration::from_secs(10);

#[expect(missing_debug_implementations, reason = "the reporter has none")]
pub struct Health {
    pub sys: PathBuf,
    pub proc: PathBuf,
    pub isolated: CpuSet,
    pub topology: Live,
    pub grants: Arc<Grants>,
    pub containers: Arc<Containers>,
    pub reporter: Reporter,
    pub published: watch::Sender<Option<Published>>,
    pub standing: watch::Receiver<Standing>,
}

/// From look to look.
struct Known {
    occupants: Occupants,
    doubts: Doubts,
    /// Processes that were told of.
    told: BTreeSet<i32>,
    /// Of each container, which of its CPUs were told to be offline.
    offline: BTreeMap<String, CpuSet>,
}

impl Health {
    pub async fn keep(self) {
        let this = Arc::new(self);
        let mut known = Known {
            occupants: Occupants::new(this.proc.clone()),
            doubts: Doubts::default(),
            told: BTreeSet::new(),
            offline: BTreeMap::new(),
        };
        let mut published = this.published.subscribe();
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                changed = published.changed() => if changed.is_err() { return },
            }
            published.mark_unchanged();
            let look = Arc::clone(&this);
            let looked = tokio::task::spawn_blocking(move || {
                look.look(&mut known);
                known
            });
            match looked.await {
                Ok(back) => known = back,
                Err(_the_runtime_ends) => return,
            }
        }
    }

    fn look(&self, known: &mut Known) {
        let now = match Topology::read(&self.sys) {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(step = 3, %error, "whether the cores are online is not known");
                return;
            }
        };
        let more = self.topology.saw(&now);
        if more {
            tracing::info!(step = 3, online = %now.online, "there are more cores than before");
        }
        let mut occupants = known.occupants.look(&self.isolated);
        // Read after it: a container that was made meanwhile is none of somebody else's.
        let grants: Vec<Grant> = self.grants.read(|ledger| ledger.grants().collect());
        let strangers: Vec<String> =
            self.grants.read(|ledger| ledger.strangers().map(|known| known.container_id.clone()).collect());
        let strict = grants.iter().map(|grant| &grant.claim.container_id).chain(&strangers);
        let strict: Vec<&String> = strict.collect();
        occupants.retain(|occupant| !strict.iter().any(|id| occupant.cgroup.contains(*id)));
        let occupants = self.move_off(occupants, &grants, &mut known.told);
        self.tell_offline(&grants, &now.online, &mut known.offline);
        self.doubt(&mut known.doubts);
        let facts = Facts {
            offered: &self.isolated,
            known: &self.topology.known(),
            now: &now,
            occupants: &occupants,
            doubts: &known.doubts,
        };
        let unfit = unhealthy(&facts);
        self.published.send_if_modified(|published| match published {
            Some(published) if more || published.unhealthy != unfit => {
                log_changes(&published.unhealthy, &unfit);
                published.unhealthy = unfit;
                true
            }
            _ => false,
        });
    }

    fn doubt(&self, doubts: &mut Doubts) {
        let standing = self.standing.borrow();
        let partitions = standing.pass.outcomes.iter().filter(|outcome| judge::is_partition(outcome));
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for Outcome { setting, state } in partitions {
            match state {
                State::Kept { .. } => kept.push(&setting.cpus),
                State::Refused { why, .. } => refused.push((&setting.cpus, why.as_str())),
                State::Absent => {}
            }
        }
        doubts.look(Instant::now(), &kept, refused.into_iter());
    }

    /// Granted cores are taken back from others; who sits on a free one only makes it unfit. Returns who is still there.
    fn move_off(
        &self,
        occupants: Vec<Occupant>,
        grants: &[Grant],
        told: &mut BTreeSet<i32>,
    ) -> Vec<Occupant> {
        let away = self.topology.online().without(&self.isolated);
        told.retain(|pid| occupants.iter().any(|occupant| occupant.pid == *pid));
        let stays = |occupant: &Occupant| {
            let Some(grant) = grants.iter().find(|grant| grant.cores.overlaps(&occupant.cpus)) else {
                return true;
            };
            let moved =
                away.as_ref().map_or(Err(Errno::EINVAL), |away| restrict(occupant.pid, &self.isolated, away));
            if told.insert(occupant.pid) || moved.is_ok() {
                self.tell_intruder(grant, occupant, moved, away.as_ref());
            }
            moved.is_err()
        };
        occupants.into_iter().filter(stays).collect()
    }

    fn tell_intruder(
        &self,
        grant: &Grant,
        occupant: &Occupant,
        moved: Result<(), Errno>,
        away: Option<&CpuSet>,
    ) {
        let (reason, note) = intruder(grant, occupant, moved, away);
        self.tell(&grant.claim.container_id, reason, &note);
    }

    fn tell_offline(&self, grants: &[Grant], online: &CpuSet, told: &mut BTreeMap<String, CpuSet>) {
        let mut offline = BTreeMap::new();
        for grant in grants {
            let Some(missing) = grant.cpus.without(online) else { continue };
            let id = &grant.claim.container_id;
            if told.get(id) != Some(&missing) {
                self.tell(id, Reason::CoresUnavailable, &went_offline(&grant.holder.container, &missing));
            }
            offline.insert(id.clone(), missing);
        }
        *told = offline;
    }

    fn tell(&self, container_id: &str, reason: Reason, note: &str) {
        let running = self.containers.running();
        if let Some((_, info)) = running.into_iter().find(|(_, info)| *info.container_id == *container_id) {
            self.reporter.event(Subject::Container(info), reason, note.to_owned());
        }
    }
}

fn intruder(
    grant: &Grant,
    occupant: &Occupant,
    moved: Result<(), Errno>,
    away: Option<&CpuSet>,
) -> (Reason, String) {
    let Occupant { pid, comm, cpus, cgroup } = occupant;
    let who = format!(
        "process {pid} ({comm}, cgroup {cgroup}) of somebody else was bound to CPU {cpus}, which container {} holds",
        grant.holder.container
    );
    let away = away.map_or("others".to_owned(), |away| format!("the housekeeping CPUs {away}"));
    match moved {
        Ok(()) => (
            Reason::DriftRepaired,
            format!("{who}: it is on {away} now; let nobody bind it there (taskset, numactl, CPUAffinity=)"),
        ),
        Err(errno) => (
            Reason::DriftRefused,
            format!(
                "{who}, and cannot be moved to {away}: {}; stop it, or give its cgroup other CPUs",
                errno.desc()
            ),
        ),
    }
}

fn went_offline(container: &str, missing: &CpuSet) -> String {
    format!(
        "CPU {missing} of container {container} is offline: the kernel has moved its threads elsewhere, and their signals \
         are off; turn it on again (chcpu -e {missing}) and restart the pod, or delete the pod so that it gets other cores"
    )
}

/// Those of its threads that may run nowhere but on cores of ours. Who is gone is no error; of others the first is told.
fn restrict(pid: i32, isolated: &CpuSet, away: &CpuSet) -> Result<(), Errno> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tids = threads.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)));
    let bound = tids.filter(|tid| affinity::is_within(*tid, isolated).unwrap_or(false));
    let moved: Vec<Result<(), Errno>> = bound.map(|tid| affinity::restrict(tid, away)).collect();
    moved.into_iter().find(|moved| !matches!(moved, Ok(()) | Err(Errno::ESRCH))).unwrap_or(Ok(()))
}

fn log_changes(before: &BTreeMap<CpuId, String>, now: &BTreeMap<CpuId, String>) {
    for (core, why) in now.iter().filter(|(core, why)| before.get(core) != Some(why)) {
        tracing::warn!(step = 3, core = core.number(), why, "no pod gets this core");
    }
    for core in before.keys().filter(|core| !now.contains_key(core)) {
        tracing::info!(step = 3, core = core.number(), "this core is fit again");
    }
}

#[cfg(test)]
mod tests;
