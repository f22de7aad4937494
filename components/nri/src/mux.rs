//! Several connections over one: a frame is a connection's number, a length (both big-endian `u32`) and that many bytes.
//!
//! Both ends may speak at any time. There is no opening and no closing: a number is a connection because both ends
//! say so. Number 1 leads to the plugin's service, number 2 to the runtime's.

use crate::ttrpc;
use bytes::{Buf, Bytes, BytesMut};

/// The connection on which the runtime calls the plugin.
pub const TO_PLUGIN: u32 = 1;
/// The connection on which the plugin calls the runtime.
pub const TO_RUNTIME: u32 = 2;
/// Longest payload of a frame: one whole ttRPC message.
pub const PAYLOAD_LIMIT: usize = ttrpc::HEADER + ttrpc::LENGTH_LIMIT;

const HEADER: usize = 8;
/// A reader in Go takes a frame whole into a buffer of this size, unless it waits for more than that: so a message's
/// first bytes, with its header, must be a frame that fits.
const FIRST_FRAME: usize = 4096;

/// A frame longer than any message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes, which is longer than any message")]
pub struct TooLong(pub usize);

/// Some bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which connection.
    pub connection: u32,
    /// The bytes.
    pub payload: Bytes,
}

/// Puts one message of a connection into frames.
pub fn encode(connection: u32, message: &[u8], wire: &mut Vec<u8>) {
    let (first, rest) = message.split_at(message.len().min(FIRST_FRAME));
    for part in [first, rest] {
        // A message's length is checked where it is made.
        if let (false, Ok(length)) = (part.is_empty(), u32::try_from(part.len())) {
            wire.extend_from_slice(&connection.to_be_bytes());
            wire.extend_from_slice(&length.to_be_bytes());
            wire.extend_from_slice(part);
        }
    }
}

/// Finds frames in what is received.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// A frame that is too long. What follows it makes no sense.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, TooLong> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let [connection, length] =
            [0, 4].map(|at| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let length = length as usize;
        if length > PAYLOAD_LIMIT {
            return Err(TooLong(length));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(Frame { connection, payload: self.buffer.split_to(length).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_begins_with_a_frame_that_a_small_buffer_takes() {
        let message: Vec<u8> = (0..20_000u32).map(|number| number as u8).collect();
        let mut wire = Vec::new();
        encode(2, &message, &mut wire);
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        let first = decoder.next_frame().unwrap().unwrap();
        let second = decoder.next_frame().unwrap().unwrap();
        assert_eq!((first.connection, first.payload.len()), (2, 4096));
        assert_eq!([first.payload, second.payload].concat(), message);
        assert_eq!(decoder.next_frame().unwrap(), None);
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next_frame(), Err(TooLong(0xffff_ffff)));
    }
}
