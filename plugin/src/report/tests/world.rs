//! A scripted API server, and a reporter that has it as its destination.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    metrics::Metrics,
    report::{Config, ContainerInfo, Destination, Reason, Reporter, Subject, queue::Bounds},
    violation::symbolize::{
        Symbolizer,
        parent::{Children, DEADLINE},
    },
};

#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Accept,
    /// The request arrives and takes effect; its answer never comes.
    AcceptInSilence,
    Silence,
    Status(u16, &'static str),
}

pub(super) struct World {
    pub(super) reporter: Reporter,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<Mutex<Vec<u8>>>,
    requests: Arc<Mutex<Vec<String>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Clone)]
struct SharedBytes(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for SharedBytes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

type Server = tower_test::mock::Handle<Request<Body>, Response<Body>>;

pub(super) const WAITING: usize = 8;

/// Answers by `script`, then `Accept` for ever.
pub(super) fn world(script: &[Answer]) -> World {
    let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let destination = Destination::Kubernetes(Client::new(service, "default"));
    let requests = Arc::default();
    let answering = tokio::spawn(answer(server, Arc::clone(&requests), script.to_vec().into()));
    world_with(destination, requests, answering)
}

async fn answer(mut server: Server, seen: Arc<Mutex<Vec<String>>>, mut script: VecDeque<Answer>) {
    let (mut held, mut names) = (Vec::new(), HashSet::new());
    while let Some((request, send)) = server.next_request().await {
        let answer = script.pop_front().unwrap_or(Answer::Accept);
        let is_post = request.method() == http::Method::POST;
        let (told, name, body) = read(request).await;
        seen.lock().unwrap().push(told);
        match answer {
            Answer::Accept if is_post && !names.insert(name.clone()) => {
                send.send_response(status(409, "already exists"));
            }
            Answer::Accept => send.send_response(respond(200, &body)),
            Answer::AcceptInSilence => {
                names.insert(name);
                held.push(send);
            }
            Answer::Silence => held.push(send),
            Answer::Status(code, message) => send.send_response(status(code, message)),
        }
    }
}

pub(super) fn world_with(
    destination: Destination,
    requests: Arc<Mutex<Vec<String>>>,
    answering: JoinHandle<()>,
) -> World {
    let bounds = Bounds { waiting: WAITING, ..Config::new(String::new(), |_| None).bounds };
    let limits = crate::violation::limit::Limits { burst: 100, ..Default::default() };
    let config = Config { bounds, limits, ..Config::new("node-1".into(), |_| None) };
    let symbolizer = Symbolizer::new("/proc".into(), Children::new("/bin/false".into(), DEADLINE));
    let (metrics, log) = (Arc::new(Metrics::default()), Arc::new(Mutex::new(Vec::new())));
    let (reporter, task) = Reporter::new(
        config,
        destination,
        symbolizer,
        Arc::clone(&metrics),
        Box::new(SharedBytes(Arc::clone(&log))),
    );
    let reporting = tokio::spawn(async move { match task.await {} });
    World { reporter, metrics, log, requests, tasks: [answering, reporting] }
}

/// "POST ns note" or "PATCH ns x3", the object's name, and an Event to answer with.
async fn read(request: Request<Body>) -> (String, String, Value) {
    let (head, body) = request.into_parts();
    let mut body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
    let path: Vec<&str> = head.uri.path().split('/').collect();
    assert_eq!(&path[..5], ["", "apis", "events.k8s.io", "v1", "namespaces"]);
    let count = body["series"]["count"].as_i64().map(|n| format!(" x{n}")).unwrap_or_default();
    let note = body["note"].as_str().map(|note| format!(" {note}")).unwrap_or_default();
    let told = format!("{} {}{note}{count}", head.method, path[5]);
    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    body["metadata"] = serde_json::json!({ "name": name, "namespace": path[5] });
    (told, name, body)
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
}

fn status(code: u16, message: &str) -> Response<Body> {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": message, "reason": "",
    });
    respond(code, &body)
}

pub(super) fn pod(name: &str) -> Subject {
    Subject::Container(Arc::new(ContainerInfo {
        namespace: "ns".into(),
        pod: name.into(),
        pod_uid: name.into(),
        container: "app".into(),
        container_id: "id".into(),
        policy: None,
    }))
}

impl World {
    pub(super) fn tell(&self, pod_name: &str, note: &str) {
        self.reporter.event(pod(pod_name), Reason::Unprotected, note.into());
    }

    /// Virtual time: passes as soon as nobody has anything to do.
    pub(super) async fn requests_after(&self, seconds: u64) -> Vec<String> {
        sleep(Duration::from_secs(seconds)).await;
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}
