//! Where a process's output goes: a log file and attached clients, or memory.

use super::{
    log::{LineCutter, Log, StreamKind},
    tap::Tap,
};
use crate::protocol::CAPTURE_LIMIT;
use jiff::Timestamp;
use rustix::io::Errno;
use std::{os::fd::OwnedFd, time::Instant};

/// Bytes read at once.
pub(super) const READ_SIZE: usize = 32 << 10;
/// Reads after the end of the process: more than a pipe holds. Who else has the pipe may go on writing for ever.
const LAST_READS: usize = 64;

/// What is done with the bytes.
#[derive(Debug)]
enum Sink {
    /// Cut into lines for the container's log.
    Log(LineCutter),
    /// Kept for the answer to a command.
    Capture(Vec<u8>),
}

/// The reading end of a process's output.
#[derive(Debug)]
pub(super) struct Stream {
    /// Closed (`None`) once the other side is.
    fd: Option<OwnedFd>,
    sink: Sink,
    taps: Vec<Tap>,
}

impl Stream {
    /// A stream into the container's log. `fd` must not block.
    pub(super) fn logged(fd: OwnedFd, kind: StreamKind) -> Self {
        Self { fd: Some(fd), sink: Sink::Log(LineCutter::new(kind)), taps: Vec::new() }
    }

    /// A stream into memory. `fd` must not block.
    pub(super) fn captured(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), sink: Sink::Capture(Vec::new()), taps: Vec::new() }
    }

    /// The descriptor, unless closed.
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// The descriptor, if it is to be read.
    pub(super) fn to_read(&self) -> Option<&OwnedFd> {
        self.fd.as_ref().filter(|_| self.to_write().next().is_none())
    }

    /// Clients' pipes that are full.
    pub(super) fn to_write(&self) -> impl Iterator<Item = &OwnedFd> {
        self.taps.iter().filter_map(Tap::clogged)
    }

    /// When a client is to be cut off.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.taps.iter().filter_map(Tap::deadline).min()
    }

    /// Gives a client what comes from now on.
    pub(super) fn tap(&mut self, tap: Tap) {
        if self.fd.is_some() {
            self.taps.push(tap);
        }
    }

    /// The client of a session wants no more.
    pub(super) fn untap(&mut self, connection: u64) {
        self.taps.retain(|tap| tap.connection != connection);
    }

    /// Cuts clients off that took too long; their sessions.
    pub(super) fn cut_off(&mut self, now: Instant) -> Vec<u64> {
        let overdue = |tap: &mut Tap| tap.deadline().is_some_and(|deadline| deadline <= now);
        self.taps.extract_if(.., overdue).map(|tap| tap.connection).collect()
    }

    /// Does what can be done without waiting.
    pub(super) fn pump(&mut self, log: Option<&mut Log>) {
        self.taps.iter_mut().for_each(Tap::deliver);
        self.settle();
        if self.to_read().is_some() {
            self.read(log);
        }
    }

    /// Reads once. False when there is nothing to read now, or ever.
    fn read(&mut self, log: Option<&mut Log>) -> bool {
        let Some(fd) = &self.fd else { return false };
        let mut buffer = [0; READ_SIZE];
        let bytes = match rustix::io::read(fd, &mut buffer) {
            Ok(length) if length > 0 => &buffer[..length],
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => return false,
            // EIO is how a terminal says that its other side is closed.
            Ok(_) | Err(_) => {
                self.close();
                return false;
            }
        };
        match &mut self.sink {
            Sink::Log(cutter) => {
                let mut lines = Vec::with_capacity(bytes.len() + 64);
                cutter.push(bytes, Timestamp::now(), &mut lines);
                write(log, &lines);
            }
            Sink::Capture(kept) => {
                let room = CAPTURE_LIMIT.saturating_sub(kept.len());
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        self.taps.iter_mut().for_each(|tap| tap.offer(bytes));
        self.settle();
        true
    }

    /// The process has ended: reads what it left, ends the last line, and closes.
    pub(super) fn finish(&mut self, mut log: Option<&mut Log>) {
        for _ in 0..LAST_READS {
            if !self.read(log.as_deref_mut()) {
                break;
            }
        }
        self.close();
        if let Sink::Log(cutter) = &mut self.sink {
            let mut lines = Vec::new();
            cutter.finish(Timestamp::now(), &mut lines);
            write(log, &lines);
        }
    }

    fn close(&mut self) {
        self.fd = None;
        self.settle();
        self.taps.iter_mut().for_each(Tap::linger);
    }

    /// Drops the taps that nobody reads, and after the end those that have got all.
    fn settle(&mut self) {
        let ended = self.fd.is_none();
        self.taps.retain(|tap| !(tap.is_gone() || ended && tap.clogged().is_none()));
    }

    /// What was captured.
    pub(super) fn into_captured(self) -> Vec<u8> {
        match self.sink {
            Sink::Capture(bytes) => bytes,
            Sink::Log(_) => Vec::new(),
        }
    }
}

fn write(log: Option<&mut Log>, lines: &[u8]) {
    if let Some(log) = log
        && let Err(error) = log.write(lines)
    {
        tracing::warn!("output is lost, the log cannot be written: {error}");
    }
}
