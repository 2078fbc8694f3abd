//! Several nodes of one machine, against an API server of two kinds of object.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

const BOOT: &str = "boot-1";

#[test]
fn the_first_holder_keeps_the_machine_until_its_node_is_gone() {
    let stand_by = Some(Role::StandBy { holder: "b".into() });
    assert_eq!(decide("a", None), None);
    assert_eq!(decide("a", Some(("a", true))), Some(Role::Publish));
    assert_eq!(decide("a", Some(("a", false))), None);
    assert_eq!(decide("a", Some(("b", true))), stand_by);
    assert_eq!(decide("a", Some(("b", false))), None);
}

#[derive(Default)]
struct World {
    /// Name to UID.
    nodes: BTreeMap<String, String>,
    leases: BTreeMap<String, Value>,
    n_writes: u64,
    away: bool,
    /// Somebody else writes between our look and our write.
    racing: bool,
}

#[derive(Clone)]
struct Cluster(Arc<Mutex<World>>, Arc<tempfile::TempDir>);

impl Cluster {
    fn of(nodes: &[&str]) -> Cluster {
        let nodes = nodes.iter().map(|&node| (node.to_owned(), format!("uid-{node}"))).collect();
        let world = World { nodes, ..World::default() };
        Cluster(Arc::new(Mutex::new(world)), Arc::new(tempfile::tempdir().unwrap()))
    }

    fn machine(&self, node: &str) -> Machine {
        let world = Arc::clone(&self.0);
        let service = tower::service_fn(move |request: Request<Body>| {
            let world = Arc::clone(&world);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let (code, answer) = world.lock().unwrap().answer(&head.method, head.uri.path(), body);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, kube::Error>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Machine {
            client: Client::new(service, "ns"),
            namespace: "ns".into(),
            node: node.into(),
            file: self.1.path().join(node).join("claim.json"),
        }
    }

    /// What a start of this node's agent settles, from what it remembers.
    async fn settle(&self, node: &str, boot_id: &str) -> Result<Role, String> {
        let machine = self.machine(node);
        let mut known = remembered(&machine.file);
        machine.settle(boot_id, &mut known).await.map_err(|error| match error {
            MachineError::Api(source) => source.to_string(),
            error => error.to_string(),
        })
    }

    /// The roles that a start of this node's agent tells within a simulated while.
    async fn told(&self, node: &str, boot_id: &str, within: Duration) -> Vec<Role> {
        let mut told = Vec::new();
        let keep = self.machine(node).keep_for(boot_id, |role| told.push(role.clone()));
        let _ = tokio::time::timeout(within, keep).await;
        told
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.0.lock().unwrap());
    }

    fn leases(&self) -> Vec<String> {
        let world = self.0.lock().unwrap();
        let told = world.leases.iter().map(|(name, lease)| {
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            let owner = lease["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
            format!("{name}: {holder} of {owner}")
        });
        told.collect()
    }
}

impl World {
    fn answer(&mut self, method: &Method, path: &str, mut body: Value) -> (u16, Value) {
        if self.away {
            return failure(503, "away");
        }
        if let Some(node) = path.strip_prefix("/api/v1/nodes/") {
            assert_eq!(method, Method::GET);
            return match self.nodes.get(node) {
                Some(uid) => {
                    let metadata = json!({"name": node, "uid": uid});
                    (
                        200,
                        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}),
                    )
                }
                None => failure(404, "no such node"),
            };
        }
        let name = path.strip_prefix("/apis/coordination.k8s.io/v1/namespaces/ns/leases").unwrap();
        let is_write = method == Method::POST || method == Method::PUT;
        if is_write && std::mem::take(&mut self.racing) {
            let name = body["metadata"]["name"].as_str().unwrap().to_owned();
            let other = json!({"metadata": {"name": name, "resourceVersion": "999"}, "spec": {"holderIdentity": "b"}});
            self.leases.insert(name, other);
        }
        let name = if method == Method::POST { body["metadata"]["name"].as_str().unwrap() } else { name };
        let name = name.trim_start_matches('/').to_owned();
        let found = self.leases.get(&name).cloned();
        match (method.as_str(), found) {
            ("GET", Some(lease)) => (200, lease),
            ("DELETE", Some(lease)) => {
                self.leases.remove(&name);
                (200, lease)
            }
            ("POST", Some(_)) => failure(409, "already exists"),
            ("PUT", Some(lease))
                if lease["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] =>
            {
                failure(409, "conflict")
            }
            ("POST", None) | ("PUT", Some(_)) => {
                self.n_writes += 1;
                body["metadata"]["resourceVersion"] = json!(self.n_writes.to_string());
                self.leases.insert(name, body.clone());
                (200, body)
            }
            _ => failure(404, "no such lease"),
        }
    }
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "" };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": message, "reason": reason,
    });
    (code, status)
}

fn stand_by(holder: &str) -> Role {
    Role::StandBy { holder: holder.into() }
}

#[tokio::test]
async fn exactly_one_node_of_a_machine_publishes() {
    let cluster = Cluster::of(&["a", "b", "c"]);
    assert_eq!(cluster.settle("b", BOOT).await, Ok(Role::Publish));
    assert_eq!(cluster.settle("a", BOOT).await, Ok(stand_by("b")));
    assert_eq!(cluster.settle("c", BOOT).await, Ok(stand_by("b")));
    assert_eq!(cluster.settle("b", BOOT).await, Ok(Role::Publish));
    assert_eq!(cluster.settle("c", "boot-of-another-machine").await, Ok(Role::Publish));
}

#[tokio::test]
async fn of_two_that_claim_at_once_one_looks_again() {
    for leftover in [false, true] {
        let cluster = Cluster::of(&["a", "b"]);
        if leftover {
            let gone = json!({"metadata": {"name": lease_name(BOOT), "resourceVersion": "1"}, "spec": {"holderIdentity": "gone"}});
            cluster.change(|world| drop(world.leases.insert(lease_name(BOOT), gone)));
        }
        cluster.change(|world| world.racing = true);
        let refused = "another node changed the machine's Lease at the same time";
        assert_eq!(cluster.settle("a", BOOT).await, Err(refused.into()));
        assert_eq!(cluster.settle("a", BOOT).await, Ok(stand_by("b")));
    }
}

#[tokio::test]
async fn a_machine_whose_holder_left_the_cluster_is_taken_over() {
    let cluster = Cluster::of(&["a", "b"]);
    cluster.settle("b", BOOT).await.unwrap();
    cluster.change(|world| drop(world.nodes.remove("b")));
    assert_eq!(cluster.settle("a", BOOT).await, Ok(Role::Publish));
    assert_eq!(cluster.leases(), ["quietcore-machine-boot-1: a of uid-a"]);
    // It comes back, and remembers that the machine was its own.
    cluster.change(|world| drop(world.nodes.insert("b".into(), "uid-new".into())));
    assert_eq!(cluster.settle("b", BOOT).await, Ok(stand_by("a")));
}

#[tokio::test]
async fn a_node_that_was_made_anew_makes_its_claim_anew() {
    let cluster = Cluster::of(&["a"]);
    cluster.settle("a", BOOT).await.unwrap();
    cluster.change(|world| drop(world.nodes.insert("a".into(), "uid-new".into())));
    assert_eq!(cluster.settle("a", BOOT).await, Ok(Role::Publish));
    assert_eq!(cluster.leases(), ["quietcore-machine-boot-1: a of uid-new"]);
}

#[tokio::test]
async fn claims_of_earlier_boots_are_given_up_by_who_made_them() {
    let cluster = Cluster::of(&["a", "b"]);
    cluster.settle("a", BOOT).await.unwrap();
    cluster.settle("b", BOOT).await.unwrap();
    cluster.settle("b", "boot-2").await.unwrap();
    assert_eq!(
        cluster.leases(),
        ["quietcore-machine-boot-1: a of uid-a", "quietcore-machine-boot-2: b of uid-b"]
    );
    cluster.settle("a", "boot-2").await.unwrap();
    assert_eq!(cluster.leases(), ["quietcore-machine-boot-2: b of uid-b"]);
}

#[tokio::test]
async fn a_node_name_that_the_cluster_does_not_know_is_an_error() {
    let cluster = Cluster::of(&["a"]);
    assert_eq!(
        cluster.settle("A", BOOT).await,
        Err("the cluster has no node A: is --node-name right?".into())
    );
    assert_eq!(cluster.leases(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_the_api_server_keeps_its_role() {
    let cluster = Cluster::of(&["a", "b"]);
    cluster.settle("a", BOOT).await.unwrap();
    cluster.settle("b", BOOT).await.unwrap();
    cluster.change(|world| world.away = true);
    let hour = Duration::from_secs(3600);
    assert_eq!(cluster.told("a", BOOT, hour).await, [Role::Publish]);
    assert_eq!(cluster.told("b", BOOT, hour).await, [stand_by("a")]);
    // Booted since: somebody else may be faster, so nobody publishes before the API server is asked.
    assert_eq!(cluster.told("a", "boot-2", hour).await, []);
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_over_while_it_was_down_stops_to_publish() {
    let cluster = Cluster::of(&["a", "b"]);
    cluster.settle("b", BOOT).await.unwrap();
    cluster.change(|world| drop(world.nodes.remove("b")));
    cluster.settle("a", BOOT).await.unwrap();
    cluster.change(|world| drop(world.nodes.insert("b".into(), "uid-new".into())));
    let told = cluster.told("b", BOOT, Duration::from_secs(60)).await;
    assert_eq!(told, [Role::Publish, stand_by("a")]);
}

#[tokio::test]
async fn a_damaged_memory_is_no_memory() {
    let cluster = Cluster::of(&["a"]);
    let file = cluster.machine("a").file;
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, b"{").unwrap();
    assert_eq!(cluster.settle("a", BOOT).await, Ok(Role::Publish));
    assert_eq!(remembered(&file).unwrap().role(BOOT, "a"), Some(Role::Publish));
}
