//! Step 2: what the agent remembers of policies. CreateContainer decides from here, never from the API.
//!
//! The last accepted ones lie on disk as well, so that a node whose API server is away still starts pods of
//! policies it knows. A policy never seen is refused.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use super::effective::{Effective, PolicyRef};
use crate::agent::disk;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known {
    Accepted(Effective),
    Refused { source: PolicyRef, why: String },
}

impl Known {
    pub fn source(&self) -> Option<&PolicyRef> {
        match self {
            Known::Accepted(policy) => policy.source.as_ref(),
            Known::Refused { source, .. } => Some(source),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupRefusal {
    #[error("DataplanePolicy {namespace}/{name} does not exist: create it, or correct the pod's annotation")]
    Missing { namespace: String, name: String },
    #[error(
        "DataplanePolicy {namespace}/{name} is not known on this node, and the API server has not been reached \
         since the agent started; the pod is tried again by itself"
    )]
    NotSynced { namespace: String, name: String },
    #[error("DataplanePolicy {namespace}/{name} is refused by this node's agent: {why}")]
    Refused { namespace: String, name: String, why: String },
}

/// Why running containers of a policy no longer run what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Edited,
    Deleted,
}

#[derive(Debug, Default)]
struct Memory {
    by_name: BTreeMap<(String, String), Known>,
    synced: bool,
}

#[derive(Debug)]
pub struct PolicyStore {
    memory: Mutex<Memory>,
    file: Option<PathBuf>,
}

impl PolicyStore {
    /// A damaged file costs only the time until the API server answers, so it is no reason not to start.
    pub fn open(file: Option<PathBuf>) -> PolicyStore {
        let by_name = file.as_deref().map(read).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "the remembered policies are not readable; waiting for the API server");
            None
        });
        let memory = Memory { by_name: by_name.unwrap_or_default(), synced: false };
        PolicyStore { memory: Mutex::new(memory), file }
    }

    pub fn find(&self, namespace: &str, name: &str) -> Result<Effective, LookupRefusal> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let memory = self.lock();
        match memory.by_name.get(&(namespace.clone(), name.clone())) {
            Some(Known::Accepted(policy)) => Ok(policy.clone()),
            Some(Known::Refused { why, .. }) => {
                Err(LookupRefusal::Refused { namespace, name, why: why.clone() })
            }
            None if memory.synced => Err(LookupRefusal::Missing { namespace, name }),
            None => Err(LookupRefusal::NotSynced { namespace, name }),
        }
    }

    /// Returns whether running containers of the policy should hear about it.
    pub fn put(&self, known: Known) -> Option<Change> {
        let source = known.source()?.clone();
        let key = (source.namespace.clone(), source.name.clone());
        let before = self.lock().by_name.insert(key, known);
        self.save();
        let before = before.as_ref().and_then(Known::source)?;
        let same = before.uid == source.uid && before.generation == source.generation;
        (!same).then_some(Change::Edited)
    }

    pub fn remove(&self, namespace: &str, name: &str) -> Option<Change> {
        let before = self.lock().by_name.remove(&(namespace.to_owned(), name.to_owned()));
        self.save();
        before.map(|_| Change::Deleted)
    }

    /// The whole list was seen: whatever is not in it does not exist. Returns what went away meanwhile.
    pub fn synced(&self, listed: &[(String, String)]) -> Vec<(String, String)> {
        let mut memory = self.lock();
        memory.synced = true;
        let gone: Vec<_> = memory.by_name.keys().filter(|key| !listed.contains(key)).cloned().collect();
        for key in &gone {
            memory.by_name.remove(key);
        }
        drop(memory);
        self.save();
        gone
    }

    pub fn is_synced(&self) -> bool {
        self.lock().synced
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn save(&self) {
        let Some(file) = &self.file else { return };
        let policies: Vec<Known> = self.lock().by_name.values().cloned().collect();
        if let Err(error) = disk::write_json(file, &policies) {
            tracing::error!(%error, "the policies are not remembered on disk");
        }
    }
}

fn read(file: &Path) -> io::Result<BTreeMap<(String, String), Known>> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let policies: Vec<Known> = serde_json::from_slice(&bytes)?;
    let key = |known: &Known| known.source().map(|source| (source.namespace.clone(), source.name.clone()));
    Ok(policies.into_iter().filter_map(|known| Some((key(&known)?, known))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::accept::node_default;

    fn known(name: &str, generation: i64) -> Known {
        let source = PolicyRef { namespace: "ns".into(), name: name.into(), uid: "u".into(), generation };
        Known::Accepted(Effective { source: Some(source), ..node_default() })
    }

    #[test]
    fn a_policy_never_seen_is_refused_and_the_words_say_whether_to_wait() {
        let store = PolicyStore::open(None);
        assert!(matches!(store.find("ns", "p"), Err(LookupRefusal::NotSynced { .. })));
        store.synced(&[]);
        assert!(matches!(store.find("ns", "p"), Err(LookupRefusal::Missing { .. })));
        store.put(known("p", 1));
        assert!(store.find("ns", "p").is_ok());
    }

    #[test]
    fn what_was_accepted_is_known_after_a_restart_without_the_api() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.json");
        PolicyStore::open(Some(file.clone())).put(known("p", 1));
        assert!(PolicyStore::open(Some(file.clone())).find("ns", "p").is_ok());
        fs::write(&file, "{").unwrap();
        assert!(matches!(
            PolicyStore::open(Some(file)).find("ns", "p"),
            Err(LookupRefusal::NotSynced { .. })
        ));
    }

    #[test]
    fn only_another_generation_is_a_change() {
        let store = PolicyStore::open(None);
        assert_eq!(store.put(known("p", 1)), None);
        assert_eq!(store.put(known("p", 1)), None);
        assert_eq!(store.put(known("p", 2)), Some(Change::Edited));
        assert_eq!(store.remove("ns", "p"), Some(Change::Deleted));
        assert_eq!(store.remove("ns", "p"), None);
    }

    #[test]
    fn what_the_list_does_not_have_is_gone() {
        let store = PolicyStore::open(None);
        store.put(known("p", 1));
        store.put(known("q", 1));
        assert_eq!(store.synced(&[("ns".into(), "q".into())]), [("ns".into(), "p".into())]);
    }
}
