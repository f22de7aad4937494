//! The streams of a session and their windows.

use std::collections::HashMap;

/// A stream that takes no more bytes: it was ended by us, or reset by either side, or never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is closed")]
pub struct StreamClosed;

/// The widest window there can be.
pub(super) const WIDEST: i64 = (1 << 31) - 1;

/// One stream, open in at least one direction.
#[derive(Debug)]
pub(super) struct Stream {
    /// We may still send.
    pub(super) sending: bool,
    /// The peer may still send.
    pub(super) receiving: bool,
    /// SYN_REPLY was sent, or has come.
    pub(super) replied: bool,
    /// What the peer has room for; below zero when it learnt of windows late.
    pub(super) send_window: i64,
    /// What the peer may still send.
    pub(super) receive_window: i64,
    /// What was taken by the reader and not yet given back to the peer.
    pub(super) credit: u32,
}

/// What a peer has said about windows.
#[derive(Debug)]
pub(super) struct PeerWindows {
    /// It has said something about streams' windows.
    pub(super) streams: bool,
    /// It has said something about the session's.
    pub(super) session: bool,
    /// A new stream's window.
    pub(super) initial: i64,
    /// The session's.
    pub(super) window: i64,
}

/// All streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    map: HashMap<u32, Stream>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.map.contains_key(&id)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.map.get_mut(&id)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.map.values_mut()
    }

    pub(super) fn insert(&mut self, id: u32, stream: Stream) {
        self.map.insert(id, stream);
        self.forget_closed(id);
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        self.map.remove(&id)
    }

    /// The peer has sent its last. False: it had before, or there is no such stream.
    pub(super) fn end_receiving(&mut self, id: u32) -> bool {
        let open =
            self.map.get_mut(&id).is_some_and(|stream| std::mem::replace(&mut stream.receiving, false));
        self.forget_closed(id);
        open
    }

    /// We have sent our last. False: we had before, or there is no such stream.
    pub(super) fn end_sending(&mut self, id: u32) -> bool {
        let open = self.map.get_mut(&id).is_some_and(|stream| std::mem::replace(&mut stream.sending, false));
        self.forget_closed(id);
        open
    }

    fn forget_closed(&mut self, id: u32) {
        if self.map.get(&id).is_some_and(|stream| !stream.sending && !stream.receiving) {
            self.map.remove(&id);
        }
    }
}
