//! ttRPC's messages: a length, a stream's number (both big-endian `u32`), a kind, flags, and the content.
//!
//! A call is a stream with one request and one response. The caller numbers its streams 1, 3, 5 and so on.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes before the content.
pub const HEADER: usize = 10;
/// Longest content.
pub const LENGTH_LIMIT: usize = 4 << 20;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Begins a stream.
    Request,
    /// Ends a stream.
    Response,
    /// What NRI has no use for: streamed data, and kinds to come.
    Other(u8),
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Other(number) => number,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            other => Self::Other(other),
        }
    }
}

/// A message longer than the protocol allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes; the most is {LENGTH_LIMIT}")]
pub struct TooLong(pub usize);

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which stream.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// Its content.
    pub content: Bytes,
}

/// A message's bytes.
///
/// # Errors
/// Content that is too long.
pub fn encode(stream: u32, kind: Kind, content: &[u8]) -> Result<Vec<u8>, TooLong> {
    let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= LENGTH_LIMIT);
    let length = length.ok_or(TooLong(content.len()))?;
    let mut bytes = Vec::with_capacity(HEADER + content.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind.number(), 0]);
    bytes.extend_from_slice(content);
    Ok(bytes)
}

/// Finds messages in what a connection brings.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// A message that is too long. What follows it makes no sense.
    pub fn next_message(&mut self) -> Result<Option<Message>, TooLong> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let [length, stream] =
            [0, 4].map(|at| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let (length, kind) = (length as usize, Kind::of(header[8]));
        if length > LENGTH_LIMIT {
            return Err(TooLong(length));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(Message { stream, kind, content: self.buffer.split_to(length).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_ten_bytes_before_its_content() {
        let bytes = encode(3, Kind::Request, b"ab").unwrap();
        assert_eq!(bytes, [0, 0, 0, 2, 0, 0, 0, 3, 1, 0, b'a', b'b']);
        let mut decoder = Decoder::default();
        for byte in bytes {
            assert_eq!(decoder.next_message(), Ok(None));
            decoder.push(&[byte]);
        }
        let message = decoder.next_message().unwrap().unwrap();
        assert_eq!((message.stream, message.kind, message.content.as_ref()), (3, Kind::Request, &b"ab"[..]));
    }

    #[test]
    fn long_content_is_neither_sent_nor_taken() {
        assert_eq!(encode(1, Kind::Response, &vec![0; LENGTH_LIMIT + 1]), Err(TooLong(LENGTH_LIMIT + 1)));
        let mut decoder = Decoder::default();
        decoder.push(&[0x7f, 0, 0, 0, 0, 0, 0, 1, 2, 0]);
        assert!(decoder.next_message().is_err());
    }
}
