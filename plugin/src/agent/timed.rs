//! Step 4: how long the agent held the container runtime up, by request and outcome.

use std::{sync::Arc, time::Instant};

use quietcore_proto::nri::{Container, ContainerAdjustment, ContainerUpdate, LinuxResources, PodSandbox};

use super::gate::looks_strict;
use crate::{
    metrics::{Metrics, NriResult},
    nri::{
        handler::{Handler, Refusal},
        validate::Validated,
        version::Runtime,
    },
};

pub(super) struct Timed<H> {
    pub(super) handler: H,
    pub(super) metrics: Arc<Metrics>,
}

impl<H: Handler> Handler for Timed<H> {
    fn configured(&mut self, runtime: Runtime) {
        self.handler.configured(runtime);
    }

    fn synchronize(&mut self, pods: Vec<PodSandbox>, containers: Vec<Container>) {
        self.handler.synchronize(pods, containers);
    }

    fn create(
        &mut self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Option<ContainerAdjustment>, Refusal> {
        let start = Instant::now();
        let answer = self.handler.create(pod, container);
        let result = match &answer {
            Ok(None) => NriResult::Untouched,
            Ok(Some(_adjustment)) => NriResult::Strict,
            Err(_refusal) => NriResult::Refused,
        };
        self.metrics.nri_request("CreateContainer", result, start.elapsed());
        answer
    }

    fn create_abandoned(&mut self, container: Container) {
        self.handler.create_abandoned(container);
    }

    fn start(&mut self, pod: PodSandbox, container: Container) -> Result<(), Refusal> {
        let start = Instant::now();
        let strict = looks_strict(&container);
        let answer = self.handler.start(pod, container);
        let result = match (&answer, strict) {
            (Err(_refusal), _) => NriResult::Refused,
            (Ok(()), true) => NriResult::Strict,
            (Ok(()), false) => NriResult::Untouched,
        };
        self.metrics.nri_request("StartContainer", result, start.elapsed());
        answer
    }

    fn update(&mut self, container: Container, requested: LinuxResources) -> Option<ContainerUpdate> {
        let start = Instant::now();
        let answer = self.handler.update(container, requested);
        let result = if answer.is_some() { NriResult::Strict } else { NriResult::Untouched };
        self.metrics.nri_request("UpdateContainer", result, start.elapsed());
        answer
    }

    fn stop(&mut self, container: Container) {
        self.handler.stop(container);
    }

    fn remove(&mut self, container: Container) {
        self.handler.remove(container);
    }

    fn validated(&mut self, seen: Validated) {
        self.handler.validated(seen);
    }
}
