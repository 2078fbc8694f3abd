//! Step 3: what the kubelet says of devices and CPUs it gave away, by its PodResources API.
//!
//! For whoever reconciles the ledger and for `cores.from: Runtime`, never inside CreateContainer: a kubelet
//! that is slow would use up the runtime's patience. It knows pods by name only, and tells nothing of init
//! containers that are no sidecars (kubernetes pkg/kubelet/apis/podresources/server_v1.go).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use quietcore_proto::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, pod_resources_lister_client::PodResourcesListerClient,
};
use tokio::{
    net::UnixStream,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    device_plugin::RESOURCE,
    set::{CpuId, CpuSet},
};

pub const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two looks, whoever asks for them: the kubelet allows 100 a second for all its clients together.
const APART: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The kubelet's own clients use this limit (kubernetes pkg/kubelet/apis/podresources/client.go).
const MAX_MESSAGE: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PodResourcesError {
    #[error("connect to the kubelet's PodResources at {path}")]
    Connect { path: PathBuf, source: tonic::transport::Error },
    #[error("the kubelet is asked for PodResources too often; the next look comes by itself")]
    Busy,
    #[error("the kubelet does not answer {call} of PodResources: {why}")]
    Failed { call: &'static str, why: String },
}

/// What one container got from the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCores {
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// Ids of its quietcore.io/core devices.
    pub devices: Vec<String>,
    /// CPUs that the kubelet's static policy gave to it alone.
    pub exclusive: Option<CpuSet>,
    /// DRA drivers that it holds devices of.
    pub drivers: Vec<String>,
}

/// One look at the kubelet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Those with cores of ours, exclusive CPUs or claims; and, bare, the first container of each other pod.
    pub containers: Vec<PodCores>,
    /// CPUs that the static policy may give away; `None` under policy none.
    pub allocatable: Option<CpuSet>,
}

impl View {
    pub fn of(&self, namespace: &str, pod: &str, container: &str) -> Option<&PodCores> {
        let mut own = self.containers.iter().filter(|known| known.namespace == namespace && known.pod == pod);
        own.find(|known| known.container == container)
    }

    /// Our devices, and whose they are.
    fn held(&self) -> Vec<String> {
        let holders = self.containers.iter().filter(|known| !known.devices.is_empty());
        let held = holders.map(|known| {
            format!("{}/{}/{} {}", known.namespace, known.pod, known.container, known.devices.join(","))
        });
        held.collect()
    }

    pub fn knows_pod(&self, namespace: &str, pod: &str) -> bool {
        self.containers.iter().any(|known| known.namespace == namespace && known.pod == pod)
    }
}

/// Runs for the life of the agent. Whoever needs a look sooner than the next one notifies `sooner`; the view
/// stays as it was while the kubelet is away.
pub async fn follow(socket: PathBuf, sooner: Arc<Notify>, view: watch::Sender<Option<View>>) {
    let mut lister: Option<Lister> = None;
    loop {
        match look(&socket, &mut lister).await {
            Ok(seen) => {
                let held = seen.held();
                let before = view.send_replace(Some(seen)).map(|before| before.held()).unwrap_or_default();
                if held != before {
                    tracing::info!(step = 3, ?held, "the kubelet lists other cores as given away");
                }
            }
            Err(PodResourcesError::Busy) => tracing::debug!(step = 3, "PodResources: the kubelet is busy"),
            Err(error) => {
                tracing::debug!(step = 3, error = &error as &dyn std::error::Error, "PodResources");
                lister = None;
            }
        }
        sleep(APART).await;
        let _ = timeout(LOOK_EVERY.saturating_sub(APART), sooner.notified()).await;
    }
}

async fn look(socket: &Path, lister: &mut Option<Lister>) -> Result<View, PodResourcesError> {
    let connected = match lister.take() {
        Some(connected) => connected,
        None => Lister::connect(socket).await?,
    };
    lister.insert(connected).view().await
}

/// A connection to one kubelet.
#[derive(Debug)]
pub struct Lister(PodResourcesListerClient<Channel>);

impl Lister {
    pub async fn connect(socket: &Path) -> Result<Lister, PodResourcesError> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is never resolved: the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://kubelet").timeout(ANSWER_WITHIN);
        let channel = endpoint.connect_with_connector(connector).await;
        let channel =
            channel.map_err(|source| PodResourcesError::Connect { path: socket.to_owned(), source })?;
        Ok(Lister(PodResourcesListerClient::new(channel).max_decoding_message_size(MAX_MESSAGE)))
    }

    pub async fn view(&mut self) -> Result<View, PodResourcesError> {
        let listed = self.0.list(ListPodResourcesRequest {}).await;
        let listed = listed.map_err(|status| failed("List", &status))?.into_inner();
        let allocatable = self.0.get_allocatable_resources(AllocatableResourcesRequest {}).await;
        let allocatable = allocatable.map_err(|status| failed("GetAllocatableResources", &status))?;
        Ok(view(listed, &allocatable.into_inner()))
    }
}

fn failed(call: &'static str, status: &Status) -> PodResourcesError {
    match status.code() {
        Code::ResourceExhausted => PodResourcesError::Busy,
        _ => PodResourcesError::Failed { call, why: status.message().to_owned() },
    }
}

fn view(listed: ListPodResourcesResponse, allocatable: &AllocatableResourcesResponse) -> View {
    let mut containers = Vec::new();
    for pod in listed.pod_resources {
        let n_before = containers.len();
        let mut bare = None;
        for container in pod.containers {
            let devices = container.devices.into_iter().filter(|device| device.resource_name == RESOURCE);
            let claims = container.dynamic_resources.into_iter().flat_map(|claim| claim.claim_resources);
            let cores = PodCores {
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
                container: container.name,
                devices: devices.flat_map(|device| device.device_ids).collect(),
                exclusive: cpus(&container.cpu_ids),
                drivers: claims.map(|claim| claim.driver_name).collect(),
            };
            match cores {
                PodCores { ref devices, exclusive: None, ref drivers, .. }
                    if devices.is_empty() && drivers.is_empty() =>
                {
                    bare = bare.or(Some(cores));
                }
                _ => containers.push(cores),
            }
        }
        if n_before == containers.len() {
            containers.extend(bare);
        }
    }
    View { containers, allocatable: cpus(&allocatable.cpu_ids) }
}

/// Numbers beyond what quietcore handles are nobody's that we could be in the way of.
fn cpus(ids: &[i64]) -> Option<CpuSet> {
    CpuSet::new(ids.iter().filter_map(|id| CpuId::new(u32::try_from(*id).ok()?)).collect())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use quietcore_proto::podresources::{
        ClaimResource, ContainerDevices, ContainerResources, DynamicResource, PodResources,
    };

    use super::*;

    fn container(name: &str) -> ContainerResources {
        ContainerResources { name: name.to_owned(), ..ContainerResources::default() }
    }

    fn devices(resource: &str, ids: &[&str]) -> ContainerDevices {
        let device_ids = ids.iter().map(|&id| id.to_owned()).collect();
        ContainerDevices { resource_name: resource.to_owned(), device_ids, topology: None }
    }

    #[track_caller]
    fn check(containers: Vec<ContainerResources>, expect: Expect) {
        let pod = PodResources { name: "p".into(), namespace: "n".into(), containers };
        let view = view(ListPodResourcesResponse { pod_resources: vec![pod] }, &Default::default());
        let lines = view.containers.iter().map(|known| {
            let PodCores { namespace, pod, container, devices, exclusive, drivers } = known;
            let exclusive = exclusive.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{namespace}/{pod}/{container} {devices:?} [{exclusive}] {drivers:?}\n")
        });
        expect.assert_eq(&lines.collect::<String>());
    }

    #[test]
    fn only_our_devices_count_and_numa_nodes_do_not_hide_any() {
        let app = ContainerResources {
            devices: vec![
                devices(RESOURCE, &["core-1"]),
                devices("vendor.com/nic", &["core-9"]),
                devices(RESOURCE, &["core-3"]),
            ],
            ..container("app")
        };
        check(
            vec![container("side"), app],
            expect![[r#"
            n/p/app ["core-1", "core-3"] [] []
        "#]],
        );
    }

    #[test]
    fn exclusive_cpus_and_claims_are_told() {
        let claim_resources =
            vec![ClaimResource { driver_name: "dra.cpu".into(), ..ClaimResource::default() }];
        let claimed = DynamicResource { claim_resources, ..DynamicResource::default() };
        let app = ContainerResources { cpu_ids: vec![3, 2, -1, 70_000_000_000], ..container("app") };
        let other = ContainerResources { dynamic_resources: vec![claimed], ..container("dra") };
        check(
            vec![app, other],
            expect![[r#"
            n/p/app [] [2-3] []
            n/p/dra [] [] ["dra.cpu"]
        "#]],
        );
    }

    #[test]
    fn a_pod_without_anything_is_known_all_the_same() {
        check(
            vec![container("a"), container("b")],
            expect![[r#"
            n/p/a [] [] []
        "#]],
        );
    }

    #[test]
    fn a_kubelet_that_limits_us_is_no_failure() {
        let limited = Status::resource_exhausted("podresources: rejected by rate limit");
        assert!(matches!(failed("List", &limited), PodResourcesError::Busy));
    }
}
