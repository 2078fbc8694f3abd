//! Step 2: follows the cluster's policies into the store, and says on each whether agents can keep it.
//!
//! One object that does not parse never stops the stream: it is remembered as refused, with the reason.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::watcher::{self, DefaultBackoff, Event, watcher},
};
use quietcore_crd::DataplanePolicy;

use super::{
    effective::PolicyRef,
    memory::{Change, Key, Known},
    status::{self, Board},
    store::PolicyStore,
};

/// Called for each policy whose running containers keep what they started with.
pub trait OnChange: Send + Sync {
    fn changed(&self, namespace: &str, name: &str, change: Change);
}

/// Where the back-off ends.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Runs for the life of the agent.
pub async fn follow(client: Client, store: Arc<PolicyStore>, on_change: Arc<dyn OnChange>) {
    let board = Board::default();
    let follower = Follower { store: &store, board: &board, on_change: &*on_change };
    tokio::join!(follower.watch(client.clone()), status::write(client, &board));
}

struct Follower<'a> {
    store: &'a PolicyStore,
    board: &'a Board,
    on_change: &'a dyn OnChange,
}

impl Follower<'_> {
    /// After an error it lists anew rather than resuming: a resumed watch stays silent until something changes,
    /// and nothing would tell that the memory is fresh again.
    async fn watch(&self, client: Client) {
        let api = Api::<DeserializeGuard<DataplanePolicy>>::all(client);
        let mut waits = DefaultBackoff::default();
        loop {
            let mut events = watcher(api.clone(), watcher::Config::default()).boxed();
            let mut listed = Vec::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => self.event(event, &mut listed),
                    Err(error) => {
                        tracing::warn!(step = 2, %error, "watch policies; deciding from the remembered ones");
                        break;
                    }
                }
            }
            self.store.lost();
            tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
        }
    }

    fn event(&self, event: Event<DeserializeGuard<DataplanePolicy>>, listed: &mut Vec<Key>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(policy) => listed.push(self.apply(policy)),
            Event::InitDone => {
                for key in self.store.synced(listed) {
                    self.gone(&key, Change::Deleted);
                }
                self.store.save();
            }
            Event::Apply(policy) => {
                self.apply(policy);
                self.store.save();
            }
            Event::Delete(policy) => {
                let source = source_of(metadata_of(&policy));
                let key = (source.namespace, source.name);
                if let Some(change) = self.store.remove(&key) {
                    self.gone(&key, change);
                }
                self.store.save();
            }
        }
    }

    fn apply(&self, policy: DeserializeGuard<DataplanePolicy>) -> Key {
        let source = source_of(metadata_of(&policy));
        let said = policy.0.as_ref().ok().and_then(accepted_condition).cloned();
        let known = Known::judge(policy.0.map(|policy| policy.spec), source);
        self.board.saw(&known, said.as_ref());
        let key = known.key();
        if let Some(change) = self.store.put(known) {
            self.on_change.changed(&key.0, &key.1, change);
        }
        key
    }

    fn gone(&self, key: &Key, change: Change) {
        self.board.gone(key);
        self.on_change.changed(&key.0, &key.1, change);
    }
}

fn metadata_of(policy: &DeserializeGuard<DataplanePolicy>) -> &ObjectMeta {
    match &policy.0 {
        Ok(policy) => &policy.metadata,
        Err(invalid) => &invalid.metadata,
    }
}

fn source_of(metadata: &ObjectMeta) -> PolicyRef {
    PolicyRef {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
    }
}

fn accepted_condition(policy: &DataplanePolicy) -> Option<&Condition> {
    policy
        .status
        .iter()
        .flat_map(|status| &status.conditions)
        .find(|condition| condition.type_ == status::ACCEPTED)
}

#[cfg(test)]
mod tests;
