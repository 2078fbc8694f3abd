//! Step 4: NRI's multiplexer (containerd/nri pkg/net/multiplex): two logical connections over one socket.
//!
//! `frame := connection u32 BE | length u32 BE | payload`. Pure: bytes in, bytes out.

/// The runtime calls us on this connection.
pub const PLUGIN: u32 = 1;
/// We call the runtime on this one.
pub const RUNTIME: u32 = 2;

pub const HEADER_LEN: usize = 8;
/// A ttrpc header and its largest message.
pub const MAX_PAYLOAD: usize = 10 + (4 << 20);

/// The Go peer reads a connection through a 4096-byte buffer, and a frame that does not fit what is left of it
/// is dropped with ENOMEM (pkg/net/multiplex/mux.go, `Read`). Larger reads go straight to the message's own
/// buffer, so a short first frame and one frame with all the rest always fit.
const FIRST_FRAME: usize = 4096 - HEADER_LEN;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("NRI frame of {length} bytes on connection {connection}: at most {MAX_PAYLOAD} are allowed")]
    TooLong { connection: u32, length: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub connection: u32,
    pub length: usize,
}

pub fn decode_header(bytes: [u8; HEADER_LEN]) -> Result<Header, FrameError> {
    let [c0, c1, c2, c3, l0, l1, l2, l3] = bytes;
    let connection = u32::from_be_bytes([c0, c1, c2, c3]);
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if MAX_PAYLOAD < length {
        return Err(FrameError::TooLong { connection, length });
    }
    Ok(Header { connection, length })
}

/// One ttrpc message as the frames that the Go peer can read. Never two messages in one frame.
pub fn encode(connection: u32, message: &[u8]) -> Vec<u8> {
    let (first, rest) = message.split_at(message.len().min(FIRST_FRAME));
    let mut bytes = Vec::with_capacity(message.len() + 2 * HEADER_LEN);
    for payload in [first, rest] {
        if !payload.is_empty() {
            bytes.extend(connection.to_be_bytes());
            bytes.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(payload);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(message_len: usize) -> Vec<usize> {
        let bytes = encode(PLUGIN, &vec![7; message_len]);
        let (mut at, mut lengths) = (0, Vec::new());
        while at < bytes.len() {
            let header = decode_header(bytes[at..at + HEADER_LEN].try_into().unwrap()).unwrap();
            assert_eq!(header.connection, PLUGIN);
            lengths.push(header.length);
            at += HEADER_LEN + header.length;
        }
        assert_eq!(at, bytes.len());
        lengths
    }

    #[test]
    fn the_first_frame_fits_the_go_readers_buffer_and_the_rest_is_one_frame() {
        assert_eq!(lengths(10), [10]);
        assert_eq!(lengths(4088), [4088]);
        assert_eq!(lengths(4089), [4088, 1]);
        assert_eq!(lengths(MAX_PAYLOAD), [4088, MAX_PAYLOAD - 4088]);
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_anything_is_allocated() {
        let header = |length: u32| {
            let mut bytes = [0; HEADER_LEN];
            bytes[3] = 9;
            bytes[4..].copy_from_slice(&length.to_be_bytes());
            decode_header(bytes)
        };
        let too_long = FrameError::TooLong { connection: 9, length: MAX_PAYLOAD + 1 };
        assert_eq!(header(4 * 1024 * 1024 + 11), Err(too_long));
        assert_eq!(header(4 * 1024 * 1024 + 10), Ok(Header { connection: 9, length: MAX_PAYLOAD }));
    }
}
