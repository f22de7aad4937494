//! The daemon's end of a shim's socket.

use super::life;
use crate::{
    protocol::{self, Envelope, Event, Message, Reply, Request},
    traces,
};
use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Longest a shim may take for what it does at once.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A shim that cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShimError {
    /// The connection is gone, and with it, most likely, the shim.
    #[error("the pod's shim is gone")]
    Gone,
    /// No answer in time.
    #[error("the pod's shim did not answer within {} s", TIMEOUT.as_secs())]
    Silent,
    /// It could not be reached.
    #[error("cannot reach the pod's shim: {0}")]
    Io(#[from] io::Error),
}

type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>>;

/// A connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ShimClient {
    /// Open requests; `None` once the connection is gone.
    pending: Pending,
    writer: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    next: Arc<AtomicU64>,
}

impl ShimClient {
    /// Connects. Events come out of the receiver, which ends when the shim is gone.
    pub(super) async fn connect(socket: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>), ShimError> {
        let stream = UnixStream::connect(socket).await?;
        let life = life::of_peer(&stream)?;
        let (reader, writer) = stream.into_split();
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events, receiver) = mpsc::unbounded_channel();
        let client = Self {
            pending: Arc::clone(&pending),
            writer: Arc::new(writer.into()),
            next: Arc::new(AtomicU64::new(1)),
        };
        tokio::spawn(async move {
            if let Err(error) = read_messages(reader, &life, &pending, &events).await {
                tracing::warn!("a shim's connection broke: {error}");
            }
            // Dropping the senders wakes everyone who waits for an answer.
            pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        Ok((client, receiver))
    }

    /// Asks, and waits for the answer for the usual time.
    pub(super) async fn ask(&self, request: Request) -> Result<Reply, ShimError> {
        let span = span(&request);
        let answer = async { timeout(TIMEOUT, self.exchange(request)).await.map_err(|_| ShimError::Silent)? };
        traces::step(span, &[], answer).await
    }

    /// Asks, and waits for the answer as long as the shim lives.
    pub(super) async fn ask_patiently(&self, request: Request) -> Result<Reply, ShimError> {
        traces::step(span(&request), &[], self.exchange(request)).await
    }

    async fn exchange(&self, request: Request) -> Result<Reply, ShimError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = protocol::encode(&Envelope { id, request })?;
        let (sender, receiver) = oneshot::channel();
        match self.pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(ShimError::Gone),
        };
        self.writer.lock().await.write_all(&frame).await.map_err(|_| ShimError::Gone)?;
        let reply = receiver.await.map_err(|_| ShimError::Gone)?;
        if let Reply::Failed(reason) = &reply {
            traces::fail(reason);
        }
        Ok(reply)
    }
}

/// What a request is called in a trace.
fn span(request: &Request) -> &'static str {
    match request {
        Request::Inspect => "shim inspect",
        Request::Start(_) => "shim start",
        Request::ExecSync(_) => "shim exec sync",
        Request::Exec(_) => "shim exec",
        Request::Attach(_) => "shim attach",
        Request::CloseStdin => "shim close stdin",
        Request::Signal { .. } => "shim signal",
        Request::ReopenLog { .. } => "shim reopen log",
        Request::Forget { .. } => "shim forget",
        Request::Shutdown => "shim shutdown",
    }
}

async fn read_messages(
    mut reader: OwnedReadHalf,
    life: &AsyncFd<OwnedFd>,
    pending: &Pending,
    events: &mpsc::UnboundedSender<Event>,
) -> io::Result<()> {
    let mut inbox = Vec::new();
    loop {
        while let Some(message) = protocol::decode::<Message>(&mut inbox)? {
            match message {
                Message::Event(event) => drop(events.send(event)),
                Message::Reply { id, reply } => {
                    let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(sender) = pending.as_mut().and_then(|pending| pending.remove(&id)) {
                        // The asker may have given up.
                        let _ = sender.send(reply);
                    }
                }
            }
        }
        let length = tokio::select! {
            biased; // what a shim said before its end counts
            read = reader.read_buf(&mut inbox) => read?,
            ended = life.readable() => return ended.map(drop),
        };
        if length == 0 {
            return Ok(());
        }
    }
}
