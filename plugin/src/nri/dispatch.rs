//! Step 4: from an RPC's name and bytes to a call of the handler, and back. No IO.
//!
//! Both shapes of the protocol are served: up to NRI 0.11 most events come through StateChange, from 0.12 on
//! each has an RPC of its own. What is not served is UNIMPLEMENTED, which 0.12 understands.

use prost::Message;
use quietcore_proto::{
    nri::{
        ConfigureRequest, ConfigureResponse, Container, CreateContainerRequest, CreateContainerResponse,
        Empty, Event, PodSandbox, RemoveContainerRequest, RemoveContainerResponse, StartContainerRequest,
        StartContainerResponse, StateChangeEvent, StopContainerRequest, StopContainerResponse,
        SynchronizeRequest, SynchronizeResponse, UpdateContainerRequest, UpdateContainerResponse,
    },
    ttrpc::{Request, Status},
};

use super::{
    handler::{Handler, Refusal},
    ttrpc::{FAILED_PRECONDITION, INVALID_ARGUMENT, UNIMPLEMENTED},
    version::Runtime,
};

const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// An unknown bit fails the registration ("invalid plugin events"); these are known to every NRI since 0.2.
const EVENTS: [Event; 5] = [
    Event::CreateContainer,
    Event::StartContainer,
    Event::UpdateContainer,
    Event::StopContainer,
    Event::RemoveContainer,
];

fn event_mask() -> i32 {
    EVENTS.into_iter().fold(0, |mask, event| mask | 1 << (event as i32 - 1))
}

#[derive(Debug)]
pub struct Dispatcher<H> {
    handler: H,
    /// Chunks of a Synchronize that is split because it is longer than one message (NRI 0.7 and newer).
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
}

impl<H: Handler> Dispatcher<H> {
    pub fn new(handler: H) -> Dispatcher<H> {
        Dispatcher { handler, pods: Vec::new(), containers: Vec::new() }
    }

    /// A new connection begins from nothing, also when the last one ended amid a Synchronize.
    pub fn connected(&mut self) {
        self.pods.clear();
        self.containers.clear();
    }

    pub fn call(&mut self, request: &Request) -> Result<Vec<u8>, Status> {
        if request.service != SERVICE {
            return Err(unimplemented(request));
        }
        let bytes = request.payload.as_slice();
        match request.method.as_str() {
            "Configure" => self.configure(&decode(bytes)?),
            "Synchronize" => Ok(self.synchronize(decode(bytes)?)),
            "CreateContainer" => self.create(decode(bytes)?),
            "StartContainer" => {
                let StartContainerRequest { pod, container } = decode(bytes)?;
                self.start(pod, container)?;
                Ok(StartContainerResponse {}.encode_to_vec())
            }
            "UpdateContainer" => self.update(decode(bytes)?),
            "StopContainer" => {
                let StopContainerRequest { container, .. } = decode(bytes)?;
                self.handler.stop(container.unwrap_or_default());
                Ok(StopContainerResponse::default().encode_to_vec())
            }
            "RemoveContainer" => {
                let RemoveContainerRequest { container, .. } = decode(bytes)?;
                self.handler.remove(container.unwrap_or_default());
                Ok(RemoveContainerResponse {}.encode_to_vec())
            }
            "StateChange" => self.state_change(decode(bytes)?),
            "Shutdown" => Ok(Empty {}.encode_to_vec()),
            _ => Err(unimplemented(request)),
        }
    }

    fn configure(&mut self, request: &ConfigureRequest) -> Result<Vec<u8>, Status> {
        let ConfigureRequest { runtime_name, runtime_version, nri_version, .. } = request;
        self.handler.configured(Runtime::new(runtime_name, runtime_version, nri_version));
        Ok(ConfigureResponse { events: event_mask() }.encode_to_vec())
    }

    /// Every chunk but the last is answered by an echo of `more` and nothing else.
    fn synchronize(&mut self, request: SynchronizeRequest) -> Vec<u8> {
        self.pods.extend(request.pods);
        self.containers.extend(request.containers);
        if !request.more {
            let containers = std::mem::take(&mut self.containers);
            self.handler.synchronize(std::mem::take(&mut self.pods), containers);
        }
        SynchronizeResponse { update: Vec::new(), more: request.more }.encode_to_vec()
    }

    fn create(&mut self, request: CreateContainerRequest) -> Result<Vec<u8>, Status> {
        let CreateContainerRequest { pod, container } = request;
        let adjust =
            self.handler.create(pod.unwrap_or_default(), container.unwrap_or_default()).map_err(refused)?;
        Ok(CreateContainerResponse { adjust, ..CreateContainerResponse::default() }.encode_to_vec())
    }

    fn start(&mut self, pod: Option<PodSandbox>, container: Option<Container>) -> Result<(), Status> {
        self.handler.start(pod.unwrap_or_default(), container.unwrap_or_default()).map_err(refused)
    }

    fn update(&mut self, request: UpdateContainerRequest) -> Result<Vec<u8>, Status> {
        let UpdateContainerRequest { container, linux_resources, .. } = request;
        let update = self.handler.update(container.unwrap_or_default(), linux_resources.unwrap_or_default());
        let update = update.into_iter().collect();
        Ok(UpdateContainerResponse { update, ..UpdateContainerResponse::default() }.encode_to_vec())
    }

    fn state_change(&mut self, event: StateChangeEvent) -> Result<Vec<u8>, Status> {
        match event.event() {
            Event::StartContainer => self.start(event.pod, event.container)?,
            Event::StopContainer => self.handler.stop(event.container.unwrap_or_default()),
            Event::RemoveContainer => self.handler.remove(event.container.unwrap_or_default()),
            _ => {}
        }
        Ok(Empty {}.encode_to_vec())
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| Status {
        code: INVALID_ARGUMENT,
        message: format!("quietcore: the runtime's message does not decode: {error}"),
    })
}

fn refused(refusal: Refusal) -> Status {
    Status { code: FAILED_PRECONDITION, message: refusal.0 }
}

fn unimplemented(request: &Request) -> Status {
    Status { code: UNIMPLEMENTED, message: format!("{}/{} is not served", request.service, request.method) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_mask_has_only_bits_that_the_oldest_runtime_knows() {
        assert_eq!(event_mask(), 0x6a8);
        assert_eq!(event_mask() & !0x7ff, 0);
    }
}
