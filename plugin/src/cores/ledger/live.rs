//! Step 3: what the ledger tells others: whose cores are to be quiet, which CPUs are nobody's, and what the kubelet may
//! have forgotten. Pure, as the ledger is.

use super::{Allocation, Holder, Ledger, Place, Stranger};
use crate::{
    cores::{
        set::{CpuId, CpuSet},
        token::Token,
    },
    quiet::catalogue::Quieted,
};

/// Cores that are to be quiet now, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub number: u64,
    /// `None`: the kubelet has given them away, and the container is not created yet.
    pub container_id: Option<String>,
    pub quieted: Quieted,
}

impl Ledger {
    /// Those of live containers, and those that no container was created for yet. What only waits for a restart of its
    /// container is nobody's.
    pub fn wanted(&self) -> impl Iterator<Item = Wanted> + '_ {
        let wanted = self
            .saved
            .allocations
            .values()
            .filter(|allocation| allocation.claim.is_some() || allocation.holder.is_none());
        let strangers = self.strangers.iter().filter_map(|stranger| self.wanted_of_stranger(stranger));
        wanted.map(wanted_of).chain(strangers)
    }

    /// Nobody knows its policy any more; its cores are to be left alone all the same. The rest of its cpuset is shared.
    fn wanted_of_stranger(&self, stranger: &Stranger) -> Option<Wanted> {
        let cores = stranger.cpus.intersection(&self.isolated)?;
        Some(Wanted {
            number: u64::MAX,
            container_id: Some(stranger.container_id.clone()),
            quieted: Quieted {
                cpus: cores.clone(),
                shared: stranger.cpus.without(&cores),
                cores,
                cgroup: Some(stranger.cgroup.clone()).filter(|cgroup| !cgroup.is_empty()),
                wakeup_latency_us: None,
                governor: None,
            },
        })
    }

    /// Of these, what is nobody's grant and cannot become one: a container that an earlier run of the agent left may
    /// hold what is not isolated any more.
    pub fn housekeeping(&self, online: &CpuSet) -> Vec<CpuId> {
        let allocations = self.saved.allocations.values();
        let granted: Vec<&CpuSet> = allocations
            .filter(|allocation| allocation.claim.is_some())
            .map(|allocation| &allocation.cpus)
            .collect();
        let free = |cpu: &CpuId| !granted.iter().any(|cpus| cpus.contains(*cpu));
        online.iter().filter(|cpu| !self.isolated.contains(*cpu)).filter(free).collect()
    }

    /// CPUs on which a strict container is not known to be gone, in no order and maybe twice.
    pub fn held(&self) -> impl Iterator<Item = &CpuSet> + '_ {
        let allocations = self.saved.allocations.values().filter(|allocation| allocation.claim.is_some());
        let strangers = self.strangers.iter().map(|stranger| &stranger.cpus);
        allocations.map(|allocation| &allocation.cpus).chain(strangers)
    }

    /// Whose strict containers are not known to be gone, and on which cores.
    pub fn holders(&self) -> impl Iterator<Item = (Holder, CpuSet)> + '_ {
        let strangers = self.strangers.iter().map(|stranger| {
            let cores = stranger.cpus.intersection(&self.isolated);
            (stranger.holder.clone(), cores.unwrap_or_else(|| stranger.cpus.clone()))
        });
        self.grants().map(|grant| (grant.holder, grant.cores)).chain(strangers)
    }

    /// Of the kubelet's devices: those whose answer it may replay.
    pub fn allocations(&self) -> impl Iterator<Item = (&Token, &Allocation)> {
        self.saved.allocations.iter()
    }

    /// What nobody holds any more; one that is claimed is held.
    pub fn forget(&mut self, stale: &[Token]) {
        for token in stale {
            let unclaimed =
                self.saved.allocations.get(token).is_some_and(|allocation| allocation.claim.is_none());
            if unclaimed {
                self.saved.allocations.remove(token);
                self.revision += 1;
            }
        }
    }

    /// Of a claim just made.
    pub fn placed(&mut self, container_id: &str, place: Place) {
        let claims = self.saved.allocations.values_mut().filter_map(|allocation| allocation.claim.as_mut());
        if let Some(claim) = claims.into_iter().find(|claim| claim.container_id == container_id) {
            claim.place = place;
            self.revision += 1;
        }
    }
}

fn wanted_of(allocation: &Allocation) -> Wanted {
    let claim = allocation.claim.as_ref();
    let place = claim.map(|claim| claim.place.clone()).unwrap_or_default();
    let asked = claim.map(|claim| &claim.policy.cores);
    Wanted {
        number: allocation.number,
        container_id: claim.map(|claim| claim.container_id.clone()),
        quieted: Quieted {
            cores: allocation.cpus.clone(),
            cpus: place.cpus.unwrap_or_else(|| allocation.cpus.clone()),
            shared: place.shared,
            cgroup: Some(place.cgroup).filter(|cgroup| !cgroup.is_empty()),
            wakeup_latency_us: asked.and_then(|asked| asked.wakeup_latency_us),
            governor: asked.and_then(|asked| asked.governor.clone()),
        },
    }
}
