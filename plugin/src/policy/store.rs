//! Step 2: what the agent remembers of policies. CreateContainer decides from here, never from the API.
//!
//! What the last ones said lies on disk as well, so that a node whose API server is away still starts pods of
//! policies it knows. A policy never seen is refused.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    effective::Effective,
    memory::{Change, Key, Known, Memory, Remembered},
};
use crate::agent::disk;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupRefusal {
    #[error("DataplanePolicy {namespace}/{name} does not exist: create it, or correct the pod's annotation")]
    Missing { namespace: String, name: String },
    #[error(
        "DataplanePolicy {namespace}/{name} is not known on this node, and the API server, which may know it, is \
         not reached at the moment; the pod is tried again by itself"
    )]
    NotSynced { namespace: String, name: String },
    #[error("DataplanePolicy {namespace}/{name} is refused by this node's agent: {why}")]
    Refused { namespace: String, name: String, why: String },
}

#[derive(Debug)]
pub struct PolicyStore {
    memory: Mutex<Memory>,
    /// `None`: nothing is kept across restarts.
    file: Option<PathBuf>,
}

impl PolicyStore {
    /// A damaged file costs only the time until the API server answers, so it is no reason not to start.
    pub fn open(file: Option<PathBuf>) -> PolicyStore {
        let remembered = file.as_deref().map(read).transpose().unwrap_or_else(|error| {
            tracing::warn!(step = 2, %error, "the remembered policies are not readable; waiting for the API server");
            None
        });
        let memory = Memory::recall(remembered.unwrap_or_default());
        PolicyStore { memory: Mutex::new(memory), file }
    }

    pub fn find(&self, namespace: &str, name: &str) -> Result<Effective, LookupRefusal> {
        let memory = self.lock();
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let key = (namespace, name);
        let verdict = memory.find(&key).map(|known| known.verdict().clone());
        let ((namespace, name), fresh) = (key, memory.is_fresh());
        match verdict {
            Some(Ok(policy)) => Ok(policy),
            Some(Err(why)) => Err(LookupRefusal::Refused { namespace, name, why }),
            None if fresh => Err(LookupRefusal::Missing { namespace, name }),
            None => Err(LookupRefusal::NotSynced { namespace, name }),
        }
    }

    /// Returns whether running containers of the policy should hear about it. In memory only, until `save`: a
    /// first list of many policies is one write.
    pub fn put(&self, known: Known) -> Option<Change> {
        self.lock().put(known)
    }

    pub fn remove(&self, key: &Key) -> Option<Change> {
        self.lock().remove(key)
    }

    /// The whole list was seen: whatever is not in it does not exist. Returns what went away meanwhile.
    pub fn synced(&self, listed: &[Key]) -> Vec<Key> {
        self.lock().synced(listed)
    }

    /// The API server is out of reach: from now on policies may change without our knowing.
    pub fn lost(&self) {
        self.lock().lost();
    }

    /// false: decisions come from memory, and the API server may know better.
    pub fn is_fresh(&self) -> bool {
        self.lock().is_fresh()
    }

    /// Writes what changed since the last time; does nothing if nothing did.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        let Some(remembered) = self.lock().unsaved() else { return };
        if let Err(error) = disk::write_json(file, &remembered) {
            tracing::error!(step = 2, %error, "the policies are not remembered on disk");
            self.lock().save_failed();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &Path) -> io::Result<Vec<Remembered>> {
    match fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::memory::tests::known;

    fn find(store: &PolicyStore) -> Result<(), String> {
        store.find("ns", "p").map(|_policy| ()).map_err(|refusal| refusal.to_string())
    }

    #[track_caller]
    fn check(store: &PolicyStore, expect: Result<(), &str>) {
        match (find(store), expect) {
            (Ok(()), Ok(())) => {}
            (Err(refusal), Err(words)) => assert!(refusal.contains(words), "{refusal}"),
            (found, expect) => panic!("{found:?} is not {expect:?}"),
        }
    }

    #[test]
    fn a_policy_never_seen_is_refused_and_the_words_say_whether_to_wait() {
        let store = PolicyStore::open(None);
        check(&store, Err("is tried again by itself"));
        store.synced(&[]);
        check(&store, Err("does not exist: create it"));
        store.put(known("p", 1, "{}"));
        check(&store, Ok(()));
        store.remove(&("ns".into(), "p".into()));
        store.lost();
        check(&store, Err("is tried again by itself"));
    }

    #[test]
    fn an_edit_that_cannot_be_kept_refuses_new_pods_and_says_why() {
        let store = PolicyStore::open(None);
        store.put(known("p", 1, "{}"));
        assert_eq!(store.put(known("p", 2, "{onUnprotected: Kill}")), Some(Change::Edited));
        check(&store, Err("ns/p is refused by this node's agent: spec.onUnprotected: Kill is not supported"));
    }

    #[test]
    fn what_was_known_is_known_after_a_restart_without_the_api() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("policies.json"));
        let store = PolicyStore::open(file.clone());
        store.put(known("p", 1, "{entries: {syscall: {action: Signal, signal: SIGUSR1}}}"));
        store.put(known("q", 1, "{mode: [nonsense]}"));
        store.save();
        let again = PolicyStore::open(file);
        assert_eq!(again.find("ns", "p"), store.find("ns", "p"));
        assert_eq!(again.find("ns", "q"), store.find("ns", "q"));
        assert!(again.find("ns", "q").is_err() && !again.is_fresh());
    }

    #[test]
    fn a_damaged_file_costs_only_the_wait_for_the_api_server() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.json");
        fs::write(&file, "{").unwrap();
        check(&PolicyStore::open(Some(file)), Err("is tried again by itself"));
    }

    #[test]
    fn a_disk_that_refuses_is_tried_again_with_the_next_change() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("state");
        fs::write(&blocked, "a file where the folder should be").unwrap();
        let file = blocked.join("policies.json");
        let store = PolicyStore::open(Some(file.clone()));
        store.put(known("p", 1, "{}"));
        store.save();
        fs::remove_file(&blocked).unwrap();
        store.save();
        check(&PolicyStore::open(Some(file)), Ok(()));
    }
}
