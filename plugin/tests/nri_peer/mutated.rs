//! Recorded conversations with bytes changed, lost and doubled: whatever becomes of them, nothing panics.
//!
//! Random bytes end at their first header; these get as far as the handler.

use std::time::Duration;

use proptest::prelude::*;
use quietcore::nri::{
    dispatch::Dispatcher,
    mux::{Mux, MuxError},
    ttrpc::Message,
};
use tokio::{io::AsyncWriteExt as _, net::UnixStream};

use crate::{
    recorded::{CONVERSATIONS, From, pieces},
    scripted::{Journal, Scripted},
};

#[derive(Debug, Clone)]
enum Mutation {
    Set { at: prop::sample::Index, to: u8 },
    Cut { at: prop::sample::Index, length: usize },
    Double { at: prop::sample::Index, length: usize },
    End { at: prop::sample::Index },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = || any::<prop::sample::Index>();
    prop_oneof![
        6 => (at(), any::<u8>()).prop_map(|(at, to)| Mutation::Set { at, to }),
        2 => (at(), 1usize..64).prop_map(|(at, length)| Mutation::Cut { at, length }),
        2 => (at(), 1usize..5000).prop_map(|(at, length)| Mutation::Double { at, length }),
        1 => at().prop_map(|at| Mutation::End { at }),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let n_bytes = bytes.len();
    let range = |at: &prop::sample::Index, length: usize| {
        let start = at.index(n_bytes);
        start..(start + length).min(n_bytes)
    };
    match mutation {
        Mutation::Set { at, to } => bytes[at.index(n_bytes)] = *to,
        Mutation::Cut { at, length } => drop(bytes.drain(range(at, *length))),
        Mutation::Double { at, length } => {
            let range = range(at, *length);
            let copy = bytes[range.clone()].to_vec();
            bytes.splice(range.end..range.end, copy);
        }
        Mutation::End { at } => bytes.truncate(at.index(n_bytes)),
    }
}

async fn converse(bytes: Vec<u8>, piece: usize) -> MuxError {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let writer = tokio::spawn(async move {
        for piece in bytes.chunks(piece) {
            // The mux hangs up as soon as it does not understand.
            if theirs.write_all(piece).await.is_err() {
                break;
            }
        }
    });
    let mut dispatcher = Dispatcher::new(Scripted { journal: Journal::default(), slow: Duration::ZERO });
    let mut mux = Mux::new(ours);
    let error = loop {
        match mux.receive().await {
            Ok(Message::Request { request, .. }) => {
                dispatcher.told(&request);
                drop(dispatcher.call(&request));
            }
            Ok(Message::Response { .. }) => {}
            Err(error) => break error,
        }
    };
    drop(mux);
    writer.await.unwrap();
    error
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_mutated_conversation_never_panics(
        which in 0..CONVERSATIONS.len(),
        mutations in prop::collection::vec(mutation(), 1..6),
        piece in 1usize..5000,
    ) {
        let (_, recorded) = CONVERSATIONS[which];
        let runtimes = pieces(recorded).into_iter().filter(|(from, _)| *from == From::Runtime);
        let mut bytes: Vec<u8> = runtimes.flat_map(|(_, bytes)| bytes.to_vec()).collect();
        for mutation in &mutations {
            mutate(&mut bytes, mutation);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(converse(bytes, piece));
    }
}
