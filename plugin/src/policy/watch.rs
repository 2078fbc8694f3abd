//! Step 2: follows the cluster's policies into the store.
//!
//! One object that does not parse never stops the stream: it is remembered as refused, with the reason.

use std::sync::Arc;

use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    core::DeserializeGuard,
    runtime::{WatchStreamExt as _, watcher},
};
use quietcore_crd::DataplanePolicy;

use super::{
    accept::accept,
    effective::PolicyRef,
    store::{Change, Known, PolicyStore},
};

/// Called for each policy whose running containers keep what they started with.
pub trait OnChange: Send + Sync {
    fn changed(&self, namespace: &str, name: &str, change: Change);
}

/// Runs for the life of the agent. The watcher comes back by itself, with back-off, when the API server does.
pub async fn follow(client: Client, store: Arc<PolicyStore>, on_change: Arc<dyn OnChange>) {
    let api = Api::<DeserializeGuard<DataplanePolicy>>::all(client);
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(policy)) => {
                listed.push((policy.0.namespace(), policy.0.name_any()));
                apply(&store, policy, &*on_change);
            }
            Ok(watcher::Event::InitDone) => {
                for (namespace, name) in store.synced(&listed) {
                    on_change.changed(&namespace, &name, Change::Deleted);
                }
            }
            Ok(watcher::Event::Apply(policy)) => apply(&store, policy, &*on_change),
            Ok(watcher::Event::Delete(policy)) => {
                let (namespace, name) = (policy.0.namespace(), policy.0.name_any());
                if let Some(change) = store.remove(&namespace, &name) {
                    on_change.changed(&namespace, &name, change);
                }
            }
            Err(error) => tracing::warn!(%error, "watching policies; deciding from the remembered ones"),
        }
    }
}

trait Namespaced {
    fn namespace(&self) -> String;
    fn name_any(&self) -> String;
}

impl Namespaced for Result<DataplanePolicy, kube::core::error_boundary::InvalidObject> {
    fn namespace(&self) -> String {
        let metadata = match self {
            Ok(policy) => &policy.metadata,
            Err(invalid) => &invalid.metadata,
        };
        metadata.namespace.clone().unwrap_or_default()
    }

    fn name_any(&self) -> String {
        match self {
            Ok(policy) => policy.name_any(),
            Err(invalid) => invalid.metadata.name.clone().unwrap_or_default(),
        }
    }
}

fn apply(store: &PolicyStore, policy: DeserializeGuard<DataplanePolicy>, on_change: &dyn OnChange) {
    let (namespace, name) = (policy.0.namespace(), policy.0.name_any());
    let metadata = match &policy.0 {
        Ok(policy) => &policy.metadata,
        Err(invalid) => &invalid.metadata,
    };
    let source = PolicyRef {
        namespace: namespace.clone(),
        name: name.clone(),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
    };
    if let Some(change) = store.put(judge(policy.0.map(|policy| policy.spec), source)) {
        on_change.changed(&namespace, &name, change);
    }
}

/// What the store remembers of one object, whatever state it is in.
pub(super) fn judge<E: std::fmt::Display>(
    spec: Result<quietcore_crd::DataplanePolicySpec, E>,
    source: PolicyRef,
) -> Known {
    let refused = |why: String| {
        tracing::warn!(namespace = source.namespace, name = source.name, why, "policy refused");
        Known::Refused { source: source.clone(), why }
    };
    match spec {
        Ok(spec) => match accept(&spec, source.clone()) {
            Ok(policy) => Known::Accepted(policy),
            Err(error) => refused(error.to_string()),
        },
        Err(error) => refused(error.to_string()),
    }
}
