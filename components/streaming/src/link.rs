//! What runs on an upgraded connection, as its driver sees it: streams by number.

use crate::spdy::{Event, Session, SessionError, StreamClosed, frame::ResetStatus};

/// The protocol of a connection.
#[derive(Debug)]
pub(crate) enum Link {
    /// SPDY on the bare connection.
    Spdy(Session),
}

impl Link {
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        match self {
            Self::Spdy(session) => session.receive(bytes, sink),
        }
    }

    /// What is to be sent.
    pub(crate) fn output(&mut self) -> &[u8] {
        match self {
            Self::Spdy(session) => session.output(),
        }
    }

    /// So much of it was sent.
    pub(crate) fn advance(&mut self, count: usize) {
        match self {
            Self::Spdy(session) => session.advance(count),
        }
    }

    pub(crate) fn send(&mut self, stream: u32, bytes: &[u8]) -> Result<usize, StreamClosed> {
        match self {
            Self::Spdy(session) => session.send(stream, bytes),
        }
    }

    pub(crate) fn accept(&mut self, stream: u32) {
        match self {
            Self::Spdy(session) => session.accept(stream),
        }
    }

    /// Nothing more is sent on this stream.
    pub(crate) fn finish(&mut self, stream: u32) {
        match self {
            Self::Spdy(session) => session.finish(stream),
        }
    }

    pub(crate) fn reset(&mut self, stream: u32, status: ResetStatus) {
        match self {
            Self::Spdy(session) => session.reset(stream, status),
        }
    }

    /// Bytes of this stream were taken by their reader.
    pub(crate) fn consume(&mut self, stream: u32, count: usize) {
        match self {
            Self::Spdy(session) => session.consume(stream, count),
        }
    }

    pub(crate) fn is_open(&self, stream: u32) -> bool {
        match self {
            Self::Spdy(session) => session.is_open(stream),
        }
    }

    /// Whether no stream is open.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Spdy(session) => session.is_idle(),
        }
    }

    /// Says that it is over.
    pub(crate) fn go_away(&mut self) {
        match self {
            Self::Spdy(session) => session.go_away(),
        }
    }

    /// Opens a stream, as clients do.
    #[cfg(test)]
    pub(crate) fn open(&mut self, headers: &crate::spdy::headers::Headers) -> Option<u32> {
        match self {
            Self::Spdy(session) => session.open(headers),
        }
    }
}
