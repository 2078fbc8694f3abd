//! Evicts the strict pods that the nodes name, as PodDisruptionBudgets allow it, and waits until they are gone.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, Config, api::PostParams};
use serde_json::json;
use tokio::time::Instant;

use super::answers::Named;
use crate::cores::device_plugin::RESOURCE;

/// After a refusal, as `kubectl drain`.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

pub(super) struct Drain {
    client: Client,
    /// Whose kubelet is not known yet to give no cores away: what is evicted would come back there.
    offering: Option<String>,
    /// By namespace and name, each pod that was named once and is not gone.
    leaving: BTreeMap<(String, String), Leaving>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaving {
    node: String,
    uid: String,
    /// Not before.
    evict_at: Option<Instant>,
    /// What the API server said of the eviction.
    refused: Option<String>,
}

impl Drain {
    pub(super) fn connect(mut config: Config) -> kube::Result<Drain> {
        // A budget says 429 for minutes: kube's own patience would keep all the other pods waiting.
        config.default_retry = false;
        let client = Client::try_from(config)?;
        Ok(Drain { client, offering: None, leaving: BTreeMap::new() })
    }

    pub(super) async fn look(&mut self, nodes: &[String], named: &[Named]) -> kube::Result<()> {
        self.offering = self.first_offering(nodes).await?;
        if self.offering.is_some() {
            return Ok(());
        }
        for Named { node, container } in named {
            let Some((namespace, name)) = pod_of(container) else { continue };
            let key = (namespace.to_owned(), name.to_owned());
            if self.leaving.contains_key(&key) {
                continue;
            }
            let pod = self.pods(namespace).get_opt(name).await?;
            if let Some(leaving) = pod.and_then(|pod| leaving(&pod, node)) {
                self.leaving.insert(key, leaving);
            }
        }
        let keys: Vec<(String, String)> = self.leaving.keys().cloned().collect();
        for key in keys {
            self.see_off(key).await?;
        }
        Ok(())
    }

    /// In words, who is still there.
    pub(super) fn left(&self, named: &[Named]) -> Vec<String> {
        if let Some(node) = &self.offering {
            return vec![format!("{RESOURCE} among what the kubelet of node {node} offers")];
        }
        let leaving = self.leaving.iter().map(|((namespace, name), leaving)| {
            let why =
                leaving.refused.as_ref().map(|why| format!(" (not evicted: {why})")).unwrap_or_default();
            format!("pod {namespace}/{name} on node {}{why}", leaving.node)
        });
        let is_leaving = |container: &str| {
            pod_of(container).is_some_and(|(namespace, name)| {
                self.leaving.contains_key(&(namespace.to_owned(), name.to_owned()))
            })
        };
        let others = named.iter().filter(|named| !is_leaving(&named.container));
        let others = others.map(|Named { node, container }| format!("container {container} on node {node}"));
        leaving.chain(others).collect()
    }

    async fn first_offering(&self, nodes: &[String]) -> kube::Result<Option<String>> {
        let api = Api::<Node>::all(self.client.clone());
        for name in nodes {
            if api.get_opt(name).await?.is_some_and(|node| offers(&node)) {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    async fn see_off(&mut self, key: (String, String)) -> kube::Result<()> {
        let (namespace, name) = &key;
        let pods = self.pods(namespace);
        let pod = pods.get_opt(name).await?;
        let Some(known) = self.leaving.get_mut(&key) else { return Ok(()) };
        let Some(pod) = pod.filter(|pod| is_there(pod, &known.uid)) else {
            self.leaving.remove(&key);
            return Ok(());
        };
        let too_soon = known.evict_at.is_some_and(|at| Instant::now() < at);
        if pod.metadata.deletion_timestamp.is_some() || too_soon {
            return Ok(());
        }
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name},
            "deleteOptions": {"preconditions": {"uid": known.uid}},
        });
        let evicted: kube::Result<serde_json::Value> =
            pods.create_subresource("eviction", name, &PostParams::default(), &eviction).await;
        known.evict_at = Some(Instant::now() + AGAIN_AFTER);
        known.refused = match evicted {
            Ok(_) => {
                tracing::info!(namespace, pod = name, node = known.node, "evicted");
                None
            }
            Err(kube::Error::Api(status)) => {
                tracing::info!(
                    namespace,
                    pod = name,
                    node = known.node,
                    why = status.message,
                    "not evicted yet"
                );
                Some(status.message)
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

fn pod_of(container: &str) -> Option<(&str, &str)> {
    let (namespace, rest) = container.split_once('/')?;
    Some((namespace, rest.split_once('/')?.0))
}

/// Does the scheduler believe that this node has cores for strict pods?
fn offers(node: &Node) -> bool {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    allocatable.and_then(|allocatable| allocatable.get(RESOURCE)).is_some_and(|n_cores| n_cores.0 != "0")
}

/// `None`: the pod that was named there is gone, and this one has its name only, or has ended.
fn leaving(pod: &Pod, node: &str) -> Option<Leaving> {
    let is_on_node = pod.spec.as_ref()?.node_name.as_deref() == Some(node);
    let uid = pod.metadata.uid.clone().filter(|_| is_on_node)?;
    is_there(pod, &uid).then(|| Leaving { node: node.to_owned(), uid, evict_at: None, refused: None })
}

/// A pod that has ended holds no core.
fn is_there(pod: &Pod, uid: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.uid.as_deref() == Some(uid) && !matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, node: Option<&str>, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": uid},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn the_pod_that_was_named_leaves_and_no_other_of_its_name() {
        assert_eq!(pod_of("ns/p/c"), Some(("ns", "p")));
        assert_eq!(pod_of("p"), None);
        let found = leaving(&pod("1", Some("n"), "Running"), "n").unwrap();
        assert_eq!((found.uid.as_str(), found.node.as_str()), ("1", "n"));
        // A StatefulSet's next, waiting for a core; or the same on a node that does not name it.
        assert_eq!(leaving(&pod("2", None, "Pending"), "n"), None);
        assert_eq!(leaving(&pod("2", Some("m"), "Running"), "n"), None);
        assert_eq!(leaving(&pod("1", Some("n"), "Failed"), "n"), None);
        assert!(is_there(&pod("1", Some("n"), "Running"), "1"));
        assert!(!is_there(&pod("2", Some("n"), "Running"), "1"));
        assert!(!is_there(&pod("1", Some("n"), "Succeeded"), "1"));
    }

    #[test]
    fn a_node_offers_cores_until_the_scheduler_is_told_of_none() {
        let node = |allocatable: serde_json::Value| -> Node {
            serde_json::from_value(json!({"metadata": {}, "status": {"allocatable": allocatable}})).unwrap()
        };
        assert!(offers(&node(json!({RESOURCE: "14"}))));
        assert!(!offers(&node(json!({RESOURCE: "0"}))));
        assert!(!offers(&node(json!({"cpu": "4"}))));
    }
}
