//! Conversations with real runtimes (tests/data/nri/README.md), held again: same answers, in the same order.

use std::time::Duration;

use prost::Message as _;
use quietcore::nri::session::{self, State};
use quietcore_proto::ttrpc::{Request, Response};
use tokio::{net::UnixListener, sync::watch, time::timeout};

use crate::{
    go_runtime::{GoRuntime, NRI_0_12, PLUGIN, REQUEST, RUNTIME},
    scripted::{Journal, Scripted},
};

pub(crate) const CONVERSATIONS: [(&str, &[u8]); 6] = [
    ("nri-0.6.1", include_bytes!("../data/nri/nri-0.6.1.bin")),
    ("nri-0.8.0", include_bytes!("../data/nri/nri-0.8.0.bin")),
    ("nri-0.10.0", include_bytes!("../data/nri/nri-0.10.0.bin")),
    ("nri-0.11.0", include_bytes!("../data/nri/nri-0.11.0.bin")),
    ("nri-0.12.2", include_bytes!("../data/nri/nri-0.12.2.bin")),
    ("containerd-2.3.4", include_bytes!("../data/nri/containerd-2.3.4.bin")),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Runtime,
    Plugin,
}

/// `from u8 ('R' or 'P') | length u32 BE | bytes`, a piece for each read of the socket.
pub(crate) fn pieces(mut recorded: &[u8]) -> Vec<(From, &[u8])> {
    let mut pieces = Vec::new();
    while let Some((&[from, l0, l1, l2, l3], rest)) = recorded.split_first_chunk() {
        let from = if from == b'R' { From::Runtime } else { From::Plugin };
        let (bytes, rest) = rest.split_at(u32::from_be_bytes([l0, l1, l2, l3]) as usize);
        pieces.push((from, bytes));
        recorded = rest;
    }
    assert!(recorded.is_empty());
    pieces
}

/// One line a message, as far as it must be the same each time.
#[derive(Debug, PartialEq)]
enum Line {
    Request { method: String },
    Ok { stream: u32, payload: Vec<u8> },
    Error { stream: u32, code: i32 },
}

fn line(kind: u8, stream: u32, data: &[u8]) -> Line {
    if kind == REQUEST {
        return Line::Request { method: Request::decode(data).unwrap().method };
    }
    let Response { status, payload } = Response::decode(data).unwrap();
    match status.map_or(0, |status| status.code) {
        0 => Line::Ok { stream, payload },
        code => Line::Error { stream, code },
    }
}

/// The messages of one side; each of its frames belongs to a connection of its own.
#[derive(Debug, Default)]
struct Decoder {
    bytes: Vec<u8>,
    connections: [Vec<u8>; 3],
}

impl Decoder {
    fn push(&mut self, bytes: &[u8]) -> Vec<(u32, Line, bool)> {
        self.bytes.extend(bytes);
        while let Some(header) = self.bytes.first_chunk::<8>() {
            let connection = usize::from(header[3]);
            let end = 8 + u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
            if self.bytes.len() < end {
                break;
            }
            self.connections[connection].extend(self.bytes.drain(..end).skip(8));
        }
        let mut lines = Vec::new();
        for (connection, bytes) in (0..).zip(&mut self.connections) {
            while let Some(&[l0, l1, l2, l3, s0, s1, s2, s3, kind, _]) = bytes.first_chunk() {
                let end = 10 + u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                if bytes.len() < end {
                    break;
                }
                let message: Vec<u8> = bytes.drain(..end).collect();
                let about_slow = message.windows(4).any(|name| name == b"slow");
                let stream = u32::from_be_bytes([s0, s1, s2, s3]);
                lines.push((connection, line(kind, stream, &message[10..]), about_slow));
            }
        }
        lines
    }
}

async fn replay(name: &str, recorded: &[u8]) -> Journal {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("nri.sock")).unwrap();
    let journal = Journal::default();
    let handler = Scripted { journal: journal.clone(), slow: Duration::from_secs(60) };
    let (state, _states) = watch::channel(State::default());
    let session = tokio::spawn(session::run(folder.path().join("nri.sock"), handler, state));
    let mut runtime = GoRuntime::new(NRI_0_12, listener.accept().await.unwrap().0);
    let (mut theirs, mut ours) = (Decoder::default(), Decoder::default());
    let (mut n_answers, mut about_slow) = (0, false);
    for (from, bytes) in pieces(recorded) {
        if from == From::Runtime {
            about_slow |= theirs.push(bytes).into_iter().any(|(_, _, about_slow)| about_slow);
            runtime.write(bytes).await;
            continue;
        }
        for (connection, expected, _) in ours.push(bytes) {
            assert!([PLUGIN, RUNTIME].contains(&connection));
            let received = timeout(Duration::from_secs(10), runtime.receive(connection)).await.unwrap();
            let answer = line(received.kind, received.stream, &received.data);
            if about_slow {
                // The recording waited for the handler, and what came in time meanwhile was chance.
                journal.go_on();
                journal.wait_for("create_abandoned slow").await;
            } else {
                assert_eq!(answer, expected, "{name}, answer {n_answers}");
            }
            about_slow = false;
            n_answers += 1;
        }
    }
    assert!(13 <= n_answers, "{name}: only {n_answers} answers");
    session.abort();
    journal
}

#[tokio::test]
async fn recorded_runtimes_get_the_answers_they_accepted() {
    let replays = CONVERSATIONS.map(|(name, recorded)| replay(name, recorded));
    futures::future::join_all(replays).await;
}

/// A plugin that is asked before us has pinned the container that we leave alone: we are shown its cpuset, and
/// told whose it is by every runtime that can tell.
#[tokio::test]
async fn what_another_plugin_pins_is_seen_and_named() {
    for (name, recorded) in CONVERSATIONS.into_iter().filter(|(name, _)| name.starts_with("nri-")) {
        let journal = replay(name, recorded).await;
        journal.wait_for("create pod/ordinary on cpus 0").await;
        if !["nri-0.6.1", "nri-0.8.0"].contains(&name) {
            journal.wait_for("validated by 10-pinner, 90-quietcore, cpus of ordinary-id by 10-pinner").await;
        }
    }
}

#[test]
fn recordings_name_no_folder_of_the_machine_they_were_made_on() {
    for (name, recorded) in CONVERSATIONS {
        let text = String::from_utf8_lossy(recorded);
        assert!(!text.contains("/home/") && !text.contains("/work/"), "{name}");
    }
}
