//! The agent's parts, and the tasks that each step runs in. `run` calls them in order.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus_client::registry::Registry;
use quietcore_crd::node::Finding;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use super::{
    changes::TellOwners,
    containers::Containers,
    cpus_file::CpusFiles,
    ends::Ends,
    gate::{Gate, Seen},
    health::Health,
    http::Readiness,
    node_object::NodeObject,
    quieting::{self, BootSettings},
    records::Records,
    run::AgentError,
    timed::Timed,
    visitors::Visitors,
};
use crate::{
    coexist::watch::{Coexistence, KubeletFiles},
    cores::{
        device_plugin::{Cores, Published},
        grants::Grants,
        kubelet,
        machine::{Machine, Role},
        pod_resources,
        set::CpuSet,
        topology::{Topology, live::Live},
    },
    guard::{
        detector::{Allowed, Detector},
        load::{Guard, GuardError},
        support::Kernel,
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

/// Everything that several tasks share.
pub(super) struct Parts {
    pub(super) node: String,
    pub(super) guard: Arc<Guard>,
    pub(super) grants: Arc<Grants>,
    pub(super) topology: Live,
    pub(super) policies: Arc<PolicyStore>,
    pub(super) containers: Arc<Containers>,
    pub(super) reporter: Reporter,
    pub(super) readiness: Arc<Readiness>,
    pub(super) seen: watch::Sender<Seen>,
    pub(super) published: watch::Sender<Option<Published>>,
    pub(super) quiet: Quiet,
    /// What `quietcore check` finds wanting.
    pub(super) findings: watch::Receiver<Vec<Finding>>,
    /// Boot settings that were written and are not in force.
    pub(super) missing: watch::Receiver<BootSettings>,
    pub(super) coexistence: Coexistence,
}

pub(super) fn registered_metrics() -> (Arc<Metrics>, Registry) {
    let (metrics, mut registry) = (Metrics::default(), Registry::default());
    metrics.register(&mut registry);
    (Arc::new(metrics), registry)
}

pub(super) fn guard(
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

pub(super) fn reporter(
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

pub(super) fn records(parts: &Parts, metrics: Arc<Metrics>, failed: mpsc::Sender<GuardError>) {
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

pub(super) fn nri(
    parts: &Parts,
    metrics: Arc<Metrics>,
    socket: PathBuf,
    shim_on_node: PathBuf,
    state_dir: &Path,
) {
    let cpus_files = parts.grants.read(|ledger| CpusFiles::open(state_dir, ledger.grants()));
    let gate = Gate {
        grants: Arc::clone(&parts.grants),
        topology: parts.topology.clone(),
        policies: Arc::clone(&parts.policies),
        guard: Arc::clone(&parts.guard),
        containers: Arc::clone(&parts.containers),
        reporter: parts.reporter.clone(),
        shim_on_node,
        cpus_files,
        quiet: parts.quiet.clone(),
        seen: parts.seen.clone(),
        coexistence: parts.coexistence.clone(),
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

pub(super) fn coexistence(kubelet_dir: &Path) -> Coexistence {
    let files = KubeletFiles::beside(kubelet_dir);
    let sooner = Arc::new(Notify::new());
    let (sender, view) = watch::channel(None);
    tokio::spawn(pod_resources::follow(files.pod_resources.clone(), Arc::clone(&sooner), sender));
    Coexistence { files, view, sooner, peers: Arc::default() }
}

pub(super) fn kubelet(parts: &Parts, folder: PathBuf) -> watch::Receiver<bool> {
    let cores = Cores {
        grants: Arc::clone(&parts.grants),
        topology: parts.topology.clone(),
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
pub(super) fn alone(
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
pub(super) fn kubernetes(
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
    let (offer, offered) = watch::channel(None);
    let object = NodeObject {
        client: machine.client.clone(),
        node: parts.node.clone(),
        grants: Arc::clone(&parts.grants),
        guard: Arc::clone(&parts.guard),
        seen: parts.seen.clone(),
        published: parts.published.clone(),
        offer: offered,
        quiet: parts.quiet.clone(),
        topology: parts.topology.clone(),
        findings: parts.findings.clone(),
        missing: parts.missing.clone(),
        coexistence: parts.coexistence.clone(),
        registered,
        stand_by: standing_by,
    };
    let (published, seen) = (parts.published.clone(), parts.seen.clone());
    tokio::spawn(machine.keep(move |role| match role {
        Role::Publish => {
            offer.send_replace(Some(isolated.clone()));
            // A node that lets go publishes nothing, whoever else leaves the machine.
            if seen.borrow().serves() {
                published.send_replace(Some(isolated.clone().into()));
            }
        }
        Role::StandBy { holder } => {
            offer.send_replace(None);
            stand_by.send_replace(format!("node {holder} publishes the cores of this machine"));
            published.send_replace(None);
        }
    }));
    tokio::spawn(object.keep())
}

pub(super) fn owners(parts: &Parts) -> Arc<TellOwners> {
    Arc::new(TellOwners { containers: Arc::clone(&parts.containers), reporter: parts.reporter.clone() })
}

/// In a task of its own, where an unwound panic would be swallowed: the profile's `panic = "abort"` is what ends us.
pub(super) async fn panic_in(time: Duration) {
    tokio::time::sleep(time).await;
    panic!("a panic that was asked for");
}

pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn health(parts: &Parts, isolated: CpuSet) {
    let health = Health {
        sys: PathBuf::from("/sys"),
        proc: PathBuf::from("/proc"),
        isolated,
        topology: parts.topology.clone(),
        grants: Arc::clone(&parts.grants),
        containers: Arc::clone(&parts.containers),
        reporter: parts.reporter.clone(),
        published: parts.published.clone(),
        standing: parts.quiet.standing.clone(),
    };
    tokio::spawn(health.keep());
}

/// What changes with the ledger, and what changes it beside the containers.
pub(super) fn follow_cores(parts: &Parts, isolated: &CpuSet) {
    health(parts, isolated.clone());
    let ends = Ends {
        grants: Arc::clone(&parts.grants),
        containers: Arc::clone(&parts.containers),
        guard: Arc::clone(&parts.guard),
        coexistence: parts.coexistence.clone(),
    };
    tokio::spawn(ends.follow());
    tokio::spawn(quieting::follow(Arc::clone(&parts.grants), parts.quiet.clone()));
    tokio::spawn(quieting::forget_stale(
        Arc::clone(&parts.grants),
        parts.coexistence.clone(),
        parts.topology.clone(),
    ));
}
