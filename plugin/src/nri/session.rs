//! Step 4: one connection to the runtime: register, serve, and again after the runtime restarts.
//!
//! One connection at a time: of two plugins that set the same thing of a container the runtime accepts none.
//! Requests are answered in the order they come; the runtime sends one at a time (it holds a lock meanwhile).

use std::{convert::Infallible, io, path::Path, path::PathBuf, time::Duration};

use prost::Message as _;
use quietcore_proto::{
    nri::{ConfigureRequest, RegisterPluginRequest},
    ttrpc::{Request, Response},
};
use tokio::{
    net::UnixStream,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    dispatch::Answer,
    frame,
    handler::Handler,
    mux::{Mux, MuxError},
    ttrpc::{self, Message},
    validate,
    worker::Worker,
};

pub const PLUGIN_NAME: &str = "quietcore";
/// Plugins are called in this order; late, so that nobody after us changes what we set.
pub const PLUGIN_INDEX: &str = "90";
/// The newest NRI whose messages this was written against.
const NRI_VERSION: &str = "v0.12.2";

/// containerd's and CRI-O's default; Configure tells the real one from NRI 0.7 on.
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// A runtime lets plugins register one after the other and gives each 5 s and then 2 s for Synchronize.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(30);
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
const RECONNECT_AT_MOST: Duration = Duration::from_secs(5);
/// Client streams are odd and grow; we make one call a connection.
const REGISTER_STREAM: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("connect to {path}: is NRI enabled in the container runtime?")]
    Connect { path: PathBuf, source: io::Error },
    #[error("the runtime refused the registration: {0}")]
    Refused(String),
    #[error("the runtime accepted the connection and then said nothing for {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Mux(#[from] MuxError),
}

/// For readiness: is the runtime asking us?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Away { why: String },
    Serving,
}

impl Default for State {
    fn default() -> State {
        State::Away { why: "not connected to the container runtime yet".to_owned() }
    }
}

/// Runs for the life of the agent.
pub async fn run<H: Handler + 'static>(
    socket: PathBuf,
    handler: H,
    state: watch::Sender<State>,
) -> Infallible {
    let worker = Worker::spawn(handler);
    let mut pause = RECONNECT_AFTER;
    loop {
        let error = match connect_and_serve(&socket, &worker, &state).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if *state.borrow() == State::Serving {
            pause = RECONNECT_AFTER;
        }
        let why = with_causes(&error);
        tracing::warn!(error = why, retry_in = ?pause, "not connected to the container runtime");
        state.send_replace(State::Away { why });
        worker.disconnected().await;
        sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_AT_MOST);
    }
}

async fn connect_and_serve(
    socket: &Path,
    worker: &Worker,
    state: &watch::Sender<State>,
) -> Result<Infallible, SessionError> {
    let failed = |source| SessionError::Connect { path: socket.to_owned(), source };
    let mut mux = Mux::new(UnixStream::connect(socket).await.map_err(failed)?);
    mux.send(frame::RUNTIME, &ttrpc::encode_request(REGISTER_STREAM, &register())).await?;
    let mut request_timeout = DEFAULT_REQUEST_TIMEOUT;
    let mut synchronized = false;
    loop {
        let message = if synchronized {
            mux.receive().await?
        } else {
            let silent = |_elapsed| SessionError::Silent(REGISTRATION_TIMEOUT);
            timeout(REGISTRATION_TIMEOUT, mux.receive()).await.map_err(silent)??
        };
        // Configure may come before the answer to our registration.
        let (stream, request) = match message {
            Message::Response { response, .. } => {
                registered(response)?;
                continue;
            }
            Message::Request { stream, request } => (stream, request),
        };
        if request.method == "Configure" {
            request_timeout = configured_timeout(&request);
        }
        if request.method == validate::METHOD {
            // Before anybody looks at it: whoever is created must not wait for us, and an empty answer is a yes.
            mux.send(frame::PLUGIN, &ttrpc::encode_response(stream, Ok(Vec::new()))).await?;
            worker.tell(request);
            continue;
        }
        let synchronizes = request.method == "Synchronize";
        let deadline = deadline(request.timeout_nano, request_timeout);
        let answer = worker.ask(request, deadline).await;
        log_no(&answer);
        let accepted = answer.is_ok();
        mux.send(frame::PLUGIN, &ttrpc::encode_response(stream, answer)).await?;
        if synchronizes && accepted {
            synchronized = true;
            state.send_if_modified(|state| std::mem::replace(state, State::Serving) != State::Serving);
        }
    }
}

fn register() -> Request {
    let register = RegisterPluginRequest {
        plugin_name: PLUGIN_NAME.to_owned(),
        plugin_idx: PLUGIN_INDEX.to_owned(),
        nri_version: NRI_VERSION.to_owned(),
    };
    Request {
        service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
        method: "RegisterPlugin".to_owned(),
        payload: register.encode_to_vec(),
        ..Request::default()
    }
}

fn registered(response: Response) -> Result<(), SessionError> {
    match response.status {
        Some(status) if status.code != 0 => Err(SessionError::Refused(status.message)),
        _ => Ok(()),
    }
}

fn configured_timeout(configure: &Request) -> Duration {
    let milliseconds =
        ConfigureRequest::decode(configure.payload.as_slice()).map_or(0, |c| c.request_timeout);
    match u64::try_from(milliseconds) {
        Ok(0) | Err(_) => DEFAULT_REQUEST_TIMEOUT,
        Ok(milliseconds) => Duration::from_millis(milliseconds),
    }
}

/// The caller's timer runs since it sent the request, ours since we have read it: 30 % is for the way.
fn deadline(timeout_nano: i64, request_timeout: Duration) -> Duration {
    let sent = u64::try_from(timeout_nano).ok().filter(|&nanos| nanos != 0).map(Duration::from_nanos);
    sent.unwrap_or(request_timeout).min(request_timeout) * 7 / 10
}

fn log_no(answer: &Answer) {
    if let Err(status) = answer {
        tracing::debug!(code = status.code, message = status.message, "answered an error to the runtime");
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_answer_goes_out_before_the_runtimes_own_timer() {
        let seconds = Duration::from_secs;
        assert_eq!(deadline(1_000_000_000, seconds(2)), Duration::from_millis(700));
        assert_eq!(deadline(0, seconds(2)), Duration::from_millis(1400));
        assert_eq!(deadline(-1, seconds(2)), Duration::from_millis(1400));
        assert_eq!(deadline(i64::MAX, seconds(2)), Duration::from_millis(1400));
    }

    #[test]
    fn a_runtime_that_tells_no_timeout_has_the_default_one() {
        let configure = |request_timeout| {
            let payload = ConfigureRequest { request_timeout, ..ConfigureRequest::default() }.encode_to_vec();
            configured_timeout(&Request { payload, ..Request::default() })
        };
        assert_eq!(configure(5000), Duration::from_secs(5));
        assert_eq!(configure(0), DEFAULT_REQUEST_TIMEOUT);
        assert_eq!(configure(-1), DEFAULT_REQUEST_TIMEOUT);
        let garbage = Request { payload: vec![0xff], ..Request::default() };
        assert_eq!(configured_timeout(&garbage), DEFAULT_REQUEST_TIMEOUT);
    }
}
