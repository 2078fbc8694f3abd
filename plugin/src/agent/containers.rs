//! Which container a record of the guard belongs to.
//!
//! Filled from the ledger at start and by the gate; a container that is gone is kept for a while, because its
//! last records are read after it died.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{cores::ledger::Grant, guard::slots::Slot, report::ContainerInfo};

const KEPT_GONE: usize = 256;

/// A slot and which of its holders in turn.
pub type Key = (Slot, u32);

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<Key, Arc<ContainerInfo>>,
    gone: VecDeque<Key>,
    /// Gone since the last look, and since the one before.
    newly_gone: Vec<Arc<ContainerInfo>>,
    settling: Vec<Arc<ContainerInfo>>,
}

#[derive(Debug, Default)]
pub struct Containers(Mutex<Known>);

impl Containers {
    pub fn started(&self, key: Key, grant: &Grant) -> Arc<ContainerInfo> {
        let info = Arc::new(info(grant));
        self.lock().by_key.insert(key, Arc::clone(&info));
        info
    }

    pub fn gone(&self, key: Key) {
        let mut known = self.lock();
        let info = known.by_key.get(&key).cloned();
        known.newly_gone.extend(info);
        known.gone.push_back(key);
        if KEPT_GONE < known.gone.len()
            && let Some(oldest) = known.gone.pop_front()
        {
            known.by_key.remove(&oldest);
        }
    }

    pub fn find(&self, key: Key) -> Option<Arc<ContainerInfo>> {
        self.lock().by_key.get(&key).cloned()
    }

    /// Those that were gone at the last look already: whatever they left in the ring was read in between.
    pub fn settled(&self) -> Vec<Arc<ContainerInfo>> {
        let mut known = self.lock();
        let newly_gone = std::mem::take(&mut known.newly_gone);
        std::mem::replace(&mut known.settling, newly_gone)
    }

    pub fn running(&self) -> Vec<(Key, Arc<ContainerInfo>)> {
        let known = self.lock();
        let running = known.by_key.iter().filter(|(key, _)| !known.gone.contains(key));
        running.map(|(key, info)| (*key, Arc::clone(info))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn info(grant: &Grant) -> ContainerInfo {
    ContainerInfo {
        namespace: grant.holder.namespace.as_str().into(),
        pod: grant.holder.pod.as_str().into(),
        pod_uid: grant.holder.pod_uid.as_str().into(),
        container: grant.holder.container.as_str().into(),
        container_id: grant.claim.container_id.as_str().into(),
        policy: grant.policy_ref().cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cores::ledger::{Claim, Holder},
        policy::accept::node_default,
    };

    fn grant(id: &str) -> Grant {
        let holder =
            Holder { namespace: "ns".into(), pod: "p".into(), pod_uid: "u".into(), container: "c".into() };
        let slot = Slot::new(1).unwrap();
        let claim = Claim {
            container_id: id.into(),
            slot,
            plan: String::new(),
            policy: node_default(),
            shared: None,
            pid: None,
            cgroup: String::new(),
        };
        Grant { holder, cpus: "1".parse().unwrap(), claim }
    }

    #[test]
    fn a_container_that_is_gone_is_still_known_to_its_last_records() {
        let containers = Containers::default();
        let key = (Slot::new(1).unwrap(), 1);
        containers.started(key, &grant("a"));
        containers.gone(key);
        assert!(containers.running().is_empty());
        assert_eq!(containers.find(key).unwrap().container_id.as_ref(), "a");
        assert!(containers.settled().is_empty());
        assert_eq!(containers.settled().len(), 1);
        assert!(containers.settled().is_empty());
    }

    #[test]
    fn the_next_holder_of_a_slot_is_another() {
        let containers = Containers::default();
        let slot = Slot::new(1).unwrap();
        containers.started((slot, 1), &grant("a"));
        containers.gone((slot, 1));
        containers.started((slot, 2), &grant("b"));
        assert_eq!(containers.find((slot, 1)).unwrap().container_id.as_ref(), "a");
        assert_eq!(containers.running().len(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let containers = Containers::default();
        let slot = Slot::new(1).unwrap();
        for generation in 0..2000 {
            containers.started((slot, generation), &grant("a"));
            containers.gone((slot, generation));
        }
        assert_eq!(containers.lock().by_key.len(), KEPT_GONE);
    }
}
