//! Step 3: the kubelet's device plugin API (v1beta1): which cores this node has, and what an allocation is.
//!
//! It knows no pods and refuses none: an error from Allocate fails the pod for good, while CreateContainer can
//! say no and be asked again.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt as _, stream::BoxStream};
use quietcore_proto::deviceplugin::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DevicePluginOptions, Empty,
    ListAndWatchResponse, Mount, NumaNode, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse, TopologyInfo,
    device_plugin_server::DevicePlugin,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{
    grants::Grants,
    set::{CpuId, CpuSet},
    token::{self, Token},
    topology::Topology,
};
use crate::nri::adjust::TRIPWIRE;

pub const RESOURCE: &str = "quietcore.io/core";

/// `None`: this node publishes no cores, because another node of the same machine does, or it was released.
pub type Published = Option<CpuSet>;

#[derive(Debug, Clone)]
pub struct Cores {
    pub grants: Arc<Grants>,
    pub topology: Arc<Topology>,
    pub published: watch::Receiver<Published>,
}

/// `cpu-5`
fn device_id(cpu: CpuId) -> String {
    format!("cpu-{}", cpu.number())
}

fn cpus_of(ids: &[String]) -> Result<CpuSet, Status> {
    let unknown = |id: &String| Status::invalid_argument(format!("{id:?} is no device of {RESOURCE}"));
    let cpu = |id: &String| {
        let number = id.strip_prefix("cpu-").and_then(|number| number.parse().ok());
        number.and_then(CpuId::new).ok_or_else(|| unknown(id))
    };
    let cpus = ids.iter().map(cpu).collect::<Result<_, Status>>()?;
    CpuSet::new(cpus).ok_or_else(|| Status::invalid_argument("an allocation without devices"))
}

impl Cores {
    fn devices(&self, published: &Published) -> ListAndWatchResponse {
        let device = |cpu: CpuId| Device {
            id: device_id(cpu),
            health: "Healthy".to_owned(),
            topology: self
                .topology
                .node_of(cpu)
                .map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] }),
        };
        ListAndWatchResponse { devices: published.iter().flat_map(CpuSet::iter).map(device).collect() }
    }

    /// Waits for the disk: the kubelet keeps the answer in its own checkpoint and replays it after any crash.
    fn allocate_one(&self, ids: &[String]) -> Result<ContainerAllocateResponse, Status> {
        let cpus = cpus_of(ids)?;
        let token =
            Token::random().map_err(|error| Status::internal(format!("make a grant token: {error}")))?;
        if !self.grants.change_durably(|ledger| ledger.allocate(token.clone(), cpus.clone())) {
            return Err(Status::unavailable(
                "the node's ledger of cores cannot be written: see the agent's log",
            ));
        }
        tracing::info!(step = 3, %cpus, ?token, "allocated");
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
        Ok(Response::new(DevicePluginOptions::default()))
    }

    type ListAndWatchStream = BoxStream<'static, Result<ListAndWatchResponse, Status>>;

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let cores = self.clone();
        let mut published = self.published.clone();
        published.mark_changed();
        let devices = futures::stream::unfold((cores, published), |(cores, mut published)| async move {
            published.changed().await.ok()?;
            let devices = cores.devices(&published.borrow_and_update());
            Some((Ok(devices), (cores, published)))
        });
        Ok(Response::new(devices.boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Err(Status::unimplemented("no preference: one device is as good as another"))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let requests = request.into_inner().container_requests;
        let answers = requests.iter().map(|request| self.allocate_one(&request.devices_ids));
        let container_responses = answers.collect::<Result<_, Status>>()?;
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_name_cpus_and_nothing_else() {
        let ids = |ids: &[&str]| cpus_of(&ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>());
        assert_eq!(ids(&["cpu-3", "cpu-1"]).unwrap().to_string(), "1,3");
        for bad in [&["cpu-"][..], &["cpu-4096"], &["1"], &[]] {
            assert!(ids(bad).is_err(), "{bad:?}");
        }
    }
}
