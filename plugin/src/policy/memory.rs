//! Step 2: policies by name, as they were last seen. Pure; `store` locks it and keeps it on disk.

use std::{collections::BTreeMap, fmt};

use quietcore_crd::DataplanePolicySpec;
use serde::{Deserialize, Serialize};

use super::{
    accept::accept,
    effective::{Effective, PolicyRef},
};

/// Namespace and name.
pub type Key = (String, String);

/// What is kept across restarts: what was said, not what we made of it. The next agent may be another version,
/// so it judges anew, and only `accept` ever makes an `Effective` of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    source: PolicyRef,
    said: Said,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Said {
    /// As JSON, because a spec of another version may not fit our types.
    Spec(serde_json::Value),
    Unreadable(String),
}

/// A policy and whether this agent can keep it.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    remembered: Remembered,
    verdict: Result<Effective, String>,
}

impl Known {
    /// An object that does not parse is known too: a pod that names it hears why it is refused.
    pub fn judge<E: fmt::Display>(spec: Result<DataplanePolicySpec, E>, source: PolicyRef) -> Known {
        let verdict = match &spec {
            Ok(spec) => accept(spec, source.clone()).map_err(|refused| refused.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let said = match spec.map(serde_json::to_value) {
            Ok(Ok(spec)) => Said::Spec(spec),
            Ok(Err(error)) => Said::Unreadable(error.to_string()),
            Err(error) => Said::Unreadable(error.to_string()),
        };
        if let Err(why) = &verdict {
            tracing::warn!(step = 2, namespace = source.namespace, name = source.name, why, "policy refused");
        }
        Known { remembered: Remembered { source, said }, verdict }
    }

    fn recall(remembered: Remembered) -> Known {
        let Remembered { source, said } = remembered;
        match said {
            Said::Spec(spec) => Known::judge(serde_json::from_value(spec), source),
            Said::Unreadable(why) => Known::judge(Err(why), source),
        }
    }

    pub fn source(&self) -> &PolicyRef {
        &self.remembered.source
    }

    /// Or why this agent cannot keep it.
    pub fn verdict(&self) -> &Result<Effective, String> {
        &self.verdict
    }

    pub fn key(&self) -> Key {
        (self.source().namespace.clone(), self.source().name.clone())
    }
}

/// Why running containers of a policy no longer run what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Edited,
    Deleted,
}

#[derive(Debug, Default)]
pub struct Memory {
    by_name: BTreeMap<Key, Known>,
    fresh: bool,
    unsaved: bool,
}

impl Memory {
    pub fn recall(remembered: Vec<Remembered>) -> Memory {
        let known = remembered.into_iter().map(Known::recall);
        Memory { by_name: known.map(|known| (known.key(), known)).collect(), ..Memory::default() }
    }

    pub fn find(&self, key: &Key) -> Option<&Known> {
        self.by_name.get(key)
    }

    pub fn put(&mut self, known: Known) -> Option<Change> {
        let after = known.remembered.clone();
        let before = self.by_name.insert(known.key(), known).map(|known| known.remembered);
        self.unsaved |= before.as_ref() != Some(&after);
        let before = before?.source;
        let same = before.uid == after.source.uid && before.generation == after.source.generation;
        (!same).then_some(Change::Edited)
    }

    pub fn remove(&mut self, key: &Key) -> Option<Change> {
        let before = self.by_name.remove(key);
        self.unsaved |= before.is_some();
        before.map(|_| Change::Deleted)
    }

    pub fn synced(&mut self, listed: &[Key]) -> Vec<Key> {
        self.fresh = true;
        let gone: Vec<Key> = self.by_name.keys().filter(|key| !listed.contains(key)).cloned().collect();
        for key in &gone {
            self.remove(key);
        }
        gone
    }

    pub fn lost(&mut self) {
        self.fresh = false;
    }

    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// What to write, if anything changed since the last call.
    pub fn unsaved(&mut self) -> Option<Vec<Remembered>> {
        std::mem::take(&mut self.unsaved)
            .then(|| self.by_name.values().map(|known| known.remembered.clone()).collect())
    }

    pub fn save_failed(&mut self) {
        self.unsaved = true;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::policy) fn known(name: &str, generation: i64, spec: &str) -> Known {
        let source = PolicyRef { namespace: "ns".into(), name: name.into(), uid: "u".into(), generation };
        Known::judge(serde_saphyr::from_str(spec), source)
    }

    fn key(name: &str) -> Key {
        ("ns".into(), name.into())
    }

    #[test]
    fn only_another_generation_or_another_object_is_a_change() {
        let mut memory = Memory::default();
        assert_eq!(memory.put(known("p", 1, "{}")), None);
        assert_eq!(memory.put(known("p", 1, "{}")), None);
        assert_eq!(memory.put(known("p", 2, "{}")), Some(Change::Edited));
        let mut recreated = known("p", 2, "{}");
        recreated.remembered.source.uid = "another".into();
        assert_eq!(memory.put(recreated), Some(Change::Edited));
        assert_eq!(memory.remove(&key("p")), Some(Change::Deleted));
        assert_eq!(memory.remove(&key("p")), None);
    }

    #[test]
    fn what_the_list_does_not_have_is_gone() {
        let mut memory = Memory::default();
        memory.put(known("p", 1, "{}"));
        memory.put(known("q", 1, "{}"));
        assert_eq!(memory.synced(&[key("q")]), [key("p")]);
        assert!(memory.find(&key("q")).is_some() && memory.find(&key("p")).is_none());
    }

    #[test]
    fn memory_is_fresh_from_a_list_until_the_api_server_is_lost() {
        let mut memory = Memory::default();
        assert!(!memory.is_fresh());
        memory.synced(&[]);
        assert!(memory.is_fresh());
        memory.lost();
        assert!(!memory.is_fresh());
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut memory = Memory::default();
        assert_eq!(memory.unsaved(), None);
        memory.put(known("p", 1, "{}"));
        assert_eq!(memory.unsaved().map(|written| written.len()), Some(1));
        memory.put(known("p", 1, "{}"));
        memory.synced(&[key("p")]);
        assert_eq!(memory.unsaved(), None);
        memory.synced(&[]);
        assert_eq!(memory.unsaved().map(|written| written.len()), Some(0));
    }

    /// An older agent refused it, or accepted it under other rules.
    #[test]
    fn what_is_remembered_is_judged_by_the_agent_that_reads_it() {
        let on_disk = r#"[
            {"source": {"namespace": "ns", "name": "p", "uid": "u", "generation": 1}, "said": {"spec": {"arm": {"at": "Exec"}}}},
            {"source": {"namespace": "ns", "name": "q", "uid": "u", "generation": 1}, "said": {"spec": {"newer": 1}}}
        ]"#;
        let memory = Memory::recall(serde_json::from_str(on_disk).unwrap());
        assert!(memory.find(&key("p")).unwrap().verdict().is_ok());
        let refused = memory.find(&key("q")).unwrap().verdict().clone().unwrap_err();
        assert!(refused.contains("unknown field `newer`"), "{refused}");
    }
}
