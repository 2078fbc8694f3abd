//! Builds the steps in order and keeps them running. Stopping changes nothing on the node: whatever is armed
//! stays armed, under programs that are pinned, until the next agent adopts them.

use std::{convert::Infallible, io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use super::{
    changes::TellOwners,
    containers::Containers,
    cpus_file::CpusFiles,
    gate::{Gate, Seen},
    http::{self, ListenError, Pages, Readiness},
    node_object::NodeObject,
    quieting::{self, Owners, QuietingError},
    records::Records,
    shim_file::{self, ShimFileError},
    timed::Timed,
    visitors::Visitors,
};
use crate::{
    args::AgentArgs,
    coexist::{
        alone::{self, Alone, AloneError},
        watch::{Coexistence, KubeletFiles},
    },
    cores::{
        device_plugin::{Cores, Published},
        grants::Grants,
        kubelet,
        machine::{Machine, Role},
        pod_resources,
        set::CpuSet,
        store::StoreError,
        topology::{Topology, TopologyError},
    },
    guard::{
        detector::{Allowed, Detector, NotEdge},
        load::{Guard, GuardError},
        support::{Kernel, SupportError},
    },
    metrics::Metrics,
    nri::session,
    policy::{
        dir::{self, DirError},
        store::PolicyStore,
        syscalls, watch as policy_watch,
    },
    quiet::worker::Quiet,
    report::{Config, Destination, Reporter},
    violation::symbolize::{
        Symbolizer,
        parent::{Children, DEADLINE},
    },
};

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Alone(#[from] AloneError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Shim(#[from] ShimFileError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Support(#[from] SupportError),
    #[error(transparent)]
    Detector(#[from] NotEdge),
    #[error(transparent)]
    Grants(#[from] StoreError),
    #[error(transparent)]
    Quieting(#[from] QuietingError),
    #[error(transparent)]
    Policies(#[from] DirError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("connect to the API server (for a host without Kubernetes use --policy-dir)")]
    Kubernetes(#[from] Box<kube::Error>),
    #[error("set up the agent's process")]
    Process(#[from] io::Error),
}

/// Everything that several tasks share.
struct Parts {
    node: String,
    guard: Arc<Guard>,
    grants: Arc<Grants>,
    topology: Arc<Topology>,
    policies: Arc<PolicyStore>,
    containers: Arc<Containers>,
    reporter: Reporter,
    readiness: Arc<Readiness>,
    seen: watch::Sender<Seen>,
    published: watch::Sender<Option<Published>>,
    quiet: Quiet,
    coexistence: Coexistence,
}

pub async fn run(args: Box<AgentArgs>) -> Result<(), AgentError> {
    let AgentArgs {
        isolated_cpus,
        detector,
        state_dir,
        pin_dir,
        host_root,
        nri_socket,
        kubelet_dir,
        policy_dir,
        node_name,
        namespace,
        listen,
        panic_after,
    } = *args;
    // First: whoever stops an agent that is still starting means the same.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let _alone = Alone::wait(&state_dir, alone::PATIENCE).await?;
    let topology = Topology::read(Path::new("/sys"))?;
    topology.can_isolate(&isolated_cpus)?;
    let shim_on_node = shim_file::install(&state_dir)?;
    let guard = Arc::new(start_guard(&pin_dir, detector, &topology, &isolated_cpus)?);
    let grants = Arc::new(Grants::open(state_dir.join("ledger.json"), &isolated_cpus)?);
    let client = match policy_dir {
        None => Some(kube::Client::try_default().await.map_err(Box::new)?),
        Some(_) => None,
    };
    let (metrics, registry) = registered_metrics();
    let node = node_name.unwrap_or_else(hostname);
    let (reporter, reporting) = start_reporter(&node, client.clone(), Arc::clone(&metrics))?;
    let containers = Arc::<Containers>::default();
    let owners_of_cores = Owners {
        grants: Arc::clone(&grants),
        containers: Arc::clone(&containers),
        reporter: reporter.clone(),
    };
    let quiet = quieting::start(&host_root, &state_dir, &topology, &isolated_cpus, &owners_of_cores)?;
    tokio::spawn(quieting::follow(Arc::clone(&grants), quiet.clone()));
    let parts = Parts {
        node,
        guard,
        grants,
        quiet,
        topology: Arc::new(topology),
        policies: Arc::new(PolicyStore::open(policy_dir.is_none().then(|| state_dir.join("policies.json")))),
        containers,
        reporter,
        readiness: Arc::new(Readiness::of(&["kubelet", "nri", "policies"])),
        seen: watch::Sender::default(),
        published: watch::Sender::default(),
        coexistence: start_coexistence(&kubelet_dir),
    };
    let pages = Arc::new(Pages { registry, readiness: Arc::clone(&parts.readiness) });
    tokio::spawn(http::serve(http::listen(listen).await?, pages));
    tokio::spawn(reporting);
    let _panics = panic_after.map(|time| tokio::spawn(panic_in(time)));

    let (guard_failed, mut guard_failure) = mpsc::channel(1);
    start_records(&parts, Arc::clone(&metrics), guard_failed);
    start_nri(&parts, metrics, nri_socket, shim_on_node, &state_dir);
    let registered = start_kubelet(&parts, kubelet_dir);
    let mut released = match (client, policy_dir) {
        (Some(client), _) => {
            let file = state_dir.join("claim.json");
            let machine = Machine { client, namespace, node: parts.node.clone(), file };
            start_kubernetes(&parts, machine, isolated_cpus, registered)
        }
        (None, folder) => start_alone(&parts, folder, isolated_cpus)?,
    };
    let result = tokio::select! {
        Some(error) = guard_failure.recv() => Err(error.into()),
        ended = &mut released => Ok(ended.map_err(io::Error::from)??),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    if let Err(error) = parts.grants.flush().await {
        tracing::error!(step = 3, %error, "the next agent will not know the last containers");
    }
    result
}

fn registered_metrics() -> (Arc<Metrics>, Registry) {
    let (metrics, mut registry) = (Metrics::default(), Registry::default());
    metrics.register(&mut registry);
    (Arc::new(metrics), registry)
}

fn start_guard(
    pin_dir: &Path,
    allowed: Allowed,
    topology: &Topology,
    cores: &CpuSet,
) -> Result<Guard, AgentError> {
    let nohz_full = topology.nohz_full.as_ref();
    let detector = Detector::choose_of(allowed, &Kernel::probe()?, cores, nohz_full)?;
    let guard = Guard::start(pin_dir, detector, cores)?;
    tracing::info!(
        step = 7,
        adopted = guard.adopted,
        detector = detector.name(),
        provider = guard.provider.name(),
        system_call_without = ?guard.tax.map(|tax| tax.without),
        system_call_with = ?guard.tax.map(|tax| tax.with),
        "guard is attached"
    );
    Ok(guard)
}

fn start_reporter(
    node: &str,
    client: Option<kube::Client>,
    metrics: Arc<Metrics>,
) -> io::Result<(Reporter, impl Future<Output = Infallible> + Send + use<>)> {
    let symbolizer =
        Symbolizer::new(PathBuf::from("/proc"), Children::new(std::env::current_exe()?, DEADLINE));
    let config = Config::new(node.to_owned(), syscalls::name);
    let destination = client.map_or(Destination::LogOnly, Destination::Kubernetes);
    Ok(Reporter::new(config, destination, symbolizer, metrics, Box::new(io::stdout())))
}

fn start_records(parts: &Parts, metrics: Arc<Metrics>, failed: mpsc::Sender<GuardError>) {
    let visitors = Visitors {
        guard: Arc::clone(&parts.guard),
        grants: Arc::clone(&parts.grants),
        containers: Arc::clone(&parts.containers),
        reporter: parts.reporter.clone(),
    };
    let records = Records {
        guard: Arc::clone(&parts.guard),
        containers: Arc::clone(&parts.containers),
        reporter: parts.reporter.clone(),
        metrics,
        sightings: visitors.spawn(),
    };
    records.spawn_reader(failed);
    tokio::spawn(records.publish_counts());
}

fn start_nri(parts: &Parts, metrics: Arc<Metrics>, socket: PathBuf, shim_on_node: PathBuf, state_dir: &Path) {
    let cpus_files = parts.grants.read(|ledger| CpusFiles::open(state_dir, ledger.grants()));
    let gate = Gate {
        grants: Arc::clone(&parts.grants),
        topology: Arc::clone(&parts.topology),
        policies: Arc::clone(&parts.policies),
        guard: Arc::clone(&parts.guard),
        containers: Arc::clone(&parts.containers),
        reporter: parts.reporter.clone(),
        shim_on_node,
        cpus_files,
        quiet: parts.quiet.clone(),
        seen: parts.seen.clone(),
        peers: Arc::clone(&parts.coexistence.peers),
    };
    gate.remember_running();
    let (state, mut states) = watch::channel(session::State::default());
    tokio::spawn(session::run(socket, Timed { handler: gate, metrics }, state));
    let readiness = Arc::clone(&parts.readiness);
    tokio::spawn(async move {
        while states.changed().await.is_ok() {
            readiness.set(
                "nri",
                match &*states.borrow_and_update() {
                    session::State::Serving => Ok(()),
                    session::State::Away { why } => Err(why.clone()),
                },
            );
        }
    });
}

fn start_coexistence(kubelet_dir: &Path) -> Coexistence {
    let files = KubeletFiles::beside(kubelet_dir);
    let sooner = Arc::new(Notify::new());
    let (sender, view) = watch::channel(None);
    tokio::spawn(pod_resources::follow(files.pod_resources.clone(), Arc::clone(&sooner), sender));
    Coexistence { files, view, sooner, peers: Arc::default() }
}

fn start_kubelet(parts: &Parts, folder: PathBuf) -> watch::Receiver<bool> {
    let cores = Cores {
        grants: Arc::clone(&parts.grants),
        topology: Arc::clone(&parts.topology),
        published: parts.published.subscribe(),
    };
    let (registered, mut states) = watch::channel(false);
    tokio::spawn(kubelet::run(folder, cores, registered));
    let readiness = Arc::clone(&parts.readiness);
    let observed = states.clone();
    tokio::spawn(async move {
        while states.changed().await.is_ok() {
            let registered = *states.borrow_and_update();
            readiness.set(
                "kubelet",
                if registered { Ok(()) } else { Err("not registered with the kubelet".to_owned()) },
            );
        }
    });
    observed
}

/// Without a cluster: policies from a folder. The task returned never ends.
fn start_alone(
    parts: &Parts,
    folder: Option<PathBuf>,
    isolated: CpuSet,
) -> Result<JoinHandle<Result<(), GuardError>>, DirError> {
    if let Some(folder) = folder {
        dir::load(&folder, &parts.policies)?;
        tokio::spawn(dir::follow(folder, Arc::clone(&parts.policies), owners(parts)));
    }
    parts.readiness.set("policies", Ok(()));
    parts.published.send_replace(Some(isolated.into()));
    Ok(tokio::spawn(std::future::pending()))
}

/// What needs an API server: the policies, the machine's claim, and the node's own object. The task returned
/// ends when the node was released and is wanted again.
fn start_kubernetes(
    parts: &Parts,
    machine: Machine,
    isolated: CpuSet,
    registered: watch::Receiver<bool>,
) -> JoinHandle<Result<(), GuardError>> {
    let policies = Arc::clone(&parts.policies);
    tokio::spawn(policy_watch::follow(machine.client.clone(), policies, owners(parts)));
    // Decisions come from memory: an API server that is away makes no agent unready.
    parts.readiness.set("policies", Ok(()));
    let (stand_by, standing_by) = watch::channel("waiting for the machine's claim".to_owned());
    let object = NodeObject {
        client: machine.client.clone(),
        node: parts.node.clone(),
        grants: Arc::clone(&parts.grants),
        guard: Arc::clone(&parts.guard),
        seen: parts.seen.clone(),
        published: parts.published.clone(),
        quiet: parts.quiet.clone(),
        coexistence: parts.coexistence.clone(),
        registered,
        stand_by: standing_by,
    };
    let (published, seen) = (parts.published.clone(), parts.seen.clone());
    tokio::spawn(machine.keep(move |role| match role {
        // A node that was released publishes nothing, whoever else leaves the machine.
        Role::Publish if seen.borrow().released => {}
        Role::Publish => {
            published.send_replace(Some(isolated.clone().into()));
        }
        Role::StandBy { holder } => {
            stand_by.send_replace(format!("node {holder} publishes the cores of this machine"));
            published.send_replace(None);
        }
    }));
    tokio::spawn(object.keep())
}

fn owners(parts: &Parts) -> Arc<TellOwners> {
    Arc::new(TellOwners { containers: Arc::clone(&parts.containers), reporter: parts.reporter.clone() })
}

/// In a task of its own, where an unwound panic would be swallowed: the profile's `panic = "abort"` is what ends us.
async fn panic_in(time: Duration) {
    tokio::time::sleep(time).await;
    panic!("a panic that was asked for");
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
