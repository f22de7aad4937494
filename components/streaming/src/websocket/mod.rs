//! WebSocket (RFC 6455), and the two uses that Kubernetes makes of it.
//!
//! - [`Channels`]: the first byte of every message says which stream the rest belongs to (`v5.channel.k8s.io` and those before it).
//!   The protocol knows no windows: a stream that is not read stops the connection.
//! - A tunnel: the messages' bytes, one after another, are a SPDY connection (`SPDY/3.1+portforward.k8s.io`).
//!
//! [`Socket`] is one end of the protocol itself, a state machine without input and output of its own. Messages are handed on in
//! pieces as they come, so that a message of any length takes no memory.

mod channels;
mod frame;
mod handshake;
mod socket;

#[cfg(test)]
mod tests;

pub use channels::{Channels, Codec};
pub use handshake::accept_key;
pub use socket::{Piece, Socket};

/// Why a connection cannot go on. The peer is told by a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// Reserved bits, or a type of frame that there is none of.
    #[error("a frame's first byte is {0:#04x}, which means nothing")]
    FirstByte(u8),
    /// A client must mask what it sends, a server must not.
    #[error("a frame is masked though it must not be, or the other way round")]
    Masking,
    /// A control frame that is long, or in pieces.
    #[error("a control frame is longer than 125 bytes, or in fragments")]
    Control,
    /// A piece of a message that has not begun, or the beginning of one inside another.
    #[error("a message's fragments are out of order")]
    Fragments,
    /// More than 2^63 bytes.
    #[error("a frame's length has its highest bit set")]
    Length,
    /// A message that is no base64 though the protocol says so.
    #[error("a message is no base64")]
    Base64,
    /// A close signal that does not name one channel.
    #[error("a close signal does not name one channel")]
    CloseSignal,
}
