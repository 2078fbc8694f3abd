//! Step 3's view of the kubelet against a kubelet of our own: one that restarts, limits, fails and stalls.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use quietcore::cores::pod_resources::{self, Lister, PodResourcesError, View};
use quietcore_proto::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
    PodResources,
    pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
};
use tokio::{
    net::UnixListener,
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer = Result<Vec<PodResources>, Status>;

/// What the kubelet answers from now on.
#[derive(Debug, Clone)]
struct Answers(Arc<Mutex<Answer>>);

impl Answers {
    fn are(&self, answer: Answer) {
        *self.0.lock().unwrap() = answer;
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Answers {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.lock().unwrap().clone()?;
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let cpu_ids = vec![2, 3];
        Ok(Response::new(AllocatableResourcesResponse { cpu_ids, ..Default::default() }))
    }

    async fn get(
        &self,
        _: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented("nobody asks for one pod"))
    }
}

/// Ends, and closes its connections, when it is dropped.
struct FakeKubelet {
    answers: Answers,
    _life: oneshot::Sender<()>,
}

impl FakeKubelet {
    /// As the real one: the socket of the one before is replaced.
    fn start(socket: &Path, answer: Answer) -> FakeKubelet {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let answers = Answers(Arc::new(Mutex::new(answer)));
        let service = PodResourcesListerServer::new(answers.clone());
        let (life, end) = oneshot::channel::<()>();
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming_shutdown(listener, async { drop(end.await) }));
        FakeKubelet { answers, _life: life }
    }
}

/// The agent's side.
struct Follower {
    sooner: Arc<Notify>,
    views: watch::Receiver<Option<View>>,
    task: JoinHandle<()>,
}

impl Follower {
    fn of(socket: PathBuf) -> Follower {
        let sooner = Arc::new(Notify::new());
        let (view, views) = watch::channel(None);
        let task = tokio::spawn(pod_resources::follow(socket, Arc::clone(&sooner), view));
        Follower { sooner, views, task }
    }

    /// Asks for looks until the view names exactly these pods.
    async fn sees(&mut self, pods: &[&str]) {
        let looks = async {
            loop {
                self.sooner.notify_one();
                let seen = |view: &Option<View>| {
                    let names = |view: &View| view.containers.iter().map(|known| known.pod.clone()).collect();
                    view.as_ref().map(names) == Some(Vec::from_iter(pods.iter().map(|&pod| pod.to_owned())))
                };
                let wait = self.views.wait_for(seen);
                if timeout(Duration::from_millis(200), wait).await.is_ok() {
                    return;
                }
            }
        };
        timeout(PATIENCE, looks).await.expect("the view does not come");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pod(name: &str) -> PodResources {
    let device = |id: &str| ContainerDevices {
        resource_name: "quietcore.io/core".to_owned(),
        device_ids: vec![id.to_owned()],
        topology: None,
    };
    let app = ContainerResources {
        name: "app".to_owned(),
        devices: vec![device("core-1"), device("core-3")],
        ..ContainerResources::default()
    };
    PodResources { name: name.to_owned(), namespace: "n".to_owned(), containers: vec![app] }
}

#[tokio::test]
async fn devices_and_what_the_static_policy_may_give_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kubelet.sock");
    let _kubelet = FakeKubelet::start(&socket, Ok(vec![pod("p")]));
    let view = Lister::connect(&socket).await.unwrap().view().await.unwrap();
    assert_eq!(view.of("n", "p", "app").unwrap().devices, ["core-1", "core-3"]);
    assert_eq!(view.allocatable, Some("2-3".parse().unwrap()));
    assert!(!view.knows_pod("m", "p"));
}

#[tokio::test]
async fn a_restarted_kubelet_is_found_again_and_the_last_view_stays_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kubelet.sock");
    let mut follower = Follower::of(socket.clone());
    let kubelet = FakeKubelet::start(&socket, Ok(vec![pod("old")]));
    follower.sees(&["old"]).await;
    drop(kubelet);
    follower.sooner.notify_one();
    tokio::task::yield_now().await;
    assert!(follower.views.borrow().as_ref().is_some_and(|view| view.knows_pod("n", "old")));
    let kubelet = FakeKubelet::start(&socket, Ok(vec![pod("new")]));
    follower.sees(&["new"]).await;
    kubelet.answers.are(Ok(Vec::new()));
    follower.sees(&[]).await;
}

#[tokio::test]
async fn a_kubelet_that_limits_or_fails_changes_nothing_that_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kubelet.sock");
    let kubelet = FakeKubelet::start(&socket, Err(Status::resource_exhausted("rejected by rate limit")));
    let mut lister = Lister::connect(&socket).await.unwrap();
    assert!(matches!(lister.view().await, Err(PodResourcesError::Busy)));
    kubelet.answers.are(Err(Status::internal("it is not well")));
    let error = lister.view().await.unwrap_err().to_string();
    assert_eq!(error, "the kubelet does not answer List of PodResources: it is not well");
    let mut follower = Follower::of(socket);
    kubelet.answers.are(Ok(vec![pod("p")]));
    follower.sees(&["p"]).await;
    kubelet.answers.are(Err(Status::resource_exhausted("rejected by rate limit")));
    follower.sooner.notify_one();
    tokio::task::yield_now().await;
    assert!(follower.views.borrow().as_ref().is_some_and(|view| view.knows_pod("n", "p")));
}

#[tokio::test]
async fn a_socket_without_a_kubelet_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kubelet.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let error = Lister::connect(&socket).await.unwrap_err().to_string();
    assert_eq!(error, format!("connect to the kubelet's PodResources at {}", socket.display()));
}
