//! Step 2: shows on each policy whether agents can keep it: the condition Accepted. Display only, nobody decides
//! from it.
//!
//! All agents say the same, by server-side apply under one field manager, and only where the object does not say
//! it yet. Each writes a generation once: agents of two versions that disagree must not answer each other for ever.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use quietcore_crd::{DataplanePolicy, reason::ConditionReason};
use tokio::sync::Notify;

use super::{
    effective::PolicyRef,
    memory::{Key, Known},
};

pub const ACCEPTED: &str = "Accepted";
const FIELD_MANAGER: &str = "quietcore";
/// metav1.Condition allows 32,768; a person reads less.
const MAX_MESSAGE: usize = 4096;
/// Agents see an edit at the same moment; whoever waits shortest writes, the others then see it written.
const SPREAD_MS: u16 = 2048;
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// `None`: the object says it already.
fn accepted(known: &Known, said: Option<&Condition>, now: Timestamp) -> Option<Condition> {
    let (status, reason, message) = match known.verdict() {
        Ok(_policy) => ("True", ConditionReason::PolicyAccepted, String::new()),
        Err(why) => ("False", ConditionReason::PolicyRefused, why.chars().take(MAX_MESSAGE).collect()),
    };
    let wanted = Condition {
        type_: ACCEPTED.to_owned(),
        status: status.to_owned(),
        reason: reason.text().to_owned(),
        message,
        observed_generation: Some(known.source().generation),
        last_transition_time: match said {
            Some(said) if said.status == status => said.last_transition_time.clone(),
            _ => Time(now),
        },
    };
    (said != Some(&wanted)).then_some(wanted)
}

/// The object's uid is in it, so that the verdict on a deleted policy never lands on its successor.
fn patch(source: &PolicyRef, condition: &Condition) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "quietcore.io/v1alpha1",
        "kind": "DataplanePolicy",
        "metadata": {"namespace": source.namespace, "name": source.name, "uid": source.uid},
        "status": {"observedGeneration": source.generation, "conditions": [condition]},
    })
}

// === impl Board ===

/// What is still to be written. Holds one entry a policy, whatever happens to the API server.
#[derive(Debug, Default)]
pub struct Board {
    notes: Mutex<Notes>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    wanted: BTreeMap<Key, (PolicyRef, Condition)>,
    written: BTreeMap<Key, PolicyRef>,
}

impl Board {
    /// `said` is the condition that the object has now.
    pub fn saw(&self, known: &Known, said: Option<&Condition>) {
        let mut notes = self.lock();
        let (key, source) = (known.key(), known.source().clone());
        match accepted(known, said, Timestamp::now()) {
            Some(condition) if notes.written.get(&key) != Some(&source) => {
                notes.wanted.insert(key, (source, condition));
                self.news.notify_one();
            }
            _ => {
                notes.wanted.remove(&key);
            }
        }
    }

    pub fn gone(&self, key: &Key) {
        let mut notes = self.lock();
        notes.wanted.remove(key);
        notes.written.remove(key);
    }

    fn next(&self) -> Option<(PolicyRef, Condition)> {
        self.lock().wanted.values().next().cloned()
    }

    /// Written, or refused for good. What was wanted meanwhile, for a later generation, stays wanted.
    fn done(&self, source: &PolicyRef) {
        let mut notes = self.lock();
        let key = (source.namespace.clone(), source.name.clone());
        if notes.wanted.get(&key).is_some_and(|(wanted, _)| wanted == source) {
            notes.wanted.remove(&key);
        }
        notes.written.insert(key, source.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs for the life of the agent.
pub async fn write(client: Client, board: &Board) {
    loop {
        board.news.notified().await;
        tokio::time::sleep(spread()).await;
        while let Some((source, condition)) = board.next() {
            match apply(&client, &source, &condition).await {
                Ok(_policy) => board.done(&source),
                Err(kube::Error::Api(refusal)) if is_final(refusal.code) => {
                    tracing::warn!(step = 2, name = source.name, %refusal, "write the policy's condition");
                    board.done(&source);
                }
                Err(error) => {
                    tracing::debug!(step = 2, name = source.name, %error, "write the policy's condition");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

async fn apply(client: &Client, source: &PolicyRef, condition: &Condition) -> kube::Result<DataplanePolicy> {
    let api = Api::<DataplanePolicy>::namespaced(client.clone(), &source.namespace);
    let patch = Patch::Apply(patch(source, condition));
    api.patch_status(&source.name, &PatchParams::apply(FIELD_MANAGER).force(), &patch).await
}

/// 429 asks for patience; the rest of 4xx says that trying again is of no use: deleted meanwhile, or forbidden.
fn is_final(code: u16) -> bool {
    (400..500).contains(&code) && code != 429
}

fn spread() -> Duration {
    let mut random = [0; 2];
    // Without it all write at once, which is only slower.
    let _filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    Duration::from_millis(u64::from(u16::from_le_bytes(random) % SPREAD_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::memory::tests::known;

    const GOOD: &str = "{}";
    const BAD: &str = "{onUnprotected: Kill}";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_accepted_policy_says_so_once() {
        let condition = accepted(&known("p", 1, GOOD), None, at(1)).unwrap();
        assert_eq!((&*condition.status, &*condition.reason), ("True", "PolicyAccepted"));
        assert_eq!(accepted(&known("p", 1, GOOD), Some(&condition), at(2)), None);
    }

    #[test]
    fn a_refused_policy_says_what_to_change() {
        let condition = accepted(&known("p", 1, BAD), None, at(1)).unwrap();
        assert_eq!((&*condition.status, &*condition.reason), ("False", "PolicyRefused"));
        assert!(condition.message.contains("use Report"), "{}", condition.message);
    }

    #[test]
    fn the_time_is_that_of_the_last_change_of_mind() {
        let first = accepted(&known("p", 1, GOOD), None, at(1)).unwrap();
        let edited = accepted(&known("p", 2, GOOD), Some(&first), at(2)).unwrap();
        assert_eq!((edited.observed_generation, edited.last_transition_time), (Some(2), Time(at(1))));
        let refused = accepted(&known("p", 3, BAD), Some(&first), at(3)).unwrap();
        assert_eq!(refused.last_transition_time, Time(at(3)));
    }

    #[test]
    fn what_another_agent_wrote_is_not_written_again() {
        let board = Board::default();
        board.saw(&known("p", 1, GOOD), None);
        let (_, condition) = board.next().unwrap();
        board.saw(&known("p", 1, GOOD), Some(&condition));
        assert!(board.next().is_none());
    }

    #[test]
    fn agents_that_disagree_do_not_answer_each_other_for_ever() {
        let board = Board::default();
        board.saw(&known("p", 1, GOOD), None);
        board.done(known("p", 1, GOOD).source());
        let theirs = accepted(&known("p", 1, BAD), None, at(1)).unwrap();
        board.saw(&known("p", 1, GOOD), Some(&theirs));
        assert!(board.next().is_none());
        board.saw(&known("p", 2, GOOD), Some(&theirs));
        assert!(board.next().is_some());
    }

    #[test]
    fn a_newer_verdict_survives_the_end_of_an_older_write() {
        let board = Board::default();
        board.saw(&known("p", 1, GOOD), None);
        let (writing, _) = board.next().unwrap();
        board.saw(&known("p", 2, BAD), None);
        board.done(&writing);
        assert_eq!(board.next().map(|(source, _)| source.generation), Some(2));
        board.gone(&("ns".into(), "p".into()));
        assert!(board.next().is_none());
    }

    #[test]
    fn only_refusals_that_time_does_not_heal_are_final() {
        assert_eq!([403, 404, 409, 422].map(is_final), [true; 4]);
        assert_eq!([429, 500, 503].map(is_final), [false; 3]);
    }
}
