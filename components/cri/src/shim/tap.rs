//! An attached client's share in a container's output.
//!
//! A tap is a pipe whose other end the client's daemon holds. The log comes first: what a tap is offered is written
//! there already. When the pipe is full, the container's output waits for it, as under other runtimes, so that a
//! client gets every byte of a burst; but it waits no longer than [`PATIENCE`] for one read of [`READ_SIZE`]. A client
//! that takes less is cut off, so it can slow a log to 32 KiB a second, and never stop it.
//!
//! [`READ_SIZE`]: super::stream::READ_SIZE

use rustix::io::Errno;
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Longest that the container's output waits for one client.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest that the last output of a container is kept for a client.
const LINGER: Duration = Duration::from_secs(30);

/// The writing end, and what did not fit.
#[derive(Debug)]
pub(super) struct Tap {
    /// The client's session.
    pub(super) connection: u64,
    fd: OwnedFd,
    pending: Vec<u8>,
    deadline: Option<Instant>,
    gone: bool,
}

impl Tap {
    /// A tap for the client of a session. `fd` must not block.
    pub(super) fn new(connection: u64, fd: OwnedFd) -> Self {
        Self { connection, fd, pending: Vec::new(), deadline: None, gone: false }
    }

    /// The pipe, while there is something that did not fit.
    pub(super) fn clogged(&self) -> Option<&OwnedFd> {
        (!self.pending.is_empty()).then_some(&self.fd)
    }

    /// When it is cut off.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Nobody reads the other end.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Hands over `bytes`, or keeps what does not fit.
    pub(super) fn offer(&mut self, bytes: &[u8]) {
        let taken = if self.pending.is_empty() { self.write(bytes) } else { 0 };
        if taken < bytes.len() && !self.gone {
            self.pending.extend_from_slice(&bytes[taken..]);
            self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }

    /// Hands over what was kept, as far as it fits now.
    pub(super) fn deliver(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let taken = self.write(&pending);
        if taken < pending.len() && !self.gone {
            self.pending = pending;
            self.pending.drain(..taken);
        } else {
            self.deadline = None;
        }
    }

    /// There is nothing to come: what is kept holds nobody up any more.
    pub(super) fn linger(&mut self) {
        self.deadline = Some(Instant::now() + LINGER);
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            match rustix::io::write(&self.fd, &bytes[taken..]) {
                Ok(length) => taken += length,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stdio, *};

    fn read(fd: &OwnedFd, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let count = rustix::io::read(fd, &mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    #[test]
    fn what_does_not_fit_is_kept_in_order() {
        let (theirs, ours) = stdio::tap().unwrap();
        let mut tap = Tap::new(1, ours);
        let all: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        tap.offer(&all[..100_000]);
        assert!(tap.clogged().is_some() && tap.deadline().is_some());
        tap.offer(&all[100_000..]);
        let mut seen = Vec::new();
        while seen.len() < all.len() {
            seen.extend(read(&theirs, 10_000));
            tap.deliver();
        }
        assert!(seen == all && tap.clogged().is_none() && tap.deadline().is_none());
        drop(theirs);
        tap.offer(b"x");
        assert!(tap.is_gone());
    }
}
