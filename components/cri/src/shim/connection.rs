//! A daemon's connection: frames in, frames out, and descriptors with them.

use crate::protocol::{self, Envelope, Message};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// Most descriptors that one message carries.
const DESCRIPTORS: usize = 4;

/// A connection. There are two main ones for a moment when a new daemon comes before the old one is gone, and one for
/// each session.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    closed: bool,
    /// It belongs to a session: what happens to the pod's containers is not told here.
    pub(super) session: bool,
}

impl Connection {
    /// A connection as it was accepted.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, inbox: Vec::new(), outbox: Vec::new(), closed: false, session: false })
    }

    /// There is something to send.
    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// It is of no use any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The requests that have arrived.
    pub(super) fn receive(&mut self) -> Vec<Envelope> {
        let mut buffer = [0; 64 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(length) => {
                    self.inbox.extend_from_slice(&buffer[..length]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.closed = true,
            }
            break;
        }
        let mut requests = Vec::new();
        loop {
            match protocol::decode::<Envelope>(&mut self.inbox) {
                Ok(Some(envelope)) => requests.push(envelope),
                Ok(None) => return requests,
                Err(error) => {
                    tracing::error!("the daemon sent something unreadable: {error}");
                    self.closed = true;
                    return requests;
                }
            }
        }
    }

    /// Sends a message, now or when there is room.
    pub(super) fn send(&mut self, message: &Message) {
        match protocol::encode(message) {
            Ok(frame) => self.outbox.extend_from_slice(&frame),
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Sends a message with descriptors, now. Only as a connection's first message: there is room for that.
    pub(super) fn send_with(&mut self, message: &Message, descriptors: &[OwnedFd]) {
        let sent = protocol::encode(message).and_then(|frame| {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("too many descriptors for one message"));
            }
            let length = sendmsg(&self.stream, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;
            self.outbox.extend_from_slice(&frame[length..]);
            Ok(())
        });
        if let Err(error) = sent {
            tracing::warn!("cannot hand over a session: {error}");
            self.closed = true;
        }
    }

    /// Sends what can be sent.
    pub(super) fn flush(&mut self) {
        while !self.outbox.is_empty() && !self.closed {
            match self.stream.write(&self.outbox) {
                Ok(length) => drop(self.outbox.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.closed = true,
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
