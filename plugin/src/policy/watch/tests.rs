//! The follower against a scripted API server.

use std::{sync::Mutex, time::Duration};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;

type Send = tower_test::mock::SendResponse<Response<Body>>;

struct World {
    store: Arc<PolicyStore>,
    changes: Arc<Changes>,
    server: tower_test::mock::Handle<Request<Body>, Response<Body>>,
    following: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.following.abort();
    }
}

#[derive(Default)]
struct Changes(Mutex<Vec<(String, Change)>>);

impl OnChange for Changes {
    fn changed(&self, _namespace: &str, name: &str, change: Change) {
        self.0.lock().unwrap().push((name.to_owned(), change));
    }
}

fn world() -> World {
    let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let (store, changes) = (Arc::new(PolicyStore::open(None)), Arc::new(Changes::default()));
    let told = Arc::clone(&changes) as Arc<dyn OnChange>;
    let following = tokio::spawn(follow(Client::new(service, "default"), Arc::clone(&store), told));
    World { store, changes, server, following }
}

impl World {
    /// The next request, which must be this one.
    async fn next(&mut self, method: Method, path: &str) -> (Request<Body>, Send) {
        let (request, send) = self.server.next_request().await.expect("the follower goes on");
        assert_eq!((request.method(), request.uri().path()), (&method, path), "{}", request.uri());
        (request, send)
    }

    async fn list(&mut self, policies: &[Value]) {
        let (request, send) = self.next(Method::GET, ALL).await;
        assert!(!request.uri().query().unwrap_or_default().contains("watch"), "{}", request.uri());
        let list = json!({
            "apiVersion": "quietcore.io/v1alpha1", "kind": "DataplanePolicyList",
            "metadata": {"resourceVersion": "1"}, "items": policies,
        });
        send.send_response(respond(200, &list));
    }

    async fn watch(&mut self) -> Send {
        let (request, send) = self.next(Method::GET, ALL).await;
        assert!(request.uri().query().unwrap_or_default().contains("watch"), "{}", request.uri());
        send
    }

    fn find(&self, name: &str) -> Result<(), String> {
        self.store.find("ns", name).map(|_policy| ()).map_err(|refusal| refusal.to_string())
    }
}

const ALL: &str = "/apis/quietcore.io/v1alpha1/dataplanepolicies";

fn respond(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap()
}

fn policy(name: &str, generation: i64, spec: Value) -> Value {
    json!({
        "apiVersion": "quietcore.io/v1alpha1", "kind": "DataplanePolicy",
        "metadata": {"namespace": "ns", "name": name, "uid": name, "generation": generation, "resourceVersion": "1"},
        "spec": spec,
    })
}

#[tokio::test(start_paused = true)]
async fn an_object_that_does_not_parse_is_refused_by_name_and_stops_nobody() {
    let mut world = world();
    world.list(&[policy("bad", 1, json!({"mode": 7})), policy("good", 1, json!({}))]).await;
    let _watching = world.watch().await;
    assert_eq!(world.find("good"), Ok(()));
    let refusal = world.find("bad").unwrap_err();
    assert!(refusal.starts_with("DataplanePolicy ns/bad is refused by this node's agent: "), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn each_policy_is_told_once_whether_it_is_accepted() {
    let mut world = world();
    let refused = policy("p", 4, json!({"onUnprotected": "Kill"}));
    world.list(&[refused]).await;
    let _watching = world.watch().await;
    let path = "/apis/quietcore.io/v1alpha1/namespaces/ns/dataplanepolicies/p/status";
    let (request, send) = world.next(Method::PATCH, path).await;
    assert!(request.uri().query().unwrap().contains("fieldManager=quietcore"), "{}", request.uri());
    let body: Value = serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
    assert_eq!((&body["metadata"]["uid"], &body["status"]["observedGeneration"]), (&json!("p"), &json!(4)));
    let condition = &body["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Accepted"), &json!("False")));
    send.send_response(respond(200, &policy("p", 4, json!({}))));
    let again = tokio::time::timeout(Duration::from_secs(3600), world.server.next_request()).await;
    assert!(again.is_err(), "nothing more to say");
}

#[tokio::test(start_paused = true)]
async fn after_an_error_the_memory_serves_and_a_new_list_tells_what_changed_meanwhile() {
    let mut world = world();
    world
        .list(&[policy("kept", 1, json!({})), policy("edited", 1, json!({})), policy("gone", 1, json!({}))])
        .await;
    let watching = world.watch().await;
    assert!(world.store.is_fresh());
    watching.send_response(respond(500, &json!({"kind": "Status", "code": 500, "message": "away"})));
    // The next request is the condition's or the list's; both show that the error was seen.
    let (request, send) = loop {
        let (request, send) = world.server.next_request().await.unwrap();
        if request.method() == Method::GET {
            break (request, send);
        }
        send.send_response(respond(404, &json!({"kind": "Status", "code": 404, "message": "gone"})));
    };
    assert!(!request.uri().query().unwrap_or_default().contains("watch"), "lists anew: {}", request.uri());
    assert!(!world.store.is_fresh());
    assert_eq!(world.find("gone"), Ok(()));
    let list = json!({
        "apiVersion": "quietcore.io/v1alpha1", "kind": "DataplanePolicyList", "metadata": {"resourceVersion": "9"},
        "items": [policy("kept", 1, json!({})), policy("edited", 2, json!({}))],
    });
    send.send_response(respond(200, &list));
    while !world.store.is_fresh() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(world.find("gone").is_err_and(|refusal| refusal.contains("does not exist")));
    let changes = world.changes.0.lock().unwrap().clone();
    assert_eq!(changes, [("edited".to_owned(), Change::Edited), ("gone".to_owned(), Change::Deleted)]);
}
