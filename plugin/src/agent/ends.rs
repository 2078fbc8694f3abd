//! Step 3: the end of a strict container, however it is known: by the runtime's word, or because nothing of it is left.
//! Its cores are free, its slot of the guard is closed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::containers::Containers;
use crate::{
    coexist::watch::Coexistence,
    cores::{
        grants::Grants,
        ledger::{Grant, Ledger},
        reconcile::Unseen,
    },
    guard::load::Guard,
};

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// kubepods.slice / QoS class / pod / container, below a kind node's two.
const DEPTH: usize = 7;

#[expect(missing_debug_implementations, reason = "the guard has none")]
#[derive(Clone)]
pub struct Ends {
    pub grants: Arc<Grants>,
    pub containers: Arc<Containers>,
    pub guard: Arc<Guard>,
    pub coexistence: Coexistence,
}

impl Ends {
    /// Tolerates a container that is long gone, or was none of ours.
    pub fn end(&self, container_id: &str) {
        self.coexistence.peers().ended(container_id);
        let is_strangers =
            |ledger: &Ledger| ledger.strangers().any(|stranger| stranger.container_id == container_id);
        if self.grants.read(is_strangers) {
            self.grants.change(|ledger| ledger.release(container_id));
            self.close_unused();
            return;
        }
        if let Some(grant) = self.grants.change(|ledger| ledger.release(container_id)) {
            tracing::info!(step = 3, pod = grant.holder.pod, cpus = %grant.cpus, "cores are free again");
            self.forget(&grant);
        }
    }

    /// What the guard still watches for a container that the ledger lost, once that is gone too.
    pub fn close_unused(&self) {
        let unused = self.grants.change(|ledger| ledger.unused_slots(self.guard.slots.live()));
        unused.into_iter().for_each(|slot| self.guard.slots.close(slot));
    }

    pub fn forget(&self, grant: &Grant) {
        let slot = grant.claim.slot;
        self.containers.gone((slot, self.guard.slots.generation(slot)));
        self.guard.slots.close(slot);
    }

    /// Looks for claims whose containers are over without a word.
    pub async fn follow(self) {
        let mut unseen = Unseen::default();
        let start = tokio::time::Instant::now();
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            let claims: Vec<(String, Option<i32>)> = self.grants.read(|ledger| {
                let claims = ledger.grants().map(|grant| (grant.claim.container_id, grant.claim.pid));
                claims.collect()
            });
            // An earlier boot's numbers, or those of before a crash, are no facts: the runtime tells first.
            if claims.is_empty() || !self.grants.read(|ledger| ledger.is_reconciled()) {
                continue;
            }
            let Ok(lives) = tokio::task::spawn_blocking(move || looked_for(claims)).await else { return };
            for id in unseen.look(start.elapsed(), lives.into_iter()) {
                tracing::warn!(
                    step = 3,
                    container = id,
                    "nothing of it is left, and the runtime has not said so"
                );
                self.end(&id);
            }
        }
    }
}

fn looked_for(claims: Vec<(String, Option<i32>)>) -> Vec<(String, bool)> {
    let lives = |(id, pid): (String, Option<i32>)| {
        let lives = lives(&id, pid);
        (id, lives)
    };
    claims.into_iter().map(lives).collect()
}

/// Its first process, or a cgroup of its name: one that was made and not started yet has both.
pub fn lives(container_id: &str, pid: Option<i32>) -> bool {
    let is_its = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroups| cgroups.contains(container_id))
    };
    if pid.is_some_and(is_its) {
        return true;
    }
    let v1 = Path::new("/sys/fs/cgroup/cpuset");
    let root = if v1.join("cpuset.cpus").exists() { v1 } else { Path::new("/sys/fs/cgroup") };
    has_folder(root, container_id, DEPTH)
}

fn has_folder(folder: &Path, name: &str, depth: usize) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    let is_named =
        |path: &PathBuf| path.file_name().is_some_and(|found| found.to_string_lossy().contains(name));
    let Some(depth) = depth.checked_sub(1) else { return false };
    folders.iter().any(is_named) || folders.iter().any(|below| has_folder(below, name, depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_counts_in_the_containers_cgroup_only() {
        let this = Some(std::process::id().cast_signed());
        assert!(lives("/", this));
        assert!(!lives("0123456789abcdef", this) && !lives("/", Some(i32::MAX)));
    }

    #[test]
    fn a_cgroup_is_found_by_its_containers_id_wherever_it_is() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kubelet/kubepods.slice/pod7.slice/cri-containerd-c0ffee.scope"))
            .unwrap();
        assert!(has_folder(root.path(), "c0ffee", DEPTH) && !has_folder(root.path(), "c0ffef", DEPTH));
    }
}
