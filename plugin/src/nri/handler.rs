//! Step 4: who decides what the runtime asks. The agent's gate implements it; tests have one of their own.
//!
//! Calls come one at a time, in order, on one thread. An answer that comes after the session's deadline is
//! dropped, because the runtime was told no. What a late yes bound is let go at once by `create_abandoned`:
//! containerd sends StopContainer and RemoveContainer for a creation that it undoes, but NRI does not ask for
//! that. A start that was refused too late needs nothing: containerd stops the container and says so, and
//! CRI-O, which only logs the refusal, runs it, watched. An event that waited behind a slow one until its own
//! deadline was over is not told at all, unless it is the end of a container.

use quietcore_proto::nri::{Container, ContainerAdjustment, ContainerUpdate, LinuxResources, PodSandbox};

use super::{validate::Validated, version::Runtime};

/// A "no" to a pod: one line that says what to change. It becomes the container's waiting message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    pub fn of(refusal: &dyn std::error::Error) -> Refusal {
        Refusal(format!("quietcore: {refusal}"))
    }
}

pub trait Handler: Send {
    fn configured(&mut self, runtime: Runtime);
    fn synchronize(&mut self, pods: Vec<PodSandbox>, containers: Vec<Container>);
    /// `None`: not ours, the container stays as it is.
    fn create(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Option<ContainerAdjustment>, Refusal>;
    /// `create` said yes when the runtime had been told no: this container will not be.
    fn create_abandoned(&mut self, container: Container);
    fn start(&mut self, pod: PodSandbox, container: Container) -> Result<(), Refusal>;
    fn update(&mut self, container: Container, requested: LinuxResources) -> Option<ContainerUpdate>;
    fn stop(&mut self, container: Container);
    fn remove(&mut self, container: Container);
    /// Only to look: the runtime was told yes already.
    fn validated(&mut self, seen: Validated);
}
