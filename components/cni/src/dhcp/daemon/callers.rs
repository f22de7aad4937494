//! Connections of plugins: read without waiting, answered when there is an answer.

use super::attachment::Name;
use crate::dhcp::{
    call::{Call, Reply},
    client::Moment,
};
use crate::protocol::error::{CniError, Code};
use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

/// No configuration is larger.
const LARGEST: usize = 1 << 20;
/// A plugin has its request ready when it comes.
const READING: Duration = Duration::from_secs(10);
const WRITING: Duration = Duration::from_secs(1);

/// A plugin that waits for its answer.
#[derive(Debug)]
pub(super) struct Caller {
    stream: UnixStream,
    input: Vec<u8>,
    deadline: Moment,
    /// Whose leases it waits for, once it has said what it wants.
    pub(super) waits_for: Option<Name>,
}

/// What came of reading.
#[derive(Debug)]
pub(super) enum Heard {
    /// It has not finished.
    Nothing,
    /// This.
    Call(Box<Call>),
    /// Something else.
    Nonsense(CniError),
}

impl Caller {
    pub(super) fn new(stream: UnixStream, now: Moment) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, input: Vec::new(), deadline: now + READING, waits_for: None })
    }

    /// When it has taken too long to say what it wants.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.waits_for.is_none().then_some(self.deadline)
    }

    pub(super) fn read(&mut self) -> Heard {
        let nonsense = |message: String| Heard::Nonsense(CniError::new(Code::Decoding, message));
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    return match serde_json::from_slice(&self.input) {
                        Ok(call) => Heard::Call(call),
                        Err(error) => nonsense(format!("not a request of the dhcp plugin: {error}")),
                    };
                }
                Ok(length) => self.input.extend(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return nonsense(format!("reading a request: {error}")),
            }
            if self.input.len() > LARGEST {
                return nonsense(format!("a request of more than {LARGEST} bytes"));
            }
        }
    }

    /// Answers and hangs up. Whether the plugin took the answer.
    pub(super) fn answer(mut self, reply: &Reply) -> bool {
        let written = self
            .stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.set_write_timeout(Some(WRITING)))
            .and_then(|()| serde_json::to_vec(reply).map_err(io::Error::from))
            .and_then(|bytes| self.stream.write_all(&bytes));
        written.is_ok()
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
