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
        ValidateContainerAdjustmentRequest,
    },
    ttrpc::{Request, Status},
};

use super::{
    handler::{Handler, Refusal},
    ttrpc::{FAILED_PRECONDITION, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED},
    validate,
    version::Runtime,
};

/// The payload of a response, or the status that fails the operation in the runtime and leaves the connection
/// up. Never a code that stands for a broken plugin: of those the runtime takes no answer for a yes
/// (containerd/nri pkg/adaptation/plugin.go, `isFatalError`).
pub type Answer = Result<Vec<u8>, Status>;

const SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// A container takes a few kilobytes and a node has some hundred of them.
const MAX_SYNCHRONIZE: usize = 64 << 20;

/// An unknown bit fails the registration ("invalid plugin events"); these are known to every NRI since 0.2.
/// ValidateContainerAdjustment is added for runtimes that have it.
const EVENTS: [Event; 5] = [
    Event::CreateContainer,
    Event::StartContainer,
    Event::UpdateContainer,
    Event::StopContainer,
    Event::RemoveContainer,
];

fn event_mask(runtime: &Runtime) -> i32 {
    let validate = runtime.supports_validation().then_some(Event::ValidateContainerAdjustment);
    EVENTS.into_iter().chain(validate).fold(0, |mask, event| mask | 1 << (event as i32 - 1))
}

#[derive(Debug)]
pub struct Dispatcher<H> {
    handler: H,
    /// Chunks of a Synchronize that is split because it is longer than one message (NRI 0.7 and newer).
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
    n_bytes: usize,
}

impl<H: Handler> Dispatcher<H> {
    pub fn new(handler: H) -> Dispatcher<H> {
        Dispatcher { handler, pods: Vec::new(), containers: Vec::new(), n_bytes: 0 }
    }

    /// A new connection begins from nothing, also when the last one ended amid a Synchronize.
    pub fn disconnected(&mut self) {
        self.pods.clear();
        self.containers.clear();
        self.n_bytes = 0;
    }

    /// The handler said yes to `request`, and the runtime had been told no by then.
    pub fn abandoned(&mut self, request: &Request) {
        if request.method == "CreateContainer"
            && let Ok(CreateContainerRequest { container: Some(container), .. }) =
                CreateContainerRequest::decode(request.payload.as_slice())
        {
            self.handler.create_abandoned(container);
        }
    }

    /// What the session has answered already.
    pub fn told(&mut self, request: &Request) {
        match ValidateContainerAdjustmentRequest::decode(request.payload.as_slice()) {
            Ok(validate) if request.method == validate::METHOD => self.handler.validated(validate.into()),
            Ok(_) => {}
            Err(error) => tracing::debug!(method = request.method, %error, "does not decode"),
        }
    }

    pub fn call(&mut self, request: &Request) -> Answer {
        if request.service != SERVICE {
            return Err(unimplemented(request));
        }
        let bytes = request.payload.as_slice();
        match request.method.as_str() {
            "Configure" => self.configure(&decode(bytes)?),
            "Synchronize" => self.synchronize(decode(bytes)?, bytes.len()),
            "CreateContainer" => self.create(decode(bytes)?),
            "StartContainer" => {
                let StartContainerRequest { pod, container } = decode(bytes)?;
                self.start(pod, container)?;
                Ok(StartContainerResponse {}.encode_to_vec())
            }
            "UpdateContainer" => self.update(decode(bytes)?),
            "StopContainer" => {
                let StopContainerRequest { container, .. } = decode(bytes)?;
                self.handler.stop(given(container)?);
                Ok(StopContainerResponse::default().encode_to_vec())
            }
            "RemoveContainer" => {
                let RemoveContainerRequest { container, .. } = decode(bytes)?;
                self.handler.remove(given(container)?);
                Ok(RemoveContainerResponse {}.encode_to_vec())
            }
            "StateChange" => self.state_change(decode(bytes)?),
            "Shutdown" => Ok(Empty {}.encode_to_vec()),
            _ => Err(unimplemented(request)),
        }
    }

    fn configure(&mut self, request: &ConfigureRequest) -> Answer {
        let ConfigureRequest { runtime_name, runtime_version, nri_version, request_timeout, .. } = request;
        let runtime = Runtime::new(runtime_name, runtime_version, nri_version).waiting(*request_timeout);
        let events = event_mask(&runtime);
        self.handler.configured(runtime);
        Ok(ConfigureResponse { events }.encode_to_vec())
    }

    /// Every chunk but the last is answered by an echo of `more` and nothing else: any other answer and the
    /// runtime drops the plugin as one that cannot be synchronized in parts.
    fn synchronize(&mut self, request: SynchronizeRequest, n_bytes: usize) -> Answer {
        self.n_bytes += n_bytes;
        if MAX_SYNCHRONIZE < self.n_bytes {
            self.disconnected();
            let message = format!("quietcore takes a Synchronize of at most {MAX_SYNCHRONIZE} bytes");
            return Err(Status { code: RESOURCE_EXHAUSTED, message });
        }
        self.pods.extend(request.pods);
        self.containers.extend(request.containers);
        if !request.more {
            self.n_bytes = 0;
            let containers = std::mem::take(&mut self.containers);
            self.handler.synchronize(std::mem::take(&mut self.pods), containers);
        }
        Ok(SynchronizeResponse { update: Vec::new(), more: request.more }.encode_to_vec())
    }

    fn create(&mut self, request: CreateContainerRequest) -> Answer {
        let CreateContainerRequest { pod, container } = request;
        let adjust = self.handler.create(given(pod)?, given(container)?).map_err(refused)?;
        Ok(CreateContainerResponse { adjust, ..CreateContainerResponse::default() }.encode_to_vec())
    }

    fn start(&mut self, pod: Option<PodSandbox>, container: Option<Container>) -> Result<(), Status> {
        self.handler.start(given(pod)?, given(container)?).map_err(refused)
    }

    fn update(&mut self, request: UpdateContainerRequest) -> Answer {
        let UpdateContainerRequest { container, linux_resources, .. } = request;
        let update = self.handler.update(given(container)?, linux_resources.unwrap_or_default());
        let update = update.into_iter().collect();
        Ok(UpdateContainerResponse { update, ..UpdateContainerResponse::default() }.encode_to_vec())
    }

    /// Events that were not asked for, and those that have an RPC of their own in every version, do not come.
    fn state_change(&mut self, change: StateChangeEvent) -> Answer {
        match change.event() {
            Event::StartContainer => self.start(change.pod, change.container)?,
            Event::StopContainer => self.handler.stop(given(change.container)?),
            Event::RemoveContainer => self.handler.remove(given(change.container)?),
            _ => {}
        }
        Ok(Empty {}.encode_to_vec())
    }
}

/// Whether `request` says that a container is no more. Those are never dropped, however late the handler
/// comes to them: what the container held would stay taken.
pub fn is_an_end(request: &Request) -> bool {
    match request.method.as_str() {
        "StopContainer" | "RemoveContainer" => true,
        "StateChange" => StateChangeEvent::decode(request.payload.as_slice())
            .is_ok_and(|change| matches!(change.event(), Event::StopContainer | Event::RemoveContainer)),
        _ => false,
    }
}

/// A message without its pod or container decodes, and would pass for one that is not strict.
fn given<T>(part: Option<T>) -> Result<T, Status> {
    part.ok_or_else(|| Status {
        code: INVALID_ARGUMENT,
        message: "quietcore: the runtime's message names no container, or no pod".to_owned(),
    })
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
    fn an_event_is_asked_only_of_a_runtime_that_knows_it() {
        let mask = |version: &str| event_mask(&Runtime::new("containerd", version, ""));
        assert_eq!(mask("2.1.5"), 0x6a8);
        assert_eq!(mask("301026e5"), 0x6a8);
        assert_eq!(mask("2.1.5") & !0x7ff, 0);
        assert_eq!(mask("2.2.0"), 0x6a8 | 0x2000);
    }
}
