//! The daemon's end of a session: a connection to a pod's shim, and the descriptors that come over it.

use super::descriptor::Descriptor;
use crate::protocol::{self, Envelope, Event, Message, Reply, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// Longest a shim may take to start a command.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Most descriptors in one message.
const DESCRIPTORS: usize = 4;

/// A session that could not be had, or broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The shim says why.
    #[error("{0}")]
    Refused(String),
    /// The container ended just now.
    #[error("the container is not running")]
    NotRunning,
    /// The shim closed the connection.
    #[error(
        "the pod's shim ended the session: it died, or it is from an older version of this runtime, which had none; \
         then start the pod anew"
    )]
    Gone,
    /// No answer in time.
    #[error("the pod's shim did not answer within {} s", TIMEOUT.as_secs())]
    Silent,
    /// It said something else than it should.
    #[error("the pod's shim answered something else")]
    Confused,
    /// It could not be reached.
    #[error("cannot reach the pod's shim: {0}")]
    Io(#[from] io::Error),
}

/// What a session is about: the streams of a process.
#[derive(Debug, Default)]
pub(super) struct Wires {
    /// To write to.
    pub(super) stdin: Option<Descriptor>,
    /// To read.
    pub(super) stdout: Option<Descriptor>,
    /// To read.
    pub(super) stderr: Option<Descriptor>,
    /// To resize; for a command also to read and write.
    pub(super) terminal: Option<Descriptor>,
}

/// A session's events.
#[derive(Debug)]
pub(super) struct Events {
    reader: OwnedReadHalf,
    inbox: Vec<u8>,
}

/// A session's requests.
#[derive(Debug)]
pub(super) struct Orders {
    writer: OwnedWriteHalf,
}

/// Opens a session with the shim that listens at `socket`.
pub(super) async fn open(socket: &Path, request: Request) -> Result<(Events, Orders, Wires), SessionError> {
    timeout(TIMEOUT, try_open(socket, request)).await.map_err(|_| SessionError::Silent)?
}

async fn try_open(socket: &Path, request: Request) -> Result<(Events, Orders, Wires), SessionError> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&protocol::encode(&Envelope { id: 1, request })?).await?;
    let (mut inbox, mut received) = (Vec::new(), Vec::new());
    let reply = loop {
        if let Some(message) = protocol::decode::<Message>(&mut inbox)? {
            match message {
                Message::Reply { reply, .. } => break reply,
                // The shim did not know yet that this is a session.
                Message::Event(_) => continue,
            }
        }
        let receive = || receive(&stream, &mut inbox, &mut received);
        if stream.async_io(Interest::READABLE, receive).await? == 0 {
            return Err(SessionError::Gone);
        }
    };
    let names = match reply {
        Reply::Opened { descriptors } => descriptors,
        Reply::Failed(reason) => return Err(SessionError::Refused(reason)),
        Reply::NotFound => return Err(SessionError::NotRunning),
        _ => return Err(SessionError::Confused),
    };
    if names.len() != received.len() {
        return Err(SessionError::Confused);
    }
    let mut wires = Wires::default();
    for (name, fd) in names.into_iter().zip(received) {
        let place = match name {
            protocol::Descriptor::Stdin => &mut wires.stdin,
            protocol::Descriptor::Stdout => &mut wires.stdout,
            protocol::Descriptor::Stderr => &mut wires.stderr,
            protocol::Descriptor::Terminal => &mut wires.terminal,
        };
        *place = Some(Descriptor::new(fd)?);
    }
    let (reader, writer) = stream.into_split();
    Ok((Events { reader, inbox }, Orders { writer }, wires))
}

/// Reads once, bytes and descriptors.
fn receive(stream: &UnixStream, inbox: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let length = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    inbox.extend_from_slice(&bytes[..length]);
    Ok(length)
}

impl Events {
    /// Waits for the end of the command or container: its exit status. It loses nothing when dropped half-way.
    pub(super) async fn ended(&mut self) -> Result<i32, SessionError> {
        loop {
            while let Some(message) = protocol::decode::<Message>(&mut self.inbox)? {
                match message {
                    Message::Event(Event::Ended { code }) => return Ok(code),
                    Message::Event(Event::Detached { reason }) => {
                        return Err(SessionError::Refused(reason));
                    }
                    Message::Event(Event::Exited { .. }) | Message::Reply { .. } => {}
                }
            }
            if self.reader.read_buf(&mut self.inbox).await? == 0 {
                return Err(SessionError::Gone);
            }
        }
    }
}

impl Orders {
    /// Tells that the client sends no more input.
    pub(super) async fn close_stdin(&mut self) -> Result<(), SessionError> {
        let request = Request::CloseStdin;
        Ok(self.writer.write_all(&protocol::encode(&Envelope { id: 2, request })?).await?)
    }
}
