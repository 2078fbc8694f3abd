//! Builds the steps in order and keeps them running. Stopping changes nothing on the node: whatever is armed
//! stays armed, under programs that are pinned, until the next agent adopts them.

use std::{io, path::Path, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use super::{
    containers::Containers,
    findings,
    http::{self, ListenError, Pages, Readiness},
    quieting::{self, Owners, QuietingError},
    shim_file::{self, ShimFileError},
    start,
};
use crate::{
    args::AgentArgs,
    coexist::alone::{self, Alone, AloneError},
    cores::{
        grants::Grants,
        machine::Machine,
        store::StoreError,
        topology::{Topology, TopologyError, live::Live},
    },
    guard::{detector::NotEdge, load::GuardError, support::SupportError},
    policy::{dir::DirError, store::PolicyStore},
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
    topology.can_isolate_what_is_online(&isolated_cpus)?;
    let shim_on_node = shim_file::install(&state_dir)?;
    let guard = Arc::new(start::guard(&pin_dir, detector, &topology, &isolated_cpus)?);
    let grants = Arc::new(Grants::open(state_dir.join("ledger.json"), &isolated_cpus)?);
    let client = match policy_dir {
        None => Some(kube::Client::try_default().await.map_err(Box::new)?),
        Some(_) => None,
    };
    let (metrics, registry) = start::registered_metrics();
    let node = node_name.unwrap_or_else(start::hostname);
    let (reporter, reporting) = start::reporter(&node, client.clone(), Arc::clone(&metrics))?;
    let containers = Arc::<Containers>::default();
    let (grants_, containers_) = (Arc::clone(&grants), Arc::clone(&containers));
    let owners_of_cores = Owners { grants: grants_, containers: containers_, reporter: reporter.clone() };
    let quiet = quieting::start(&host_root, &state_dir, &topology, &isolated_cpus, &owners_of_cores)?;
    let findings = findings::follow(&host_root, isolated_cpus.clone(), Arc::clone(&grants));
    let parts = start::Parts {
        node,
        guard,
        grants,
        quiet,
        topology: Live::new(topology),
        policies: Arc::new(PolicyStore::open(policy_dir.is_none().then(|| state_dir.join("policies.json")))),
        containers,
        reporter,
        readiness: Arc::new(Readiness::of(&["kubelet", "nri", "policies"])),
        seen: watch::Sender::default(),
        published: watch::Sender::default(),
        findings,
        missing: quieting::follow_boot_settings(state_dir.clone(), host_root),
        coexistence: start::coexistence(&kubelet_dir),
    };
    start::follow_cores(&parts, &isolated_cpus);
    let pages = Arc::new(Pages { registry, readiness: Arc::clone(&parts.readiness) });
    tokio::spawn(http::serve(http::listen(listen).await?, pages));
    tokio::spawn(reporting);
    let _panics = panic_after.map(|time| tokio::spawn(start::panic_in(time)));

    let (guard_failed, mut guard_failure) = mpsc::channel(1);
    start::records(&parts, Arc::clone(&metrics), guard_failed);
    start::nri(&parts, metrics, nri_socket, shim_on_node, &state_dir);
    let registered = start::kubelet(&parts, kubelet_dir);
    let mut released = match (client, policy_dir) {
        (Some(client), _) => {
            let file = state_dir.join("claim.json");
            let machine = Machine { client, namespace, node: parts.node.clone(), file };
            start::kubernetes(&parts, machine, isolated_cpus, registered)
        }
        (None, folder) => start::alone(&parts, folder, isolated_cpus)?,
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
