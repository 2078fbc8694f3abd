//! Step 3: who holds which CPUs. Pure; `grants` keeps it in memory and on disk.
//!
//! An allocation is made by Allocate, which knows no pod. Its first CreateContainer binds it to one pod and
//! container for good: the kubelet replays Allocate's first answer for the life of the pod. While one of its
//! containers is claimed, nobody else gets these CPUs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    set::{CpuId, CpuSet},
    shared,
    token::Token,
};
use crate::{
    guard::slots::Slot,
    policy::effective::{Effective, PolicyRef},
    quiet::catalogue::Quieted,
};

/// Beyond this number, allocations that nothing runs on are forgotten, the oldest first.
const MAX_ALLOCATIONS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub container: String,
}

impl Holder {
    /// The same container of the same pod, maybe another instance of it. A pod made anew has another UID.
    fn is(&self, other: &Holder) -> bool {
        self.pod_uid == other.pod_uid && self.container == other.container
    }
}

/// A container that was created on its CPUs and is not known to be gone: what a restarted agent needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub container_id: String,
    pub slot: Slot,
    pub plan: String,
    pub policy: Effective,
    /// Housekeeping CPUs in its cpuset: others may have the same.
    #[serde(default)]
    pub shared: Option<CpuSet>,
    /// The container's init, once it was started.
    pub pid: Option<i32>,
    /// Its cgroup, as the runtime names it.
    #[serde(default)]
    pub cgroup: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    pub cpus: CpuSet,
    /// Grows with each allocation.
    pub number: u64,
    pub holder: Option<Holder>,
    pub claim: Option<Claim>,
}

/// A claimed allocation, with everything that later steps carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub holder: Holder,
    pub cpus: CpuSet,
    pub claim: Claim,
}

impl Grant {
    pub fn policy_ref(&self) -> Option<&PolicyRef> {
        self.claim.policy.source.as_ref()
    }
}

/// Cores that are to be quiet now, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub number: u64,
    /// `None`: the kubelet has given them away, and the container is not created yet.
    pub container_id: Option<String>,
    pub quieted: Quieted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub grant: Grant,
    /// The container's earlier instance, which the runtime has not reported as stopped yet: its late stop
    /// will find nothing here, so whatever hangs on its slot is to be let go now.
    pub replaced: Option<Grant>,
}

/// A strict container that runs here and that no claim is about: the ledger was lost, or the agent died
/// between an answer and its line on disk. Nobody guards it, but its CPUs are not free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    pub container_id: String,
    pub holder: Holder,
    pub cpus: CpuSet,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerRefusal {
    #[error(
        "the container's grant token is none of this node's: it comes from the kubelet's answer for \
         quietcore.io/core and cannot be set by hand; delete the pod so that it is admitted anew"
    )]
    UnknownToken,
    #[error(
        "the container's grant token belongs to container {container} of pod {namespace}/{pod}: remove the \
         annotation grant.quietcore.io/token from this pod"
    )]
    OthersToken { namespace: String, pod: String, container: String },
    #[error(
        "CPUs {cpus} of this pod are no longer among the node's isolated CPUs ({isolated}): delete the pod so \
         that it is admitted anew"
    )]
    NotIsolated { cpus: CpuSet, isolated: CpuSet },
    #[error(
        "CPUs {cpus} are still held by container {container} of pod {namespace}/{pod}; this one starts by itself when that is gone"
    )]
    Held { cpus: CpuSet, namespace: String, pod: String, container: String },
    #[error("all {} slots for strict containers of this node are taken", u8::MAX)]
    NoSlot,
}

/// What a ledger on disk may say and a ledger in memory must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("containers {one} and {other} hold the same CPU or the same slot")]
    Shared { one: String, other: String },
    #[error("container {0} holds CPUs in the name of no pod")]
    Nobody(String),
}

/// The part of the ledger that outlives the agent.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    next_number: u64,
    allocations: BTreeMap<Token, Allocation>,
}

impl Saved {
    pub fn holders(self) -> impl Iterator<Item = (Slot, Holder)> {
        let held = self.allocations.into_values();
        held.filter_map(|Allocation { claim, holder, .. }| Some((claim?.slot, holder?)))
    }
}

#[derive(Debug)]
pub struct Ledger {
    /// Of this run of the agent: the flag may differ from that of the run that made an allocation.
    isolated: CpuSet,
    saved: Saved,
    strangers: Vec<Stranger>,
    /// Grows with each change of `saved`: tells whether there is anything to write.
    revision: u64,
}

impl Ledger {
    pub fn empty(isolated: CpuSet) -> Ledger {
        Ledger { isolated, saved: Saved::default(), strangers: Vec::new(), revision: 0 }
    }

    pub fn restore(isolated: CpuSet, saved: Saved) -> Result<Ledger, Contradiction> {
        let ledger = Ledger { saved, ..Ledger::empty(isolated) };
        let allocations = ledger.saved.allocations.values();
        let mut nameless = allocations.filter(|allocation| allocation.holder.is_none());
        if let Some(claim) = nameless.find_map(|allocation| allocation.claim.as_ref()) {
            return Err(Contradiction::Nobody(claim.container_id.clone()));
        }
        let grants: Vec<Grant> = ledger.grants().collect();
        for (idx, one) in grants.iter().enumerate() {
            let rest = &grants[idx + 1..];
            let shares =
                |other: &&Grant| other.cpus.overlaps(&one.cpus) || other.claim.slot == one.claim.slot;
            if let Some(other) = rest.iter().find(shares) {
                let [one, other] = [one, other].map(|grant| grant.claim.container_id.clone());
                return Err(Contradiction::Shared { one, other });
            }
        }
        Ok(ledger)
    }

    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn allocate(&mut self, token: Token, cpus: CpuSet) {
        self.revision += 1;
        let number = self.saved.next_number;
        self.saved.next_number += 1;
        self.saved.allocations.insert(token, Allocation { cpus, number, holder: None, claim: None });
        while MAX_ALLOCATIONS < self.saved.allocations.len() {
            let unused = self.saved.allocations.iter().filter(|(_, allocation)| allocation.claim.is_none());
            // A pod that was seen may only wait for its restart; one that never came is likely gone.
            let oldest =
                unused.min_by_key(|(_, allocation)| (allocation.holder.is_some(), allocation.number));
            let Some(oldest) = oldest.map(|(token, _)| token.clone()) else { return };
            self.saved.allocations.remove(&oldest);
        }
    }

    pub fn cpus_of(&self, token: &Token) -> Result<CpuSet, LedgerRefusal> {
        let allocation = self.saved.allocations.get(token).ok_or(LedgerRefusal::UnknownToken)?;
        Ok(allocation.cpus.clone())
    }

    /// Binds the token at its first use and marks its CPUs as taken by this container.
    pub fn claim(
        &mut self,
        token: &Token,
        holder: &Holder,
        container_id: &str,
        plan: &str,
        policy: &Effective,
    ) -> Result<Claimed, LedgerRefusal> {
        let allocation = self.saved.allocations.get(token).ok_or(LedgerRefusal::UnknownToken)?;
        if let Some(Holder { namespace, pod, container, .. }) =
            allocation.holder.clone().filter(|bound| !bound.is(holder))
        {
            return Err(LedgerRefusal::OthersToken { namespace, pod, container });
        }
        let cpus = allocation.cpus.clone();
        if cpus.without(&self.isolated).is_some() {
            return Err(LedgerRefusal::NotIsolated { cpus, isolated: self.isolated.clone() });
        }
        if let Some(Holder { namespace, pod, container, .. }) = self.in_the_way(holder, &cpus) {
            return Err(LedgerRefusal::Held { cpus, namespace, pod, container });
        }
        // The kubelet makes a new instance of a container only when the earlier one is dead, so the slot goes
        // from one to the other.
        let replaced = self.grants().find(|earlier| earlier.holder.is(holder));
        let slot = replaced.as_ref().map_or_else(|| self.free_slot(), |earlier| Ok(earlier.claim.slot))?;
        let claim = Claim {
            container_id: container_id.to_owned(),
            slot,
            plan: plan.to_owned(),
            policy: policy.clone(),
            shared: None,
            pid: None,
            cgroup: String::new(),
        };
        let number = allocation.number;
        if let Some(earlier) = &replaced {
            self.release(&earlier.claim.container_id);
        }
        self.forget_superseded(number, holder, &cpus);
        let (cpus_, holder_, claim_) = (cpus.clone(), Some(holder.clone()), Some(claim.clone()));
        let allocation = Allocation { cpus: cpus_, number, holder: holder_, claim: claim_ };
        self.saved.allocations.insert(token.clone(), allocation);
        self.revision += 1;
        Ok(Claimed { grant: Grant { holder: holder.clone(), cpus, claim }, replaced })
    }

    /// Who else still runs on one of these CPUs.
    fn in_the_way(&self, holder: &Holder, cpus: &CpuSet) -> Option<Holder> {
        // Shared ones may be among those that this run of the agent grants, and the earlier one did not.
        let taken = |grant: &Grant| shared::with(&grant.cpus, grant.claim.shared.as_ref());
        let claimed = self.grants().map(|grant| (grant.holder.clone(), taken(&grant)));
        let strangers =
            self.strangers.iter().map(|stranger| (stranger.holder.clone(), stranger.cpus.clone()));
        let mut others = claimed.chain(strangers).filter(|(other, _)| !other.is(holder));
        others.find(|(_, taken)| taken.overlaps(cpus)).map(|(other, _)| other)
    }

    /// The kubelet gave these CPUs away again, so older allocations of them are of pods that are gone. Only a
    /// container of the same pod may have had them first (init, then app), and may come back.
    fn forget_superseded(&mut self, number: u64, holder: &Holder, cpus: &CpuSet) {
        self.saved.allocations.retain(|_, allocation| {
            let of_this_pod = allocation.holder.as_ref().is_some_and(|own| own.pod_uid == holder.pod_uid);
            number <= allocation.number || of_this_pod || !allocation.cpus.overlaps(cpus)
        });
    }

    fn free_slot(&self) -> Result<Slot, LedgerRefusal> {
        let taken = |slot: &Slot| self.grants().any(|grant| grant.claim.slot == *slot);
        Slot::all().find(|slot| !taken(slot)).ok_or(LedgerRefusal::NoSlot)
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

    /// Of a claim just made.
    pub fn share(&mut self, container_id: &str, shared: Option<CpuSet>) {
        let claims = self.saved.allocations.values_mut().filter_map(|allocation| allocation.claim.as_mut());
        for claim in claims.filter(|claim| claim.container_id == container_id) {
            claim.shared.clone_from(&shared);
            self.revision += 1;
        }
    }

    pub fn started(&mut self, container_id: &str, pid: i32) {
        let claims = self.saved.allocations.values_mut().filter_map(|allocation| allocation.claim.as_mut());
        for claim in claims.filter(|claim| claim.container_id == container_id) {
            claim.pid = Some(pid);
            self.revision += 1;
        }
    }

    /// Tolerates a container that is long gone, or was replaced: the runtime reports stops late and twice.
    pub fn release(&mut self, container_id: &str) -> Option<Grant> {
        self.strangers.retain(|stranger| stranger.container_id != container_id);
        let grant = self.grant(container_id)?;
        for allocation in self.saved.allocations.values_mut() {
            allocation.claim.take_if(|claim| claim.container_id == container_id);
        }
        self.revision += 1;
        Some(grant)
    }

    pub fn grant(&self, container_id: &str) -> Option<Grant> {
        self.grants().find(|grant| grant.claim.container_id == container_id)
    }

    pub fn grants(&self) -> impl Iterator<Item = Grant> + '_ {
        self.saved.allocations.values().filter_map(|allocation| {
            let (holder, claim) = (allocation.holder.clone()?, allocation.claim.clone()?);
            Some(Grant { holder, cpus: allocation.cpus.clone(), claim })
        })
    }

    /// Of a claim just made: where its cgroup will be.
    pub fn located(&mut self, container_id: &str, cgroup: &str) {
        let claims = self.saved.allocations.values_mut().filter_map(|allocation| allocation.claim.as_mut());
        for claim in claims.filter(|claim| claim.container_id == container_id) {
            cgroup.clone_into(&mut claim.cgroup);
            self.revision += 1;
        }
    }

    /// Whose cores are to be quiet: those of live containers, and those that no container was created for yet. What
    /// only waits for a restart of its container is nobody's.
    pub fn wanted(&self) -> impl Iterator<Item = Wanted> + '_ {
        let allocations = self.saved.allocations.values();
        let wanted =
            allocations.filter(|allocation| allocation.claim.is_some() || allocation.holder.is_none());
        wanted.map(|allocation| {
            let claim = allocation.claim.as_ref();
            let asked = claim.map(|claim| &claim.policy.cores);
            Wanted {
                number: allocation.number,
                container_id: claim.map(|claim| claim.container_id.clone()),
                quieted: Quieted {
                    cores: allocation.cpus.clone(),
                    cpus: allocation.cpus.clone(),
                    shared: claim.and_then(|claim| claim.shared.clone()),
                    cgroup: claim.map(|claim| claim.cgroup.clone()).filter(|cgroup| !cgroup.is_empty()),
                    wakeup_latency_us: asked.and_then(|asked| asked.wakeup_latency_us),
                    governor: asked.and_then(|asked| asked.governor.clone()),
                },
            }
        })
    }

    /// CPUs on which a strict container is not known to be gone, in no order and maybe twice.
    pub fn held(&self) -> impl Iterator<Item = &CpuSet> + '_ {
        let allocations = self.saved.allocations.values().filter(|allocation| allocation.claim.is_some());
        let strangers = self.strangers.iter().map(|stranger| &stranger.cpus);
        allocations.map(|allocation| &allocation.cpus).chain(strangers)
    }

    /// After a (re)connect: what the runtime does not have any more is released, and returned. `strict` are
    /// those of the live containers that hold cores by their looks; the ones nobody claimed keep theirs.
    pub fn reconcile(&mut self, live_container_ids: &[String], strict: Vec<Stranger>) -> Vec<Grant> {
        let ids: Vec<String> = self.grants().map(|grant| grant.claim.container_id).collect();
        let gone = ids.iter().filter(|id| !live_container_ids.contains(id));
        let released = gone.filter_map(|id| self.release(id)).collect();
        self.strangers = strict;
        self.strangers.retain(|stranger| !ids.contains(&stranger.container_id));
        released
    }
}

#[cfg(test)]
mod tests;
