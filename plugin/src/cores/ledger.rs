//! Step 3: who holds which CPUs. Pure; `grants` keeps it in memory and on disk.
//!
//! An allocation is made by Allocate, which knows no pod. Its first CreateContainer binds it to one pod and
//! container for good: the kubelet replays Allocate's first answer for the life of the pod. While one of its
//! containers is claimed, nobody else gets these CPUs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{set::CpuSet, token::Token};
use crate::{
    guard::slots::Slot,
    policy::effective::{Effective, PolicyRef},
};

/// Allocations that were never used, of pods deleted before they started, are forgotten beyond this number.
const MAX_ALLOCATIONS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub container: String,
}

/// A container that was created on its CPUs and is not known to be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub container_id: String,
    pub slot: Slot,
    pub plan: String,
    pub policy: Effective,
    /// The container's init, once it was started.
    pub pid: Option<i32>,
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
        "CPUs {cpus} are still held by container {container} of pod {namespace}/{pod}; this one starts by itself when that is gone"
    )]
    Held { cpus: CpuSet, namespace: String, pod: String, container: String },
    #[error("all {} slots for strict containers of this node are taken", u8::MAX)]
    NoSlot,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    allocations: BTreeMap<Token, Allocation>,
    next_number: u64,
}

impl Ledger {
    pub fn allocate(&mut self, token: Token, cpus: CpuSet) {
        let number = self.next_number;
        self.next_number += 1;
        self.allocations.insert(token, Allocation { cpus, number, holder: None, claim: None });
        while MAX_ALLOCATIONS < self.allocations.len() {
            let unused = self.allocations.iter().filter(|(_, allocation)| allocation.claim.is_none());
            let Some(oldest) =
                unused.min_by_key(|(_, allocation)| allocation.number).map(|(token, _)| token.clone())
            else {
                return;
            };
            self.allocations.remove(&oldest);
        }
    }

    pub fn cpus_of(&self, token: &Token) -> Result<CpuSet, LedgerRefusal> {
        self.allocations
            .get(token)
            .map(|allocation| allocation.cpus.clone())
            .ok_or(LedgerRefusal::UnknownToken)
    }

    /// Binds the token at its first use and marks its CPUs as taken by this container.
    pub fn claim(
        &mut self,
        token: &Token,
        holder: &Holder,
        container_id: &str,
        plan: &str,
        policy: &Effective,
    ) -> Result<Grant, LedgerRefusal> {
        let cpus = self.cpus_of(token)?;
        if let Some(other) = self.allocations.get(token).and_then(|allocation| allocation.holder.as_ref())
            && (other.pod_uid != holder.pod_uid || other.container != holder.container)
        {
            let Holder { namespace, pod, container, .. } = other.clone();
            return Err(LedgerRefusal::OthersToken { namespace, pod, container });
        }
        let others =
            self.allocations.iter().filter(|(other, _)| *other != token).map(|(_, allocation)| allocation);
        let mut overlapping = others.filter(|allocation| allocation.cpus.overlaps(&cpus));
        if let Some(other) = overlapping.find(|allocation| allocation.claim.is_some()) {
            let Holder { namespace, pod, container, .. } =
                other.holder.clone().unwrap_or_else(|| holder.clone());
            return Err(LedgerRefusal::Held { cpus, namespace, pod, container });
        }
        let slot = self.slot_for(token)?;
        // The kubelet gave these CPUs away again, so pods that held them before are gone.
        self.allocations.retain(|other, allocation| {
            let of_another_pod =
                allocation.holder.as_ref().is_some_and(|other| other.pod_uid != holder.pod_uid);
            other == token || !of_another_pod || !allocation.cpus.overlaps(&cpus)
        });
        let allocation = self.allocations.get_mut(token).ok_or(LedgerRefusal::UnknownToken)?;
        let claim = Claim {
            container_id: container_id.to_owned(),
            slot,
            plan: plan.to_owned(),
            policy: policy.clone(),
            pid: None,
        };
        allocation.holder = Some(holder.clone());
        allocation.claim = Some(claim.clone());
        Ok(Grant { holder: holder.clone(), cpus, claim })
    }

    /// A restarted container's old instance may not have been reported as stopped yet: it keeps its slot.
    fn slot_for(&self, token: &Token) -> Result<Slot, LedgerRefusal> {
        let claims = || {
            self.allocations
                .iter()
                .filter_map(|(token, allocation)| Some((token, allocation.claim.as_ref()?)))
        };
        if let Some((_, own)) = claims().find(|(other, _)| *other == token) {
            return Ok(own.slot);
        }
        let taken = |slot: &Slot| claims().any(|(_, claim)| claim.slot == *slot);
        Slot::all().find(|slot| !taken(slot)).ok_or(LedgerRefusal::NoSlot)
    }

    pub fn started(&mut self, container_id: &str, pid: i32) {
        let claims = self.allocations.values_mut().filter_map(|allocation| allocation.claim.as_mut());
        for claim in claims.filter(|claim| claim.container_id == container_id) {
            claim.pid = Some(pid);
        }
    }

    /// Tolerates a container that is long gone, or was replaced: the runtime reports stops late and twice.
    pub fn release(&mut self, container_id: &str) -> Option<Grant> {
        let grant = self.grant(container_id)?;
        for allocation in self.allocations.values_mut() {
            allocation.claim.take_if(|claim| claim.container_id == container_id);
        }
        Some(grant)
    }

    pub fn grant(&self, container_id: &str) -> Option<Grant> {
        self.grants().find(|grant| grant.claim.container_id == container_id)
    }

    pub fn grants(&self) -> impl Iterator<Item = Grant> + '_ {
        self.allocations.values().filter_map(|allocation| {
            let (holder, claim) = (allocation.holder.clone()?, allocation.claim.clone()?);
            Some(Grant { holder, cpus: allocation.cpus.clone(), claim })
        })
    }

    /// After a (re)connect: what the runtime does not have any more is released, and returned.
    pub fn reconcile(&mut self, live_container_ids: &[String]) -> Vec<Grant> {
        let gone: Vec<String> = self
            .grants()
            .map(|grant| grant.claim.container_id)
            .filter(|id| !live_container_ids.contains(id))
            .collect();
        gone.iter().filter_map(|id| self.release(id)).collect()
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
