//! Step 3: who holds which CPUs. Pure; `grants` keeps it in memory and on disk.
//!
//! An allocation is made by Allocate, which knows no pod. Its first CreateContainer binds it to one pod and
//! container for good: the kubelet replays Allocate's first answer for the life of the pod. While one of its
//! containers is claimed, nobody else gets these CPUs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{set::CpuSet, shared, token::Token};
use crate::{
    guard::slots::Slot,
    policy::effective::{Effective, PolicyRef},
};

mod live;
mod reconciled;

pub use live::Wanted;

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
    /// The container's init, once it was started.
    pub pid: Option<i32>,
    #[serde(flatten)]
    pub place: Place,
}

/// Where a container may run.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Those of its cores' CPUs that are in its cpuset. `None`: all.
    #[serde(default)]
    pub cpus: Option<CpuSet>,
    /// Housekeeping CPUs in its cpuset: others may have the same.
    #[serde(default)]
    pub shared: Option<CpuSet>,
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
    /// By another allocator (`cores.from: Runtime`): no token was given out, and it is gone with its container.
    #[serde(default)]
    pub from_runtime: bool,
}

/// A claimed allocation, with everything that later steps carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub holder: Holder,
    /// Whole physical cores, which nobody else gets.
    pub cores: CpuSet,
    /// Those of their CPUs that the container may run on.
    pub cpus: CpuSet,
    pub claim: Claim,
}

impl Grant {
    pub fn policy_ref(&self) -> Option<&PolicyRef> {
        self.claim.policy.source.as_ref()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub grant: Grant,
    /// The container's earlier instance, which the runtime has not reported as stopped yet: its late stop
    /// will find nothing here, so whatever hangs on its slot is to be let go now.
    pub replaced: Option<Grant>,
}

/// A strict container that runs here and that no claim is about: the ledger was lost, or the agent died
/// between an answer and its line on disk. Its CPUs are not free, and what is pinned may still guard it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    pub container_id: String,
    pub holder: Holder,
    pub cpus: CpuSet,
    /// As in `Place`.
    pub cgroup: String,
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
    /// What a boot leaves: the kubelet replays its answers, and no container runs.
    pub fn after_reboot(mut self) -> Saved {
        self.allocations.retain(|_, allocation| !allocation.from_runtime);
        self.allocations.values_mut().for_each(|allocation| allocation.claim = None);
        self
    }

    pub fn claims(self) -> impl Iterator<Item = (Claim, Holder)> {
        let held = self.allocations.into_values();
        held.filter_map(|Allocation { claim, holder, .. }| Some((claim?, holder?)))
    }
}

#[derive(Debug)]
pub struct Ledger {
    /// Of this run of the agent: the flag may differ from that of the run that made an allocation.
    isolated: CpuSet,
    saved: Saved,
    strangers: Vec<Stranger>,
    /// Slots under which the guard still watches strangers.
    others_slots: BTreeSet<Slot>,
    /// The runtime has told this run of the agent what there is.
    is_reconciled: bool,
    /// Grows with each change of `saved`: tells whether there is anything to write.
    revision: u64,
}

impl Ledger {
    pub fn empty(isolated: CpuSet) -> Ledger {
        Ledger {
            isolated,
            saved: Saved::default(),
            strangers: Vec::new(),
            others_slots: BTreeSet::new(),
            is_reconciled: false,
            revision: 0,
        }
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
                |other: &&Grant| other.cores.overlaps(&one.cores) || other.claim.slot == one.claim.slot;
            if let Some(other) = rest.iter().find(shares) {
                let [one, other] = [one, other].map(|grant| grant.claim.container_id.clone());
                return Err(Contradiction::Shared { one, other });
            }
        }
        Ok(ledger)
    }

    /// What this node may grant.
    pub fn isolated(&self) -> &CpuSet {
        &self.isolated
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
        self.saved
            .allocations
            .insert(token, Allocation { cpus, number, holder: None, claim: None, from_runtime: false });
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
        // What the runtime gave has no token that a container could bring.
        let allocation = self.saved.allocations.get(token).filter(|allocation| !allocation.from_runtime);
        Ok(allocation.ok_or(LedgerRefusal::UnknownToken)?.cpus.clone())
    }

    /// For CPUs that another allocator gave this very container: as `claim`, without a token of the kubelet's.
    pub fn claim_of_runtime(
        &mut self,
        cpus: CpuSet,
        holder: &Holder,
        container_id: &str,
        plan: &str,
        policy: &Effective,
    ) -> Result<Claimed, LedgerRefusal> {
        let number = self.saved.next_number;
        let token = Token::of(&format!("runtime/{number}"));
        let holder_ = Some(holder.clone());
        let allocation = Allocation { cpus, number, holder: holder_, claim: None, from_runtime: true };
        self.saved.allocations.insert(token.clone(), allocation);
        let claimed = self.claim(&token, holder, container_id, plan, policy);
        match &claimed {
            Ok(_) => self.saved.next_number += 1,
            Err(_) => {
                self.saved.allocations.remove(&token);
            }
        }
        claimed
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
            pid: None,
            place: Place::default(),
        };
        let (number, from_runtime) = (allocation.number, allocation.from_runtime);
        if let Some(earlier) = &replaced {
            self.release(&earlier.claim.container_id);
        }
        self.forget_superseded(number, from_runtime, holder, &cpus);
        let (cpus_, holder_, claim_) = (cpus.clone(), Some(holder.clone()), Some(claim.clone()));
        let allocation = Allocation { cpus: cpus_, number, holder: holder_, claim: claim_, from_runtime };
        self.saved.allocations.insert(token.clone(), allocation);
        self.revision += 1;
        Ok(Claimed { grant: Grant { holder: holder.clone(), cores: cpus.clone(), cpus, claim }, replaced })
    }

    /// Who else still runs on one of these CPUs.
    fn in_the_way(&self, holder: &Holder, cpus: &CpuSet) -> Option<Holder> {
        // Shared ones may be among those that this run of the agent grants, and the earlier one did not.
        let taken = |grant: &Grant| shared::with(&grant.cores, grant.claim.place.shared.as_ref());
        let claimed = self.grants().map(|grant| (grant.holder.clone(), taken(&grant)));
        let strangers =
            self.strangers.iter().map(|stranger| (stranger.holder.clone(), stranger.cpus.clone()));
        let mut others = claimed.chain(strangers).filter(|(other, _)| !other.is(holder));
        others.find(|(_, taken)| taken.overlaps(cpus)).map(|(other, _)| other)
    }

    /// The kubelet gave these CPUs away again, so older allocations of them are of pods that are gone. Only a
    /// container of the same pod may have had them first (init, then app), and may come back.
    fn forget_superseded(&mut self, number: u64, from_runtime: bool, holder: &Holder, cpus: &CpuSet) {
        self.saved.allocations.retain(|_, allocation| {
            if allocation.from_runtime != from_runtime {
                return true;
            }
            let of_this_pod = allocation.holder.as_ref().is_some_and(|own| own.pod_uid == holder.pod_uid);
            number <= allocation.number || of_this_pod || !allocation.cpus.overlaps(cpus)
        });
    }

    fn free_slot(&self) -> Result<Slot, LedgerRefusal> {
        let taken = |slot: &Slot| {
            self.others_slots.contains(slot) || self.grants().any(|grant| grant.claim.slot == *slot)
        };
        Slot::all().find(|slot| !taken(slot)).ok_or(LedgerRefusal::NoSlot)
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
        let n_strangers = self.strangers.len();
        self.strangers.retain(|stranger| stranger.container_id != container_id);
        // Nothing of theirs is on disk, but their cores are free.
        self.revision += u64::from(self.strangers.len() != n_strangers);
        let grant = self.grant(container_id)?;
        for allocation in self.saved.allocations.values_mut() {
            allocation.claim.take_if(|claim| claim.container_id == container_id);
        }
        // The next instance is given its CPUs anew.
        self.saved.allocations.retain(|_, allocation| !allocation.from_runtime || allocation.claim.is_some());
        self.revision += 1;
        Some(grant)
    }

    pub fn grant(&self, container_id: &str) -> Option<Grant> {
        self.grants().find(|grant| grant.claim.container_id == container_id)
    }

    pub fn grants(&self) -> impl Iterator<Item = Grant> + '_ {
        self.saved.allocations.values().filter_map(|allocation| {
            let (holder, claim) = (allocation.holder.clone()?, allocation.claim.clone()?);
            let cores = allocation.cpus.clone();
            let cpus = claim.place.cpus.clone().unwrap_or_else(|| cores.clone());
            Some(Grant { holder, cores, cpus, claim })
        })
    }
}

#[cfg(test)]
mod tests;
