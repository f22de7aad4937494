//! What runs on an upgraded connection, as its driver sees it: streams by number.

use crate::{
    spdy::{Event, Session, SessionError, StreamClosed, frame::ResetStatus},
    websocket::{Channels, Piece, Socket, SocketError},
};

/// The protocol of a connection.
#[derive(Debug)]
pub(crate) enum Link {
    /// SPDY on the bare connection.
    Spdy(Session),
    /// SPDY in the messages of a WebSocket.
    Tunnel(Socket, Session),
    /// The channels of a WebSocket.
    Channels(Channels),
}

/// The client broke the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("SPDY: {0}")]
    Spdy(#[from] SessionError),
    #[error("WebSocket: {0}")]
    WebSocket(#[from] SocketError),
}

impl Link {
    pub(crate) fn receive(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), LinkError> {
        match self {
            Self::Spdy(session) => session.receive(bytes, sink)?,
            Self::Channels(channels) => channels.receive(bytes, sink)?,
            Self::Tunnel(socket, session) => {
                let mut inner = Ok(());
                socket.receive(bytes, &mut |Piece { bytes, .. }| {
                    if inner.is_ok() {
                        inner = session.receive(bytes, sink);
                    }
                    Ok(())
                })?;
                inner?;
                if socket.is_closed() {
                    sink(Event::GoneAway);
                }
            }
        }
        Ok(())
    }

    /// What is to be sent.
    pub(crate) fn output(&mut self) -> &[u8] {
        match self {
            Self::Spdy(session) => session.output(),
            Self::Channels(channels) => channels.output(),
            Self::Tunnel(socket, session) => {
                let inner = session.output();
                if !inner.is_empty() {
                    socket.send(false, &[inner]);
                    session.advance(inner.len());
                }
                socket.output()
            }
        }
    }

    /// So much of it was sent.
    pub(crate) fn advance(&mut self, count: usize) {
        match self {
            Self::Spdy(session) => session.advance(count),
            Self::Channels(channels) => channels.advance(count),
            Self::Tunnel(socket, _) => socket.advance(count),
        }
    }

    pub(crate) fn send(&mut self, stream: u32, bytes: &[u8]) -> Result<usize, StreamClosed> {
        match self {
            Self::Spdy(session) | Self::Tunnel(_, session) => session.send(stream, bytes),
            Self::Channels(channels) => channels.send(stream, bytes),
        }
    }

    /// Channels need no accepting.
    pub(crate) fn accept(&mut self, stream: u32) {
        match self {
            Self::Spdy(session) | Self::Tunnel(_, session) => session.accept(stream),
            Self::Channels(_) => {}
        }
    }

    /// Nothing more is sent on this stream.
    pub(crate) fn finish(&mut self, stream: u32) {
        match self {
            Self::Spdy(session) | Self::Tunnel(_, session) => session.finish(stream),
            Self::Channels(channels) => channels.finish(stream),
        }
    }

    pub(crate) fn reset(&mut self, stream: u32, status: ResetStatus) {
        match self {
            Self::Spdy(session) | Self::Tunnel(_, session) => session.reset(stream, status),
            Self::Channels(channels) => channels.reset(stream),
        }
    }

    /// Bytes of this stream were taken by their reader.
    pub(crate) fn consume(&mut self, stream: u32, count: usize) {
        match self {
            Self::Spdy(session) | Self::Tunnel(_, session) => session.consume(stream, count),
            Self::Channels(_) => {}
        }
    }

    pub(crate) fn is_open(&self, stream: u32) -> bool {
        match self {
            Self::Spdy(session) | Self::Tunnel(_, session) => session.is_open(stream),
            Self::Channels(channels) => channels.is_open(stream),
        }
    }

    /// Whether the peer, if it has said that it is over, has no stream left.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Spdy(session) => session.is_idle(),
            Self::Tunnel(socket, session) => socket.is_closed() || session.is_idle(),
            Self::Channels(channels) => channels.is_closed(),
        }
    }

    /// Says that it is over.
    pub(crate) fn go_away(&mut self) {
        match self {
            Self::Spdy(session) => session.go_away(),
            Self::Channels(channels) => channels.close(),
            Self::Tunnel(socket, session) => {
                session.go_away();
                let last = session.output();
                socket.send(false, &[last]);
                session.advance(last.len());
                socket.close();
            }
        }
    }

    /// Opens a stream, as clients do.
    #[cfg(test)]
    pub(crate) fn open(&mut self, headers: &crate::spdy::headers::Headers) -> Option<u32> {
        match self {
            Self::Spdy(session) | Self::Tunnel(_, session) => session.open(headers),
            Self::Channels(_) => None,
        }
    }
}
