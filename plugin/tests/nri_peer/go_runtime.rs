//! The runtime's half of NRI as containerd/nri does it: same frames out, and the same refusal to read ours.
//!
//! Its mux hands each frame over as a datagram, and a datagram that is larger than the reader's buffer is lost
//! with ENOMEM (pkg/net/multiplex/mux.go, `Read`). The reader is a bufio.Reader of 4096 bytes, which reads
//! past its buffer, straight into the caller's, when the caller wants at least as much.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use prost::Message;
use quietcore_proto::{
    nri::{
        ConfigureRequest, ConfigureResponse, Container, CreateContainerRequest, CreateContainerResponse,
        Empty, Event, PodSandbox, RegisterPluginRequest, RemoveContainerRequest, StartContainerRequest,
        StateChangeEvent, StopContainerRequest, SynchronizeRequest, SynchronizeResponse,
    },
    ttrpc::{Request, Response, Status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

const BUFIO: usize = 4096;
pub(crate) const PLUGIN: u32 = 1;
pub(crate) const RUNTIME: u32 = 2;
pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const UNIMPLEMENTED: i32 = 12;

/// What a version of NRI does differently from the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nri {
    pub(crate) runtime_version: &'static str,
    /// Told from 0.12 on.
    pub(crate) nri_version: &'static str,
    /// `ValidEvents`: a bit beyond these fails the registration.
    pub(crate) valid_events: i32,
    /// One RPC an event, with StateChange for a plugin that does not implement it.
    pub(crate) own_rpcs: bool,
}

pub(crate) const NRI_0_6: Nri =
    Nri { runtime_version: "v1.7.24", nri_version: "", valid_events: 0x7ff, own_rpcs: false };
pub(crate) const NRI_0_8: Nri = Nri { runtime_version: "v2.1.9", ..NRI_0_6 };
pub(crate) const NRI_0_11: Nri = Nri { runtime_version: "v2.2.7", valid_events: 0x3fff, ..NRI_0_6 };
pub(crate) const NRI_0_12: Nri =
    Nri { runtime_version: "v2.3.4", nri_version: "v0.12.0", valid_events: 0x3fff, own_rpcs: true };

/// As bufio.Writer of 4096 bytes cuts a message: what fits its buffer, then the rest at once.
pub(crate) fn frames(connection: u32, message: &[u8]) -> Vec<u8> {
    let (first, rest) = message.split_at(message.len().min(BUFIO));
    let parts = [first, rest].into_iter().filter(|part| !part.is_empty());
    parts.flat_map(|part| frame(connection, part)).collect()
}

pub(crate) fn frame(connection: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [connection.to_be_bytes().as_slice(), &length, payload].concat()
}

pub(crate) fn message(stream: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [length.as_slice(), &stream.to_be_bytes(), &[kind, 0], data].concat()
}

#[derive(Debug, Default)]
struct GoReader {
    frames: VecDeque<Vec<u8>>,
    buffered: VecDeque<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Received {
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct GoRuntime {
    pub(crate) nri: Nri,
    pub(crate) stream: UnixStream,
    pub(crate) request_timeout: Duration,
    readers: HashMap<u32, GoReader>,
    next_stream: u32,
}

impl GoRuntime {
    pub(crate) fn new(nri: Nri, stream: UnixStream) -> GoRuntime {
        let request_timeout = Duration::from_secs(2);
        GoRuntime { nri, stream, request_timeout, readers: HashMap::new(), next_stream: 1 }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// `io.ReadFull` on the bufio.Reader on the mux's connection.
    async fn read_full(&mut self, connection: u32, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let wanted = length - bytes.len();
            let reader = self.readers.entry(connection).or_default();
            if !reader.buffered.is_empty() {
                let here = wanted.min(reader.buffered.len());
                bytes.extend(reader.buffered.drain(..here));
            } else if let Some(datagram) = reader.frames.pop_front() {
                let buffer = if wanted < BUFIO { BUFIO } else { wanted };
                assert!(datagram.len() <= buffer, "ENOMEM: frame of {}, buffer of {buffer}", datagram.len());
                if wanted < BUFIO { reader.buffered.extend(datagram) } else { bytes.extend(datagram) }
            } else {
                self.read_frame().await;
            }
        }
        bytes
    }

    async fn read_frame(&mut self) {
        let connection = self.stream.read_u32().await.unwrap();
        let mut payload = vec![0; self.stream.read_u32().await.unwrap() as usize];
        assert!(!payload.is_empty(), "a frame of no bytes reads as the end of the connection");
        self.stream.read_exact(&mut payload).await.unwrap();
        self.readers.entry(connection).or_default().frames.push_back(payload);
    }

    pub(crate) async fn receive(&mut self, connection: u32) -> Received {
        let header = self.read_full(connection, 10).await;
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let (length, stream, kind) = (number(0) as usize, number(4), header[8]);
        assert!(length <= 4 << 20, "ttrpc message of {length} bytes");
        Received { stream, kind, data: self.read_full(connection, length).await }
    }

    pub(crate) async fn expect_registration(&mut self) -> u32 {
        let registration = self.receive(RUNTIME).await;
        assert_eq!(registration.kind, REQUEST);
        let request = Request::decode(registration.data.as_slice()).unwrap();
        assert_eq!(
            (request.service.as_str(), request.method.as_str()),
            ("nri.pkg.api.v1alpha1.Runtime", "RegisterPlugin"),
        );
        let plugin = RegisterPluginRequest::decode(request.payload.as_slice()).unwrap();
        assert_eq!(plugin.plugin_name, "quietcore");
        assert!(
            plugin.plugin_idx.len() == 2 && plugin.plugin_idx.bytes().all(|digit| digit.is_ascii_digit())
        );
        registration.stream
    }

    /// RegisterPlugin, Configure and Synchronize, as adaptation.go does them.
    pub(crate) async fn register(&mut self) {
        let stream = self.expect_registration().await;
        let accepted = Response { status: None, payload: Empty {}.encode_to_vec() };
        let accepted = message(stream, RESPONSE, &accepted.encode_to_vec());
        self.write(&frames(RUNTIME, &accepted)).await;
        self.configure().await;
        let synchronized = self.synchronize(false, &["old"]).await.unwrap();
        assert_eq!(synchronized, SynchronizeResponse::default());
    }

    pub(crate) async fn configure(&mut self) {
        let configure = ConfigureRequest {
            runtime_name: "containerd".to_owned(),
            runtime_version: self.nri.runtime_version.to_owned(),
            nri_version: self.nri.nri_version.to_owned(),
            request_timeout: i64::try_from(self.request_timeout.as_millis()).unwrap(),
            ..ConfigureRequest::default()
        };
        let configured: ConfigureResponse = self.call("Configure", &configure).await.unwrap();
        let unknown = configured.events & !self.nri.valid_events;
        assert_eq!(unknown, 0, "invalid plugin events: {unknown:#x}");
        assert_ne!(configured.events, 0, "0 stands for all events");
    }

    pub(crate) async fn synchronize(
        &mut self,
        more: bool,
        containers: &[&str],
    ) -> Result<SynchronizeResponse, Status> {
        let containers = containers.iter().map(|name| container(name)).collect();
        self.call("Synchronize", &SynchronizeRequest { pods: vec![pod()], containers, more }).await
    }

    /// The Go client gives up at its deadline, and the runtime then closes the connection: a plugin that has
    /// not answered by then has lost.
    pub(crate) async fn call<R: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<R, Status> {
        let stream = self.send_request(method, message.encode_to_vec()).await;
        let answer = timeout(self.request_timeout, self.receive(PLUGIN)).await;
        let Received { stream: answered, kind, data } = answer.expect("no answer before the runtime's timer");
        assert_eq!((answered, kind), (stream, RESPONSE));
        let response = Response::decode(data.as_slice()).unwrap();
        match response.status {
            Some(status) if status.code != 0 => Err(status),
            _ => Ok(R::decode(response.payload.as_slice()).unwrap()),
        }
    }

    pub(crate) async fn send_request(&mut self, method: &str, payload: Vec<u8>) -> u32 {
        let request = Request {
            service: "nri.pkg.api.v1alpha1.Plugin".to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(self.request_timeout.as_nanos()).unwrap(),
            ..Request::default()
        };
        let stream = self.next_stream;
        self.next_stream += 2;
        self.write(&frames(PLUGIN, &message(stream, REQUEST, &request.encode_to_vec()))).await;
        stream
    }

    pub(crate) async fn create(&mut self, name: &str) -> Result<CreateContainerResponse, Status> {
        let request = CreateContainerRequest { pod: Some(pod()), container: Some(container(name)) };
        self.call("CreateContainer", &request).await
    }

    pub(crate) async fn start(&mut self, name: &str) -> Result<(), Status> {
        let request = StartContainerRequest { pod: Some(pod()), container: Some(container(name)) };
        self.event("StartContainer", &request, Event::StartContainer, name).await
    }

    pub(crate) async fn stop(&mut self, name: &str) -> Result<(), Status> {
        let request = StopContainerRequest { pod: Some(pod()), container: Some(container(name)) };
        self.call::<Empty>("StopContainer", &request).await.map(drop)
    }

    pub(crate) async fn remove(&mut self, name: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest { pod: Some(pod()), container: Some(container(name)) };
        self.event("RemoveContainer", &request, Event::RemoveContainer, name).await
    }

    /// pkg/adaptation/plugin_type.go: the event's own RPC, and StateChange if that is not implemented.
    async fn event(
        &mut self,
        method: &str,
        request: &impl Message,
        event: Event,
        name: &str,
    ) -> Result<(), Status> {
        if self.nri.own_rpcs {
            match self.call::<Empty>(method, request).await {
                Err(status) if status.code == UNIMPLEMENTED => {}
                answer => return answer.map(drop),
            }
        }
        let change =
            StateChangeEvent { event: event.into(), pod: Some(pod()), container: Some(container(name)) };
        self.call::<Empty>("StateChange", &change).await.map(drop)
    }
}

pub(crate) fn pod() -> PodSandbox {
    PodSandbox { id: "pod-id".to_owned(), name: "pod".to_owned(), ..PodSandbox::default() }
}

pub(crate) fn container(name: &str) -> Container {
    Container {
        id: format!("{name}-id"),
        name: name.to_owned(),
        args: vec!["/app".to_owned(), "--poll".to_owned()],
        ..Container::default()
    }
}
