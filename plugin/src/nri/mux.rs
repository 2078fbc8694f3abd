//! Step 4: the socket as whole messages of NRI's two connections. All reading and writing of step 4 is here.
//!
//! Never holds more than one frame and the beginning of one message a connection, whatever the peer sends.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::{
    frame::{self, FrameError},
    ttrpc::{Assembler, Message, TtrpcError},
};

/// The Go peer reads all the time into a queue of 256 frames, so a write waits only for a runtime that hangs.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    #[error("the runtime closed the NRI connection")]
    Closed,
    #[error("the runtime closed the NRI connection amid a message")]
    Truncated,
    #[error("read from the NRI connection")]
    Read(#[source] io::Error),
    #[error("write to the NRI connection")]
    Write(#[source] io::Error),
    #[error("write to the NRI connection: the runtime has read nothing for {0:?}")]
    Stalled(Duration),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("NRI connection {connection}")]
    Ttrpc { connection: u32, source: TtrpcError },
    #[error("ttrpc {what} on NRI connection {connection}, where only the other side sends those")]
    WrongWay { connection: u32, what: &'static str },
}

#[derive(Debug)]
pub struct Mux {
    stream: UnixStream,
    plugin: Assembler,
    runtime: Assembler,
}

impl Mux {
    pub fn new(stream: UnixStream) -> Mux {
        Mux { stream, plugin: Assembler::default(), runtime: Assembler::default() }
    }

    pub async fn send(&mut self, connection: u32, message: &[u8]) -> Result<(), MuxError> {
        let bytes = frame::encode(connection, message);
        match timeout(WRITE_TIMEOUT, self.stream.write_all(&bytes)).await {
            Ok(written) => written.map_err(MuxError::Write),
            Err(_elapsed) => Err(MuxError::Stalled(WRITE_TIMEOUT)),
        }
    }

    /// Not cancel-safe: a caller that gives up waiting gives up the connection.
    pub async fn receive(&mut self) -> Result<Message, MuxError> {
        loop {
            for (connection, assembler) in
                [(frame::PLUGIN, &mut self.plugin), (frame::RUNTIME, &mut self.runtime)]
            {
                let message = assembler.next_message();
                if let Some(message) = message.map_err(|source| MuxError::Ttrpc { connection, source })? {
                    return right_way(connection, message);
                }
            }
            self.read_frame().await?;
        }
    }

    async fn read_frame(&mut self) -> Result<(), MuxError> {
        let header = frame::decode_header(self.read_header().await?)?;
        let mut payload = vec![0; header.length];
        self.stream.read_exact(&mut payload).await.map_err(truncated)?;
        match header.connection {
            frame::PLUGIN => self.plugin.push(&payload),
            frame::RUNTIME => self.runtime.push(&payload),
            // As the Go implementation does: somebody else's, and no harm.
            unknown => {
                tracing::warn!(
                    connection = unknown,
                    length = header.length,
                    "NRI frame of an unknown connection"
                );
            }
        }
        Ok(())
    }

    /// The end of the stream is in order before a header and nowhere else.
    async fn read_header(&mut self) -> Result<[u8; frame::HEADER_LEN], MuxError> {
        let mut header = [0; frame::HEADER_LEN];
        let (first, rest) = header.split_at_mut(1);
        match self.stream.read(first).await.map_err(MuxError::Read)? {
            0 if self.plugin.is_amid_message() || self.runtime.is_amid_message() => Err(MuxError::Truncated),
            0 => Err(MuxError::Closed),
            _ => {
                self.stream.read_exact(rest).await.map_err(truncated)?;
                Ok(header)
            }
        }
    }
}

fn truncated(error: io::Error) -> MuxError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => MuxError::Truncated,
        _ => MuxError::Read(error),
    }
}

fn right_way(connection: u32, message: Message) -> Result<Message, MuxError> {
    match (connection, &message) {
        (frame::RUNTIME, Message::Request { .. }) => Err(MuxError::WrongWay { connection, what: "request" }),
        (frame::PLUGIN, Message::Response { .. }) => Err(MuxError::WrongWay { connection, what: "response" }),
        _ => Ok(message),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;
    use quietcore_proto::ttrpc::{Request, Response};

    use super::*;
    use crate::nri::ttrpc;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// What the mux makes of a peer that sends `pieces`, one write each, and closes.
    fn received(pieces: Vec<Vec<u8>>) -> (Vec<Message>, MuxError) {
        block_on(async {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let writer = tokio::spawn(async move {
                for piece in pieces {
                    // The mux hangs up as soon as it does not understand.
                    if theirs.write_all(&piece).await.is_err() {
                        break;
                    }
                }
            });
            let mut mux = Mux::new(ours);
            let mut messages = Vec::new();
            let error = loop {
                match mux.receive().await {
                    Ok(message) => messages.push(message),
                    Err(error) => break error,
                }
            };
            drop(mux);
            writer.await.unwrap();
            (messages, error)
        })
    }

    fn request(payload: &[u8]) -> Vec<u8> {
        ttrpc::encode_request(1, &Request { payload: payload.to_vec(), ..Request::default() })
    }

    #[track_caller]
    fn check(bytes: Vec<u8>, expect: Expect) {
        let (messages, error) = received(vec![bytes]);
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        expect.assert_eq(&format!("{} messages, then: {error}{cause}", messages.len()));
    }

    fn framed(connection: u32, payload: &[u8]) -> Vec<u8> {
        [&connection.to_be_bytes(), &u32::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat()
    }

    #[test]
    fn a_close_between_messages_is_told_from_one_amid_a_message() {
        let whole = frame::encode(frame::PLUGIN, &request(b"x"));
        check(whole.clone(), expect!["1 messages, then: the runtime closed the NRI connection"]);
        let cuts = [&whole[..5], &whole[..9], &whole[..whole.len() - 1], &framed(1, &request(b"x")[..11])];
        for bytes in cuts {
            check(
                bytes.to_vec(),
                expect!["0 messages, then: the runtime closed the NRI connection amid a message"],
            );
        }
    }

    #[test]
    fn each_breach_of_the_protocol_has_a_name() {
        check(
            [1u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat(),
            expect![
                "0 messages, then: NRI frame of 4294967295 bytes on connection 1: at most 4194314 are allowed"
            ],
        );
        check(
            framed(2, &[0, 0x40, 0, 1, 0, 0, 0, 1, 2, 0]),
            expect![
                "0 messages, then: NRI connection 2: ttrpc message of 4194305 bytes: at most 4194304 are allowed"
            ],
        );
        check(
            framed(1, &[0, 0, 0, 2, 0, 0, 0, 1, 1, 0, 0xff, 0xff]),
            expect!["0 messages, then: NRI connection 1: ttrpc request does not decode"],
        );
        check(
            framed(1, &[0, 0, 0, 0, 0, 0, 0, 1, 3, 0]),
            expect![
                "0 messages, then: NRI connection 1: ttrpc message of type 3: only requests and responses are expected"
            ],
        );
        check(
            framed(2, &request(b"x")),
            expect![
                "0 messages, then: ttrpc request on NRI connection 2, where only the other side sends those"
            ],
        );
        check(
            framed(1, &ttrpc::encode_response(1, Ok(Vec::new()))),
            expect![
                "0 messages, then: ttrpc response on NRI connection 1, where only the other side sends those"
            ],
        );
    }

    #[test]
    fn a_frame_of_an_unknown_connection_is_skipped_and_an_empty_one_is_nothing() {
        let bytes = [framed(7, b"whatever"), framed(0, b""), framed(1, b""), framed(1, &request(b"x"))];
        check(bytes.concat(), expect!["1 messages, then: the runtime closed the NRI connection"]);
    }

    #[test]
    fn messages_of_the_two_connections_may_interleave_within_each_other() {
        let ours = request(&[7; 10_000]);
        let theirs = ttrpc::encode_response(1, Ok(vec![9; 10_000]));
        let (head, tail) = ours.split_at(5);
        let bytes = [framed(1, head), framed(2, &theirs), framed(1, tail)].concat();
        let (messages, error) = received(vec![bytes]);
        assert!(matches!(error, MuxError::Closed));
        let response = Response { status: None, payload: vec![9; 10_000] };
        let request = Request { payload: vec![7; 10_000], ..Request::default() };
        assert_eq!(
            messages,
            [Message::Response { stream: 1, response }, Message::Request { stream: 1, request }],
        );
    }

    /// Bytes that look like the protocol at first: random ones end at their first header.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![4 => 0u32..64, 1 => any::<u32>()];
        let header =
            (0u32..4, length.clone()).prop_map(|(id, len)| [id.to_be_bytes(), len.to_be_bytes()].concat());
        let message =
            (length, any::<u32>(), 0u8..5, any::<u8>()).prop_map(|(length, stream, kind, flags)| {
                let mut bytes = [length.to_be_bytes(), stream.to_be_bytes()].concat();
                bytes.extend([kind, flags]);
                bytes
            });
        let whole = (1u32..3, any::<Vec<u8>>()).prop_map(|(id, data)| framed(id, &request(&data)));
        prop_oneof![header, message.clone(), message.prop_map(|m| framed(1, &m)), whole, any::<Vec<u8>>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_bytes_in_any_pieces_make_it_panic(pieces in prop::collection::vec(hostile(), 0..12)) {
            received(pieces);
        }
    }
}
