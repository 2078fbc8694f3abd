//! Step 3 against a kubelet of our own: it takes registrations, calls back, and restarts as the real one does,
//! by wiping the folder of sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use quietcore::cores::{
    device_plugin::{Cores, Published},
    grants::Grants,
    kubelet,
    ledger::Holder,
    set::{CpuId, CpuSet},
    token::Token,
    topology::{Topology, live::Live},
};
use quietcore::policy::accept::node_default;
use quietcore_proto::deviceplugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, Empty, ListAndWatchResponse, PreferredAllocationRequest,
    RegisterRequest,
    device_plugin_client::DevicePluginClient,
    registration_server::{Registration, RegistrationServer},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

/// Longer than the agent's longest pause between two attempts: a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes registrations; refuses the first `n_refusals`.
struct Registrar {
    registered: mpsc::UnboundedSender<RegisterRequest>,
    n_refusals: std::sync::atomic::AtomicU32,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let _ = self.registered.send(request.into_inner());
        let left = std::sync::atomic::Ordering::Relaxed;
        match self.n_refusals.fetch_update(left, left, |n| n.checked_sub(1)) {
            Ok(_) => Err(Status::internal("not now")),
            Err(_) => Ok(Response::new(Empty {})),
        }
    }
}

struct FakeKubelet {
    folder: PathBuf,
    registrations: mpsc::UnboundedReceiver<RegisterRequest>,
    server: JoinHandle<()>,
}

impl FakeKubelet {
    /// As the real one: whatever lies in the folder is removed first.
    fn start(folder: &Path, n_refusals: u32) -> FakeKubelet {
        for socket in fs::read_dir(folder).unwrap() {
            fs::remove_file(socket.unwrap().path()).unwrap();
        }
        let listener = UnixListener::bind(folder.join("kubelet.sock")).unwrap();
        let (registered, registrations) = mpsc::unbounded_channel();
        let registrar = Registrar { registered, n_refusals: n_refusals.into() };
        let service = Server::builder().add_service(RegistrationServer::new(registrar));
        let server = tokio::spawn(async move {
            service.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        FakeKubelet { folder: folder.to_owned(), registrations, server }
    }

    fn restart(self) -> FakeKubelet {
        self.server.abort();
        FakeKubelet::start(&self.folder, 0)
    }

    async fn registration(&mut self) -> RegisterRequest {
        timeout(PATIENCE, self.registrations.recv()).await.expect("no registration").unwrap()
    }

    /// Waits for the plugin to register, and connects to the socket that it named.
    async fn plugin(&mut self) -> DevicePluginClient<Channel> {
        let endpoint = self.registration().await.endpoint;
        let path = self.folder.join(endpoint);
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://plugin").connect_with_connector(connector).await.unwrap();
        DevicePluginClient::new(channel)
    }
}

struct Agent {
    folder: tempfile::TempDir,
    grants: Arc<Grants>,
    published: watch::Sender<Option<Published>>,
    registered: watch::Receiver<bool>,
}

impl Agent {
    /// CPUs 0 to 5, of which 2 to 5 are on NUMA node 1, and 4 and 5 of one core; 1 to 5 are isolated.
    fn start() -> Agent {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("plugins")).unwrap();
        let grants = Grants::open(folder.path().join("ledger.json"), &set("1-5")).unwrap();
        let grants = Arc::new(grants);
        let topology = Topology::new(set("0-5"), vec![(0, set("0-1")), (1, set("2-5"))], vec![set("4-5")]);
        let published = watch::Sender::new(Some(set("1-5").into()));
        let cores = Cores {
            grants: Arc::clone(&grants),
            topology: Live::new(topology),
            published: published.subscribe(),
        };
        let (state, registered) = watch::channel(false);
        tokio::spawn(kubelet::run(folder.path().join("plugins"), cores, state));
        Agent { folder, grants, published, registered }
    }

    fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    fn kubelet(&self) -> FakeKubelet {
        FakeKubelet::start(&self.plugins(), 0)
    }

    async fn ready(&mut self) {
        timeout(PATIENCE, self.registered.wait_for(|registered| *registered)).await.unwrap().unwrap();
    }
}

fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

async fn next(devices: &mut Streaming<ListAndWatchResponse>) -> Vec<String> {
    let list =
        timeout(PATIENCE, devices.message()).await.expect("no list").unwrap().expect("the stream ended");
    let told = list.devices.into_iter().map(|device| {
        let nodes: Vec<i64> = device.topology.unwrap().nodes.iter().map(|node| node.id).collect();
        format!("{} {} {nodes:?}", device.id, device.health)
    });
    told.collect()
}

async fn allocate(
    plugin: &mut DevicePluginClient<Channel>,
    containers: &[&[&str]],
) -> Result<Vec<ContainerAllocateResponse>, Status> {
    let requests = containers.iter().map(|ids| ContainerAllocateRequest { devices_ids: names(ids) });
    let answer = plugin.allocate(AllocateRequest { container_requests: requests.collect() }).await?;
    Ok(answer.into_inner().container_responses)
}

fn token(answer: &ContainerAllocateResponse) -> Token {
    Token::of(&answer.annotations["grant.quietcore.io/token"])
}

#[tokio::test]
async fn the_kubelet_learns_who_we_are_and_what_we_have() {
    let agent = Agent::start();
    let mut kubelet = agent.kubelet();
    let registration = kubelet.registration().await;
    assert_eq!(
        (registration.version.as_str(), registration.endpoint.as_str(), registration.resource_name.as_str()),
        ("v1beta1", "quietcore.sock", "quietcore.io/core")
    );
    let mut plugin = kubelet.restart().plugin().await;
    let options = plugin.get_device_plugin_options(Empty {}).await.unwrap().into_inner();
    assert_eq!(Some(options), registration.options);
    assert!(options.get_preferred_allocation_available && !options.pre_start_required);
    let mut devices = plugin.list_and_watch(Empty {}).await.unwrap().into_inner();
    let all = ["core-1 Healthy [0]", "core-2 Healthy [1]", "core-3 Healthy [1]", "core-4 Healthy [1]"];
    assert_eq!(next(&mut devices).await, all);
}

#[tokio::test]
async fn cores_that_are_taken_back_disappear_from_an_open_stream() {
    let agent = Agent::start();
    let mut plugin = agent.kubelet().plugin().await;
    let mut devices = plugin.list_and_watch(Empty {}).await.unwrap().into_inner();
    assert_eq!(next(&mut devices).await.len(), 4);
    agent.published.send_replace(None);
    assert_eq!(next(&mut devices).await, Vec::<String>::new());
    agent.published.send_replace(Some(set("2").into()));
    assert_eq!(next(&mut devices).await, ["core-2 Healthy [1]"]);
}

#[tokio::test]
async fn a_core_that_is_not_to_be_used_is_told_to_be_unhealthy() {
    let agent = Agent::start();
    let mut plugin = agent.kubelet().plugin().await;
    let mut devices = plugin.list_and_watch(Empty {}).await.unwrap().into_inner();
    next(&mut devices).await;
    let half_off = [(CpuId::new(5).unwrap(), "CPU 5 is offline".to_owned())].into();
    agent.published.send_replace(Some(Published { cpus: set("3-5"), unhealthy: half_off }));
    assert_eq!(next(&mut devices).await, ["core-3 Healthy [1]", "core-4 Unhealthy [1]"]);
    agent.published.send_replace(Some(set("2,5").into()));
    assert_eq!(next(&mut devices).await, ["core-2 Healthy [1]"], "half a core is never offered");
}

#[tokio::test]
async fn an_allocation_is_a_token_of_its_own_and_the_tripwire() {
    let agent = Agent::start();
    let mut plugin = agent.kubelet().plugin().await;
    let answers = allocate(&mut plugin, &[&["core-4", "core-1"], &["core-2"]]).await.unwrap();
    let [pair, one] = answers.as_slice() else { panic!("one answer for each container") };
    assert_ne!(token(pair), token(one));
    for (answer, cpus) in [(pair, "1,4-5"), (one, "2")] {
        assert_eq!(agent.grants.read(|ledger| ledger.cpus_of(&token(answer))), Ok(set(cpus)));
        let [mount] = answer.mounts.as_slice() else { panic!("exactly the tripwire") };
        assert_eq!(
            (mount.container_path.as_str(), mount.host_path.as_str(), mount.read_only),
            ("/proc/quietcore-agent-is-not-running", "/dev/null", true)
        );
        // A pod's own variable would win over ours: nothing may hang on one.
        assert!(answer.envs.is_empty() && answer.devices.is_empty() && answer.cdi_devices.is_empty());
        assert_eq!(answer.annotations.len(), 1);
    }
    let on_disk = Grants::open(agent.folder.path().join("ledger.json"), &set("1-5")).unwrap();
    assert_eq!(on_disk.read(|ledger| ledger.cpus_of(&token(pair))), Ok(set("1,4-5")));
}

#[tokio::test]
async fn a_device_that_is_none_is_an_error_and_makes_no_allocation() {
    let agent = Agent::start();
    let mut plugin = agent.kubelet().plugin().await;
    for ids in [&["core-x"][..], &["gpu-1"], &["core-1", ""], &["core-5"], &["cpu-1"], &[]] {
        assert_eq!(allocate(&mut plugin, &[ids]).await.unwrap_err().code(), Code::InvalidArgument, "{ids:?}");
    }
    assert!(!agent.folder.path().join("ledger.json").exists());
}

#[tokio::test]
async fn a_disk_that_refuses_the_ledger_fails_no_pod() {
    let agent = Agent::start();
    let mut plugin = agent.kubelet().plugin().await;
    fs::create_dir(agent.folder.path().join("ledger.json")).unwrap();
    let answers = allocate(&mut plugin, &[&["core-1"]]).await.unwrap();
    assert_eq!(agent.grants.read(|ledger| ledger.cpus_of(&token(&answers[0]))), Ok(set("1")));
}

#[tokio::test]
async fn a_cpu_whose_container_still_ends_is_preferred_last() {
    let agent = Agent::start();
    let mut plugin = agent.kubelet().plugin().await;
    let answers = allocate(&mut plugin, &[&["core-2"]]).await.unwrap();
    let holder =
        Holder { namespace: "ns".into(), pod: "old".into(), pod_uid: "uid".into(), container: "app".into() };
    let claim =
        |token| agent.grants.change(|ledger| ledger.claim(token, &holder, "id", "plan", &node_default()));
    claim(&token(&answers[0])).unwrap();
    for (n, must, expected) in [(2, &[][..], ["core-3", "core-4"]), (2, &["core-2"], ["core-2", "core-3"])] {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: names(&["core-4", "core-3", "core-2", "core-1"]),
            must_include_device_i_ds: names(must),
            allocation_size: n,
        };
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let answer = plugin.get_preferred_allocation(request).await.unwrap().into_inner();
        assert_eq!(answer.container_responses[0].device_i_ds, expected);
    }
}

#[tokio::test]
async fn a_restarted_kubelet_is_registered_with_again() {
    let mut agent = Agent::start();
    let mut kubelet = agent.kubelet();
    let mut before = kubelet.plugin().await;
    let token = token(&allocate(&mut before, &[&["core-1"]]).await.unwrap()[0]);
    for _ in 0..3 {
        agent.ready().await;
        kubelet = kubelet.restart();
        let mut plugin = kubelet.plugin().await;
        let mut devices = plugin.list_and_watch(Empty {}).await.unwrap().into_inner();
        assert_eq!(next(&mut devices).await.len(), 4);
    }
    agent.ready().await;
    assert!(agent.grants.read(|ledger| ledger.cpus_of(&token)).is_ok(), "what was given out stays");
}

#[tokio::test]
async fn a_socket_that_somebody_removed_is_made_again() {
    let mut agent = Agent::start();
    let mut kubelet = agent.kubelet();
    kubelet.plugin().await;
    agent.ready().await;
    fs::remove_file(agent.plugins().join("quietcore.sock")).unwrap();
    let mut plugin = kubelet.plugin().await;
    plugin.get_device_plugin_options(Empty {}).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_starts_before_the_kubelet_waits_for_it() {
    let mut agent = Agent::start();
    let (mut registered, own) = (agent.registered.clone(), agent.plugins().join("quietcore.sock"));
    // Its first attempt came to nothing.
    timeout(PATIENCE, async {
        while !own.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(!*registered.borrow_and_update());
    agent.kubelet().plugin().await;
    agent.ready().await;
}

#[tokio::test]
async fn a_folder_that_is_made_later_is_found() {
    let mut agent = Agent::start();
    fs::remove_dir_all(agent.plugins()).unwrap();
    tokio::task::yield_now().await;
    fs::create_dir(agent.plugins()).unwrap();
    let mut kubelet = agent.kubelet();
    kubelet.plugin().await;
    agent.ready().await;
}

#[tokio::test]
async fn a_kubelet_that_refuses_is_asked_again() {
    let mut agent = Agent::start();
    let mut kubelet = FakeKubelet::start(&agent.plugins(), 1);
    kubelet.registration().await;
    assert!(!*agent.registered.borrow_and_update());
    kubelet.plugin().await.get_device_plugin_options(Empty {}).await.unwrap();
    agent.ready().await;
}
