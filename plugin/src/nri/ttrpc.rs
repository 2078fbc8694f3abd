//! Step 4: ttrpc messages (containerd/ttrpc PROTOCOL.md), as far as unary calls use them.
//!
//! `message := length u32 BE | stream u32 BE | type u8 | flags u8 | data`. Pure: an `Assembler` takes the
//! payloads of one connection's frames, in any pieces, and gives whole messages.

use prost::Message as _;
use quietcore_proto::ttrpc::{Request, Response, Status};

pub const HEADER_LEN: usize = 10;
pub const MAX_DATA: usize = 4 << 20;

/// Status codes of google.rpc.Code.
pub const INVALID_ARGUMENT: i32 = 3;
pub const RESOURCE_EXHAUSTED: i32 = 8;
pub const FAILED_PRECONDITION: i32 = 9;
pub const UNIMPLEMENTED: i32 = 12;

const TYPE_REQUEST: u8 = 1;
const TYPE_RESPONSE: u8 = 2;

#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    Request { stream: u32, request: Request },
    Response { stream: u32, response: Response },
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TtrpcError {
    #[error("ttrpc message of {0} bytes: at most {MAX_DATA} are allowed")]
    TooLong(usize),
    #[error("ttrpc message of type {0}: only requests and responses are expected")]
    Type(u8),
    #[error("ttrpc {what} does not decode")]
    Garbage { what: &'static str, source: prost::DecodeError },
}

#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    pub fn push(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
    }

    /// Whether a message has begun that is not whole yet.
    pub fn is_amid_message(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub fn next_message(&mut self) -> Result<Option<Message>, TtrpcError> {
        let Some(&[l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags]) = self.bytes.first_chunk::<HEADER_LEN>()
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        if MAX_DATA < length {
            return Err(TtrpcError::TooLong(length));
        }
        if self.bytes.len() < HEADER_LEN + length {
            return Ok(None);
        }
        let message: Vec<u8> = self.bytes.drain(..HEADER_LEN + length).collect();
        let data = &message[HEADER_LEN..];
        match kind {
            TYPE_REQUEST => match Request::decode(data) {
                Ok(request) => Ok(Some(Message::Request { stream, request })),
                Err(source) => Err(TtrpcError::Garbage { what: "request", source }),
            },
            TYPE_RESPONSE => match Response::decode(data) {
                Ok(response) => Ok(Some(Message::Response { stream, response })),
                Err(source) => Err(TtrpcError::Garbage { what: "response", source }),
            },
            other => Err(TtrpcError::Type(other)),
        }
    }
}

pub fn encode_request(stream: u32, request: &Request) -> Vec<u8> {
    encode(stream, TYPE_REQUEST, &request.encode_to_vec())
}

/// `Err` is a status that fails the operation in the runtime and leaves the connection up.
pub fn encode_response(stream: u32, answer: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match answer {
        Ok(payload) if payload.len() <= MAX_DATA - 64 => Response { status: None, payload },
        Ok(payload) => too_long(payload.len()),
        Err(status) => Response { status: Some(status), payload: Vec::new() },
    };
    encode(stream, TYPE_RESPONSE, &response.encode_to_vec())
}

fn too_long(length: usize) -> Response {
    let message = format!("quietcore's answer of {length} bytes is longer than ttrpc allows");
    Response { status: Some(Status { code: FAILED_PRECONDITION, message }), payload: Vec::new() }
}

fn encode(stream: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + data.len());
    bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(assembler: &mut Assembler) -> Result<Vec<Message>, TtrpcError> {
        let mut messages = Vec::new();
        while let Some(message) = assembler.next_message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_never_panic(pieces: Vec<Vec<u8>>) {
            let mut assembler = Assembler::default();
            for piece in pieces {
                assembler.push(&piece);
                if drain(&mut assembler).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn what_was_encoded_comes_back_whole_however_it_is_cut(
            payloads: Vec<Vec<u8>>, cut in 1usize..64,
        ) {
            let messages: Vec<_> = payloads.into_iter().zip(1..).map(|(payload, stream)| {
                Message::Request { stream, request: Request { method: "m".into(), payload, ..Request::default() } }
            }).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(|message| match message {
                Message::Request { stream, request } => encode_request(*stream, request),
                Message::Response { .. } => unreachable!(),
            }).collect();
            let mut assembler = Assembler::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                assembler.push(piece);
                found.extend(drain(&mut assembler).unwrap());
            }
            prop_assert_eq!(found, messages);
            prop_assert!(!assembler.is_amid_message());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_an_error_before_the_data_is_there() {
        let mut assembler = Assembler::default();
        assembler.push(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0]);
        assert_eq!(assembler.next_message(), Err(TtrpcError::TooLong(u32::MAX as usize)));
    }

    #[test]
    fn an_answer_that_is_too_long_becomes_an_error_status() {
        let bytes = encode_response(3, Ok(vec![0; MAX_DATA]));
        let mut assembler = Assembler::default();
        assembler.push(&bytes);
        let Ok(Some(Message::Response { response, .. })) = assembler.next_message() else { panic!() };
        assert!(response.status.unwrap().message.contains("longer than ttrpc allows"));
    }
}
