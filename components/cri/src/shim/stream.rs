//! Where a process's output goes: a log file, or memory.

use super::log::{LineCutter, Log, StreamKind};
use crate::protocol::CAPTURE_LIMIT;
use jiff::Timestamp;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Bytes read at once.
const READ_SIZE: usize = 32 << 10;

/// What is done with the bytes.
#[derive(Debug)]
pub(super) enum Sink {
    /// Cut into lines for the container's log.
    Log(LineCutter),
    /// Kept for the answer to a command.
    Capture(Vec<u8>),
}

/// The reading end of a process's output.
#[derive(Debug)]
pub(super) struct Stream {
    /// Closed (`None`) once the other side is.
    pub(super) fd: Option<OwnedFd>,
    sink: Sink,
}

impl Stream {
    /// A stream into the container's log. `fd` must not block.
    pub(super) fn logged(fd: OwnedFd, kind: StreamKind) -> Self {
        Self { fd: Some(fd), sink: Sink::Log(LineCutter::new(kind)) }
    }

    /// A stream into memory. `fd` must not block.
    pub(super) fn captured(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), sink: Sink::Capture(Vec::new()) }
    }

    /// Reads once. False when there is nothing to read now, or ever.
    pub(super) fn pump(&mut self, log: Option<&mut Log>) -> bool {
        let Some(fd) = &self.fd else { return false };
        let mut buffer = [0; READ_SIZE];
        let bytes = match rustix::io::read(fd, &mut buffer) {
            Ok(0) => {
                self.fd = None;
                return false;
            }
            Ok(length) => &buffer[..length],
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => return false,
            // EIO is how a terminal says that its other side is closed.
            Err(_) => {
                self.fd = None;
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
        true
    }

    /// Reads what is there, ends the last line, and closes.
    pub(super) fn finish(&mut self, mut log: Option<&mut Log>) {
        while self.pump(log.as_deref_mut()) {}
        self.fd = None;
        if let Sink::Log(cutter) = &mut self.sink {
            let mut lines = Vec::new();
            cutter.finish(Timestamp::now(), &mut lines);
            write(log, &lines);
        }
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
