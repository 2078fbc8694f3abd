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
