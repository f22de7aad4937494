//! SPDY/3.1 as a state machine: one [`Session`] is one end of a connection.
//!
//! Source: the SPDY protocol, draft 3, and what draft 3.1 adds to it, a window for the session as a whole. Frames are
//! in [`frame`], header blocks and their compression in [`headers`].
//!
//! # Flow control, and clients that know none
//!
//! In the protocol a stream begins with a window of 64 KiB in each direction, which its reader widens by WINDOW_UPDATE.
//! The clients there are (Kubernetes' Go code on `spdystream`) neither send WINDOW_UPDATE nor obey it: they write as long
//! as TCP takes bytes and leave the rest to TCP. So:
//!
//! - **What we send** is unlimited, but for TCP, until the peer says something about windows; from its first WINDOW_UPDATE, or
//!   SETTINGS with a window size, the windows are binding, what was sent before included. A stream's windows and the session's
//!   are told apart, since SPDY/3.0 knows only the former.
//! - **What we receive** is announced: SETTINGS with our window, WINDOW_UPDATE as the reader takes bytes. A peer that has
//!   spoken of windows and overruns ours loses the stream (FLOW_CONTROL_ERROR). One that has not cannot be held to it:
//!   the session counts, and its owner stops reading the socket when a stream is full, which holds any peer, at the price that the other
//!   streams of that connection wait too.

pub mod dictionary;
pub mod frame;
pub mod headers;
mod session;
mod streams;

#[cfg(test)]
mod tests;

pub use session::{Event, Role, SESSION_WINDOW, STREAM_WINDOW, Session};
pub use streams::StreamClosed;

/// Why a session cannot go on. The peer is told by GOAWAY.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Another protocol, or no SPDY at all.
    #[error("the peer speaks SPDY version {0}, not 3")]
    Version(u16),
    /// A frame of a length that its kind cannot have.
    #[error("a frame of type {kind} has {length} bytes")]
    Length {
        /// The frame's type.
        kind: u16,
        /// The length of its payload.
        length: usize,
    },
    /// A stream that cannot have this number.
    #[error("the peer used stream {0}, which is not its to open, or out of order")]
    StreamId(u32),
    /// A header block that does not decompress. The state of the compression is lost with it.
    #[error("a header block does not decompress")]
    Compression,
    /// A header block that is longer than we keep.
    #[error("a header block decompresses to more than {} KiB", headers::BLOCK_LIMIT >> 10)]
    HeadersTooLong,
    /// A window beyond 2^31 - 1.
    #[error("the peer widened the window of stream {0} beyond 2^31 - 1")]
    WindowOverflow(u32),
}
