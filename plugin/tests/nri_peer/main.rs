//! The real NRI session against the runtime's half of the protocol: every version, and every bad day.
#![allow(clippy::unwrap_used, reason = "all of this is a test, also what is not inside a #[test]")]

mod go_runtime;
mod mutated;
mod recorded;
mod scripted;

use std::{path::PathBuf, time::Duration};

use prost::Message as _;
use quietcore::nri::session::{self, State};
use quietcore_proto::{
    nri::{
        CreateContainerRequest, Empty, LinuxCpu, LinuxResources, PluginInstance, UpdateContainerRequest,
        UpdateContainerResponse, ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
    },
    ttrpc::{Request, Response, Status},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use go_runtime::{
    GoRuntime, NRI_0_6, NRI_0_8, NRI_0_11, NRI_0_12, Nri, PLUGIN, REQUEST, RESPONSE, RUNTIME, UNIMPLEMENTED,
    container, frame, frames, message, pod,
};
use scripted::{Journal, Scripted};

const FAILED_PRECONDITION: i32 = 9;

/// The session under test, the socket it connects to, and what it told its handler.
struct Stand {
    folder: tempfile::TempDir,
    listener: Option<UnixListener>,
    journal: Journal,
    state: watch::Receiver<State>,
    session: JoinHandle<std::convert::Infallible>,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.journal.go_on();
        self.session.abort();
    }
}

impl Stand {
    fn new() -> Stand {
        let folder = tempfile::tempdir().unwrap();
        let listener = Some(UnixListener::bind(folder.path().join("nri.sock")).unwrap());
        let journal = Journal::default();
        let (sender, state) = watch::channel(State::default());
        let handler = Scripted { journal: journal.clone(), slow: Duration::from_secs(60) };
        let session = tokio::spawn(session::run(folder.path().join("nri.sock"), handler, sender));
        Stand { folder, listener, journal, state, session }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("nri.sock")
    }

    async fn accept(&self) -> UnixStream {
        self.listener.as_ref().unwrap().accept().await.unwrap().0
    }

    async fn registered(&mut self, nri: Nri) -> GoRuntime {
        let mut runtime = GoRuntime::new(nri, self.accept().await);
        runtime.register().await;
        self.state.wait_for(|state| *state == State::Serving).await.unwrap();
        runtime
    }

    async fn why_away(&mut self) -> String {
        match &*self.state.wait_for(|state| *state != State::Serving).await.unwrap() {
            State::Away { why } => why.clone(),
            State::Serving => unreachable!(),
        }
    }
}

impl Journal {
    /// For what the handler's thread does behind the session's back: when it was too slow.
    async fn wait_for(&self, call: &str) {
        while !self.calls().iter().any(|noted| noted == call) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn every_version_is_served_in_its_own_shape() {
    for nri in [NRI_0_6, NRI_0_8, NRI_0_11, NRI_0_12] {
        let mut stand = Stand::new();
        let mut runtime = stand.registered(nri).await;
        let adjustment = runtime.create("strict").await.unwrap().adjust.unwrap();
        assert_eq!(adjustment.args, ["/app", "--", "/app", "--poll"]);
        assert_eq!(runtime.create("ordinary").await.unwrap().adjust, None);
        runtime.start("strict").await.unwrap();
        assert_eq!(update(&mut runtime, "strict").await.len(), 1);
        assert_eq!(update(&mut runtime, "ordinary").await.len(), 0);
        runtime.stop("strict").await.unwrap();
        runtime.remove("strict").await.unwrap();
        assert_eq!(
            stand.journal.calls()[1..],
            [
                "synchronize 1 pods, 1 containers",
                "create pod/strict",
                "create pod/ordinary",
                "start strict",
                "update strict to cpus \"0-1\"",
                "update ordinary to cpus \"0-1\"",
                "stop strict",
                "remove strict",
            ],
            "{nri:?}"
        );
    }
}

async fn update(runtime: &mut GoRuntime, name: &str) -> Vec<quietcore_proto::nri::ContainerUpdate> {
    let cpu = LinuxCpu { cpus: "0-1".to_owned(), ..LinuxCpu::default() };
    let resources = LinuxResources { cpu: Some(cpu), ..LinuxResources::default() };
    let request = UpdateContainerRequest {
        pod: Some(pod()),
        container: Some(container(name)),
        linux_resources: Some(resources),
    };
    runtime.call::<UpdateContainerResponse>("UpdateContainer", &request).await.unwrap().update
}

#[tokio::test]
async fn a_refusal_fails_the_operation_and_keeps_the_connection() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    let status = runtime.create("refused").await.unwrap_err();
    assert_eq!(status.code, FAILED_PRECONDITION);
    assert_eq!(status.message, "quietcore: no policy of this name; name one that exists");
    assert_eq!(runtime.start("unstartable").await.unwrap_err().code, FAILED_PRECONDITION);
    runtime.create("strict").await.unwrap();
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented_and_not_an_error_of_the_pod() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    for method in ["RunPodSandbox", "PostCreateContainer", "NotYetInvented"] {
        let status: Status = runtime.call::<Empty>(method, &Empty {}).await.unwrap_err();
        assert_eq!(status.code, UNIMPLEMENTED, "{method}");
    }
}

/// A no, or none in time, would fail whatever container is being created.
#[tokio::test]
async fn a_validation_gets_its_yes_whatever_it_says_and_however_busy_the_handler_is() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    runtime.create("slow").await.unwrap_err();
    let plugins = vec![PluginInstance { name: "pinner".to_owned(), index: "10".to_owned() }];
    let request =
        ValidateContainerAdjustmentRequest { plugins, ..ValidateContainerAdjustmentRequest::default() };
    let validated: ValidateContainerAdjustmentResponse =
        runtime.call("ValidateContainerAdjustment", &request).await.unwrap();
    assert!(!validated.reject);
    runtime.send_request("ValidateContainerAdjustment", vec![0xff; 9]).await;
    let answer = runtime.receive(PLUGIN).await;
    assert_eq!(Response::decode(answer.data.as_slice()).unwrap(), Response::default());
    stand.journal.go_on();
    stand.journal.wait_for("validated by 10-pinner").await;
}

#[tokio::test]
async fn a_message_that_does_not_decode_or_names_no_container_is_refused() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    let nobody = CreateContainerRequest::default();
    let status = runtime.call::<Empty>("CreateContainer", &nobody).await.unwrap_err();
    assert_eq!(status.message, "quietcore: the runtime's message names no container, or no pod");
    runtime.send_request("CreateContainer", vec![0xff; 9]).await;
    let answer = runtime.receive(PLUGIN).await;
    let status = Response::decode(answer.data.as_slice()).unwrap().status.unwrap();
    assert!(status.message.contains("does not decode"), "{}", status.message);
    runtime.create("strict").await.unwrap();
}

#[tokio::test]
async fn long_messages_pass_both_ways_as_the_go_peer_cuts_and_reads_them() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    for length in [4000, 4096, 5000, 8192, 1 << 20, (4 << 20) - 1000] {
        let mut long = container("strict");
        long.args.push("x".repeat(length));
        let request = CreateContainerRequest { pod: Some(pod()), container: Some(long) };
        let created: quietcore_proto::nri::CreateContainerResponse =
            runtime.call("CreateContainer", &request).await.unwrap();
        assert_eq!(created.adjust.unwrap().args.last().unwrap().len(), length);
    }
}

#[tokio::test]
async fn a_split_synchronize_is_echoed_and_delivered_once() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_8).await;
    for _ in 0..3 {
        let echo = runtime.synchronize(true, &["a", "b"]).await.unwrap();
        assert!(echo.more && echo.update.is_empty());
    }
    let last = runtime.synchronize(false, &["c"]).await.unwrap();
    assert!(!last.more);
    assert_eq!(stand.journal.calls().last().unwrap(), "synchronize 4 pods, 7 containers");
}

#[tokio::test]
async fn half_a_synchronize_is_forgotten_with_its_connection() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_8).await;
    runtime.synchronize(true, &["a", "b"]).await.unwrap();
    drop(runtime);
    stand.registered(NRI_0_8).await;
    assert_eq!(stand.journal.calls().last().unwrap(), "synchronize 1 pods, 1 containers");
}

#[tokio::test]
async fn a_slow_handler_is_a_no_before_the_runtimes_timer_and_its_late_yes_is_taken_back() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    let status = runtime.create("slow").await.unwrap_err();
    assert_eq!(status.code, FAILED_PRECONDITION);
    assert!(status.message.contains("did not decide on CreateContainer within 1.4 s"), "{}", status.message);

    // While it is still at it: a create is refused too, and is never begun; the end of a container is told.
    runtime.request_timeout = Duration::from_millis(400);
    runtime.create("strict").await.unwrap_err();
    runtime.remove("slow").await.unwrap_err();
    stand.journal.go_on();
    runtime.request_timeout = Duration::from_secs(2);
    runtime.create("ordinary").await.unwrap();
    assert_eq!(
        stand.journal.calls()[2..],
        ["create pod/slow", "create_abandoned slow", "remove slow", "create pod/ordinary"],
    );
    let another = futures::poll!(std::pin::pin!(stand.accept()));
    assert!(another.is_pending(), "a second connection was made while one was alive");
}

#[tokio::test]
async fn a_busy_handler_finishes_before_the_next_registration() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    runtime.create("slow").await.unwrap_err();
    drop(runtime);
    assert_eq!(stand.why_away().await, "the runtime closed the NRI connection");
    // Longer than the pause before a reconnection.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(futures::poll!(std::pin::pin!(stand.accept())).is_pending());
    stand.journal.go_on();
    stand.registered(NRI_0_12).await;
    let calls = stand.journal.calls();
    assert_eq!(calls[2..4], ["create pod/slow", "create_abandoned slow"]);
    assert!(calls[4].starts_with("configured by containerd"));
}

#[tokio::test]
async fn every_breach_is_named_and_ends_in_a_clean_registration() {
    let garbage = frames(PLUGIN, &message(99, REQUEST, &[0xff; 20]));
    let too_long = [PLUGIN.to_be_bytes(), (4u32 << 20).saturating_add(11).to_be_bytes()].concat();
    let message_too_long = frame(PLUGIN, &[0xff, 0, 0, 0, 0, 0, 0, 9, REQUEST, 0]);
    let stream_data = frames(PLUGIN, &message(99, 3, b"data"));
    let wrong_way = frames(RUNTIME, &message(99, REQUEST, &Request::default().encode_to_vec()));
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("a frame that is too long", too_long, "NRI frame of 4194315 bytes on connection 1"),
        ("a message that is too long", message_too_long, "ttrpc message of 4278190080 bytes"),
        ("garbage", garbage, "NRI connection 1: ttrpc request does not decode"),
        ("data of a stream", stream_data, "ttrpc message of type 3"),
        ("the wrong way", wrong_way, "ttrpc request on NRI connection 2"),
        ("half a header", vec![0, 0, 0], "closed the NRI connection amid a message"),
        ("half a message", frame(PLUGIN, &[0, 0, 0, 9, 0, 0]), "closed the NRI connection amid a message"),
    ];
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    for (what, bytes, named) in cases {
        runtime.write(&bytes).await;
        // Half-closed: what was sent is read, and nothing follows.
        runtime.stream.shutdown().await.unwrap();
        let why = stand.why_away().await;
        assert!(why.contains(named), "{what}: {why}");
        runtime = stand.registered(NRI_0_12).await;
        runtime.create("strict").await.unwrap();
    }
}

#[tokio::test]
async fn a_frame_of_an_unknown_connection_and_a_late_answer_are_skipped() {
    let mut stand = Stand::new();
    let mut runtime = stand.registered(NRI_0_12).await;
    runtime.write(&frame(77, b"for somebody else")).await;
    runtime.write(&frame(0, b"")).await;
    let nothing = Response { status: None, payload: Vec::new() };
    runtime.write(&frames(RUNTIME, &message(1, RESPONSE, &nothing.encode_to_vec()))).await;
    runtime.create("strict").await.unwrap();
}

#[tokio::test]
async fn a_restarted_runtime_is_found_again() {
    let mut stand = Stand::new();
    let runtime = stand.registered(NRI_0_12).await;
    stand.listener = None;
    std::fs::remove_file(stand.socket()).unwrap();
    drop(runtime);
    assert_eq!(stand.why_away().await, "the runtime closed the NRI connection");
    let gone = |state: &State| matches!(state, State::Away { why } if why.contains("is NRI enabled"));
    stand.state.wait_for(gone).await.unwrap();
    stand.listener = Some(UnixListener::bind(stand.socket()).unwrap());
    stand.registered(NRI_0_12).await;
    let synchronized = stand.journal.calls().into_iter().filter(|call| call.starts_with("synchronize"));
    assert_eq!(synchronized.count(), 2);
}

#[tokio::test]
async fn a_refused_registration_is_tried_again_and_says_why() {
    let mut stand = Stand::new();
    let mut runtime = GoRuntime::new(NRI_0_12, stand.accept().await);
    let stream = runtime.expect_registration().await;
    let status = Some(Status { code: 2, message: "invalid plugin index".to_owned() });
    let refusal = Response { status, payload: Vec::new() }.encode_to_vec();
    runtime.write(&frames(RUNTIME, &message(stream, RESPONSE, &refusal))).await;
    let refused =
        |state: &State| matches!(state, State::Away { why } if why.ends_with("invalid plugin index"));
    stand.state.wait_for(refused).await.unwrap();
    stand.registered(NRI_0_12).await;
}

#[tokio::test]
async fn configure_may_come_before_the_answer_to_the_registration() {
    let mut stand = Stand::new();
    let mut runtime = GoRuntime::new(NRI_0_12, stand.accept().await);
    let stream = runtime.expect_registration().await;
    runtime.configure().await;
    let accepted = Response { status: None, payload: Empty {}.encode_to_vec() };
    runtime.write(&frames(RUNTIME, &message(stream, RESPONSE, &accepted.encode_to_vec()))).await;
    runtime.synchronize(false, &[]).await.unwrap();
    stand.state.wait_for(|state| *state == State::Serving).await.unwrap();
}
