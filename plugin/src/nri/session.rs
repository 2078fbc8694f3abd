//! Step 4: one connection to the runtime: register, serve, and again after the runtime restarts.
//!
//! NRI fails open: an answer that comes too late is no answer, and the container is created without us. So
//! the handler works on a thread of its own, and at 70 % of the runtime's time an explicit error goes out.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use prost::Message as _;
use quietcore_proto::{
    nri::{ConfigureRequest, RegisterPluginRequest},
    ttrpc::{Request, Status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{oneshot, watch},
};

use super::{
    dispatch::Dispatcher,
    frame::{self, FrameError},
    handler::Handler,
    ttrpc::{self, Assembler, FAILED_PRECONDITION, Message, TtrpcError},
};

pub const PLUGIN_NAME: &str = "quietcore";
/// Plugins are called in this order; late, so that nobody after us changes what we set.
pub const PLUGIN_INDEX: &str = "90";
/// The newest NRI whose messages this was written against.
const NRI_VERSION: &str = "v0.12.2";

/// containerd's and CRI-O's default; Configure tells the real one from NRI 0.7 on.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
const RECONNECT_AT_MOST: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("connect to {path}: is NRI enabled in the container runtime?")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("the runtime closed the NRI connection")]
    Closed,
    #[error("the runtime closed the NRI connection amid a message")]
    Truncated,
    #[error("NRI connection")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Ttrpc(#[from] TtrpcError),
    #[error("the runtime refused the registration: {0}")]
    Refused(String),
}

/// For readiness: is the runtime asking us?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Away,
    Serving,
}

struct Job {
    request: Request,
    answer: oneshot::Sender<Result<Vec<u8>, Status>>,
    first_of_connection: bool,
}

/// Runs for the life of the agent. One connection at a time, for ever.
pub async fn run<H: Handler + 'static>(socket: PathBuf, handler: H, state: watch::Sender<State>) {
    let (jobs, queue) = mpsc::channel::<Job>();
    std::thread::spawn(move || work(handler, &queue));
    let mut pause = RECONNECT_AFTER;
    loop {
        let error = match connect(&socket).await {
            Ok(stream) => {
                let error = serve(stream, &jobs, &state).await;
                if *state.borrow() == State::Serving {
                    pause = RECONNECT_AFTER;
                }
                error
            }
            Err(error) => error,
        };
        state.send_replace(State::Away);
        tracing::warn!(error = &error as &dyn std::error::Error, retry_in = ?pause, "not connected to the runtime");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_AT_MOST);
    }
}

fn work<H: Handler>(handler: H, queue: &mpsc::Receiver<Job>) {
    let mut dispatcher = Dispatcher::new(handler);
    while let Ok(job) = queue.recv() {
        if job.first_of_connection {
            dispatcher.connected();
        }
        // The session gave up waiting: the runtime knows a "no" already, and undoes what it had begun.
        let _ = job.answer.send(dispatcher.call(&job.request));
    }
}

async fn connect(path: &Path) -> Result<UnixStream, SessionError> {
    let failed = |source| SessionError::Connect { path: path.to_owned(), source };
    UnixStream::connect(path).await.map_err(failed)
}

async fn serve(
    mut stream: UnixStream,
    jobs: &mpsc::Sender<Job>,
    state: &watch::Sender<State>,
) -> SessionError {
    match try_serve(&mut stream, jobs, state).await {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

enum Never {}

async fn try_serve(
    stream: &mut UnixStream,
    jobs: &mpsc::Sender<Job>,
    state: &watch::Sender<State>,
) -> Result<Never, SessionError> {
    const REGISTER_STREAM: u32 = 1; // client streams are odd and grow
    let register = RegisterPluginRequest {
        plugin_name: PLUGIN_NAME.to_owned(),
        plugin_idx: PLUGIN_INDEX.to_owned(),
        nri_version: NRI_VERSION.to_owned(),
    };
    let register = Request {
        service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
        method: "RegisterPlugin".to_owned(),
        payload: register.encode_to_vec(),
        ..Request::default()
    };
    stream
        .write_all(&frame::encode(frame::RUNTIME, &ttrpc::encode_request(REGISTER_STREAM, &register)))
        .await?;
    let mut peer = Peer::default();
    let mut timeout = DEFAULT_REQUEST_TIMEOUT;
    let mut first_of_connection = true;
    loop {
        match peer.next(stream).await? {
            Message::Response { response, .. } => {
                if let Some(status) = response.status.filter(|status| status.code != 0) {
                    return Err(SessionError::Refused(status.message));
                }
            }
            Message::Request { stream: id, request } => {
                if request.method == "Configure" {
                    timeout = request_timeout(&request);
                }
                let synchronized = request.method == "Synchronize";
                let answer = ask(jobs, request, timeout, first_of_connection).await;
                first_of_connection = false;
                let message = ttrpc::encode_response(id, answer);
                stream.write_all(&frame::encode(frame::PLUGIN, &message)).await?;
                if synchronized {
                    state.send_replace(State::Serving);
                }
            }
        }
    }
}

fn request_timeout(configure: &Request) -> Duration {
    let milliseconds =
        ConfigureRequest::decode(configure.payload.as_slice()).map_or(0, |c| c.request_timeout);
    match u64::try_from(milliseconds) {
        Ok(0) | Err(_) => DEFAULT_REQUEST_TIMEOUT,
        Ok(milliseconds) => Duration::from_millis(milliseconds),
    }
}

async fn ask(
    jobs: &mpsc::Sender<Job>,
    request: Request,
    timeout: Duration,
    first_of_connection: bool,
) -> Result<Vec<u8>, Status> {
    let sent = u64::try_from(request.timeout_nano).ok().filter(|nanos| *nanos != 0).map(Duration::from_nanos);
    let deadline = sent.unwrap_or(timeout).min(timeout) * 7 / 10;
    let method = request.method.clone();
    let (answer, answered) = oneshot::channel();
    // The worker ends only with the agent.
    let _ = jobs.send(Job { request, answer, first_of_connection });
    match tokio::time::timeout(deadline, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => {
            tracing::error!(method, ?deadline, "no decision in time; refused");
            let message = format!(
                "quietcore: the node's agent did not decide on {method} within {deadline:?}; the kubelet tries again \
                 by itself, and the agent's log says what it was busy with"
            );
            Err(Status { code: FAILED_PRECONDITION, message })
        }
    }
}

/// The runtime's side of the socket, as messages of the two connections.
#[derive(Debug, Default)]
struct Peer {
    plugin: Assembler,
    runtime: Assembler,
}

impl Peer {
    async fn next(&mut self, stream: &mut UnixStream) -> Result<Message, SessionError> {
        loop {
            for connection in [&mut self.plugin, &mut self.runtime] {
                if let Some(message) = connection.next_message()? {
                    return Ok(message);
                }
            }
            let mut header = [0; frame::HEADER_LEN];
            self.read(stream, &mut header).await?;
            let header = frame::decode_header(header)?;
            let mut payload = vec![0; header.length];
            stream.read_exact(&mut payload).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => SessionError::Truncated,
                _ => SessionError::Io(error),
            })?;
            match header.connection {
                frame::PLUGIN => self.plugin.push(&payload),
                frame::RUNTIME => self.runtime.push(&payload),
                // As the Go implementation does: somebody else's, and no harm.
                unknown => tracing::warn!(
                    connection = unknown,
                    length = header.length,
                    "frame of an unknown connection"
                ),
            }
        }
    }

    async fn read(&self, stream: &mut UnixStream, header: &mut [u8]) -> Result<(), SessionError> {
        match stream.read(&mut header[..1]).await? {
            0 if self.plugin.is_amid_message() || self.runtime.is_amid_message() => {
                Err(SessionError::Truncated)
            }
            0 => Err(SessionError::Closed),
            _ => match stream.read_exact(&mut header[1..]).await {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    Err(SessionError::Truncated)
                }
                Err(error) => Err(SessionError::Io(error)),
            },
        }
    }
}
