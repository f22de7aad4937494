//! A [`Session`] over a socket: a task that reads, and callers that write and wait.

use crate::{
    message::Status,
    session::{Called, Incoming, Role, Session, code},
    ttrpc,
};
use bytes::Bytes;
use prost::Message;
use rustix::net::{Shutdown, shutdown};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Calls of the other end that may wait; one that makes more of them than it lets us answer waits to be read.
const BACKLOG: usize = 16;
const READ_SIZE: usize = 16 << 10;

/// A call that brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The other end is gone.
    #[error("the connection is closed")]
    Closed,
    /// No answer in time. The connection is closed then: half a request may be on its way.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer is not the message that it should be.
    #[error("the answer makes no sense: {0}")]
    Malformed(String),
    /// The request is longer than the protocol allows.
    #[error("the request is {0}")]
    TooLong(#[from] ttrpc::TooLong),
    /// The other end says no.
    #[error("{}", .0.message)]
    Refused(Status),
}

impl CallError {
    /// The other end says that it has no such method.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == code::UNIMPLEMENTED)
    }
}

type Answer = Result<Bytes, Status>;

/// A connection. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` once it is closed.
    session: Mutex<Option<Session<oneshot::Sender<Answer>>>>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    /// The socket again, to end what reads and writes it.
    socket: OwnedFd,
}

/// A call of the other end, to be answered.
#[derive(Debug)]
pub struct Request {
    called: Called,
    connection: Connection,
}

impl Request {
    /// The service it is for.
    pub fn service(&self) -> &str {
        &self.called.service
    }

    /// The method of it.
    pub fn method(&self) -> &str {
        &self.called.method
    }

    /// The request message.
    ///
    /// # Errors
    /// What to answer if it is none.
    pub fn message<M: Message + Default>(&self) -> Result<M, Status> {
        M::decode(self.called.payload.as_ref())
            .map_err(|error| Status::new(code::INVALID_ARGUMENT, format!("{}: {error}", self.called.method)))
    }

    /// Answers it. One who is gone needs no answer.
    pub async fn answer<M: Message>(self, answer: Result<M, Status>) {
        let answer = answer.map(|message| message.encode_to_vec());
        let shared = &self.connection.shared;
        let bytes = lock(&shared.session).as_ref().map(|session| session.answer(self.called.stream, answer));
        if let Some(bytes) = bytes {
            shared.write(&bytes).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Takes over a socket. The other end's calls come out of the receiver, which ends with the connection.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub fn open(socket: UnixStream, role: Role) -> io::Result<(Self, mpsc::Receiver<Request>)> {
        let again = socket.as_fd().try_clone_to_owned()?;
        let (reader, writer) = socket.into_split();
        let shared = Arc::new(Shared {
            session: Mutex::new(Some(Session::new(role))),
            writer: writer.into(),
            socket: again,
        });
        let (calls, receiver) = mpsc::channel(BACKLOG);
        let connection = Self { shared };
        tokio::spawn(connection.clone().read(reader, calls));
        Ok((connection, receiver))
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// See [`CallError`]. After [`CallError::TimedOut`] the connection is closed.
    pub async fn call<M: Message + Default>(
        &self,
        service: &str,
        method: &str,
        request: &impl Message,
        limit: Duration,
    ) -> Result<M, CallError> {
        let payload = request.encode_to_vec();
        let asked = timeout(limit, self.ask(service, method, payload, limit)).await;
        let answer = asked.unwrap_or_else(|_| {
            self.close();
            Err(CallError::TimedOut(limit))
        })?;
        M::decode(answer.as_ref()).map_err(|error| CallError::Malformed(error.to_string()))
    }

    async fn ask(
        &self,
        service: &str,
        method: &str,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<Bytes, CallError> {
        let (waiter, answer) = oneshot::channel();
        {
            // Streams are numbered in the order in which they are sent.
            let mut writer = self.shared.writer.lock().await;
            let bytes = match lock(&self.shared.session).as_mut() {
                Some(session) => session.call(service, method, payload, limit, waiter)?,
                None => return Err(CallError::Closed),
            };
            if writer.write_all(&bytes).await.is_err() {
                self.close();
            }
        }
        answer.await.map_err(|_| CallError::Closed)?.map_err(CallError::Refused)
    }

    /// Ends it for both ends; whoever waits learns of it.
    pub fn close(&self) {
        if lock(&self.shared.session).take().is_some() {
            // Already shut down by the other end is as good.
            let _ = shutdown(&self.shared.socket, Shutdown::Both);
        }
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        lock(&self.shared.session).is_none()
    }

    async fn read(self, mut reader: OwnedReadHalf, calls: mpsc::Sender<Request>) {
        let mut buffer = vec![0; READ_SIZE];
        'reading: while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            let received = match lock(&self.shared.session).as_mut() {
                Some(session) => session.receive(&buffer[..length]),
                None => break,
            };
            let incoming = received.unwrap_or_else(|error| {
                tracing::warn!("the NRI connection is closed: {error}");
                self.close();
                Vec::new()
            });
            for what in incoming {
                match what {
                    // One who has stopped waiting does not miss it.
                    Incoming::Answered { waiter, answer } => drop(waiter.send(answer)),
                    Incoming::Refused(bytes) => self.shared.write(&bytes).await,
                    Incoming::Called(called) => {
                        let request = Request { called, connection: self.clone() };
                        if calls.send(request).await.is_err() {
                            break 'reading;
                        }
                    }
                }
            }
        }
        self.close();
    }
}

impl Shared {
    async fn write(&self, bytes: &[u8]) {
        // One who cannot be written to is found gone by the reader.
        let _ = self.writer.lock().await.write_all(bytes).await;
    }
}
