//! Step 3: the kubelet's device plugin API (v1beta1): which cores this node has, and what an allocation is.
//!
//! It knows no pods and refuses none: an error from Allocate fails the pod for good, while CreateContainer can
//! say no and be asked again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use quietcore_proto::deviceplugin::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, ContainerPreferredAllocationRequest,
    ContainerPreferredAllocationResponse, Device, DevicePluginOptions, Empty, ListAndWatchResponse, Mount,
    NumaNode, PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse, TopologyInfo, device_plugin_server::DevicePlugin,
};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status};

use super::{
    allocator::{Free, members},
    device::{self, DeviceError},
    grants::Grants,
    set::{CpuId, CpuSet},
    token::{self, Token},
    topology::{Core, live::Live},
};
use crate::nri::adjust::TRIPWIRE;

pub const RESOURCE: &str = "quietcore.io/core";

/// The kubelet admits no other pod while it waits for Allocate, and sets itself no limit.
const SAVED_WITHIN: Duration = Duration::from_secs(5);

/// What this node offers. Nothing at all (`None` in the channel), where another node of the same machine does, or
/// where it was released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Those of whole cores are offered.
    pub cpus: CpuSet,
    /// CPUs whose cores nobody should get now, and why: the kubelet gives no new pod such a core, and leaves
    /// those alone that have one.
    pub unhealthy: BTreeMap<CpuId, String>,
}

impl From<CpuSet> for Published {
    fn from(cpus: CpuSet) -> Published {
        Published { cpus, unhealthy: BTreeMap::new() }
    }
}

impl Published {
    fn health(&self, core: &Core) -> &'static str {
        let is_healthy = core.cpus.iter().all(|cpu| !self.unhealthy.contains_key(&cpu));
        if is_healthy { "Healthy" } else { "Unhealthy" }
    }
}

/// Told at the registration and when the kubelet asks. No PreStartContainer: it gets device ids alone, and a
/// kubelet that just restarted leaves it out.
pub const OPTIONS: DevicePluginOptions =
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true };

#[derive(Debug, Clone)]
pub struct Cores {
    pub grants: Arc<Grants>,
    pub topology: Live,
    pub published: watch::Receiver<Option<Published>>,
}

impl From<DeviceError> for Status {
    fn from(error: DeviceError) -> Status {
        Status::invalid_argument(error.to_string())
    }
}

impl Cores {
    fn devices(&self, published: Option<&Published>) -> ListAndWatchResponse {
        let Some(published) = published else { return ListAndWatchResponse::default() };
        let device = |core: &Core| Device {
            id: device::id(core),
            health: published.health(core).to_owned(),
            topology: core.node.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] }),
        };
        let topology = self.topology.known();
        ListAndWatchResponse { devices: topology.cores_in(&published.cpus).map(device).collect() }
    }

    fn prefer(
        &self,
        request: &ContainerPreferredAllocationRequest,
    ) -> Result<ContainerPreferredAllocationResponse, Status> {
        let topology = self.topology.known();
        let ids = |names: &[String]| {
            names
                .iter()
                .map(|name| Ok(device::core(name, &topology)?.id()))
                .collect::<Result<_, DeviceError>>()
        };
        let free = Free {
            cores: ids(&request.available_device_i_ds)?,
            held: self.grants.read(|ledger| members(ledger.held())),
            topology: &topology,
        };
        let n_cores = usize::try_from(request.allocation_size)
            .map_err(|_| Status::invalid_argument("an allocation of less than nothing"))?;
        let chosen: BTreeSet<CpuId> = free.choose(&ids(&request.must_include_device_i_ds)?, n_cores);
        let names = chosen.into_iter().filter_map(|id| topology.core(id)).map(device::id);
        Ok(ContainerPreferredAllocationResponse { device_i_ds: names.collect() })
    }

    /// Waits for the disk: the kubelet keeps the answer in its own checkpoint and replays it after any crash.
    /// A disk that does not take it fails no pod: the token serves while this agent lives, and the next one
    /// refuses what it cannot know.
    async fn allocate_one(&self, names: &[String]) -> Result<ContainerAllocateResponse, Status> {
        let cpus = device::cpus(names, &self.topology.known())?;
        let token =
            Token::random().map_err(|error| Status::internal(format!("make a grant token: {error}")))?;
        let saved = self.grants.allocate(token.clone(), cpus.clone());
        let saved = matches!(timeout(SAVED_WITHIN, saved).await, Ok(Ok(())));
        tracing::info!(step = 3, %cpus, ?token, saved, "allocated");
        Ok(ContainerAllocateResponse {
            annotations: HashMap::from([(token::ANNOTATION.to_owned(), token.as_str().to_owned())]),
            mounts: vec![Mount {
                container_path: TRIPWIRE.to_owned(),
                host_path: "/dev/null".to_owned(),
                read_only: true,
            }],
            ..ContainerAllocateResponse::default()
        })
    }
}

#[tonic::async_trait]
impl DevicePlugin for Cores {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(OPTIONS))
    }

    type ListAndWatchStream = BoxStream<'static, Result<ListAndWatchResponse, Status>>;

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let cores = self.clone();
        let mut published = self.published.clone();
        published.mark_changed();
        let devices = futures::stream::unfold((cores, published), |(cores, mut published)| async move {
            published.changed().await.ok()?;
            let devices = cores.devices(published.borrow_and_update().as_ref());
            Some((Ok(devices), (cores, published)))
        });
        Ok(Response::new(devices.boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let requests = request.into_inner().container_requests;
        let container_responses =
            requests.iter().map(|request| self.prefer(request)).collect::<Result<_, _>>()?;
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let mut container_responses = Vec::new();
        for request in request.into_inner().container_requests {
            container_responses.push(self.allocate_one(&request.devices_ids).await?);
        }
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
