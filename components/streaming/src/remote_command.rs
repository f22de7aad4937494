//! exec and attach: which stream is what, and how it ends.
//!
//! The client opens a stream for each thing it was granted, and says which by the header `streamtype`: `error`, always, and
//! `stdin`, `stdout`, `stderr`, and `resize` with a terminal from version 3 on. When all are there, the runtime takes
//! over. When it is done, output ends, then the status is written to the error stream, and then **we wait for the client to
//! close the connection**: if we closed it, bytes of a client that is still sending would make the kernel throw away what that client
//! has yet to read.

use crate::{
    connection::{InputHandle, OutputHandle, Streams},
    negotiate::CommandVersion,
    request::{Attach, Exec, Finish, Runtime, Stdio, TerminalSize},
    spdy::frame::ResetStatus,
    status,
};
use serde::Deserialize;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    sync::mpsc,
    time::timeout,
};

/// Terminal sizes that the runtime has not taken.
const SIZES_WAITING: usize = 4;
/// The longest text that can be a terminal's size.
const SIZE_LIMIT: usize = 1024;

/// What is done.
#[derive(Debug)]
pub(crate) enum Command {
    Exec(Exec),
    Attach(Attach),
}

/// Which streams it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) resize: bool,
}

impl Wanted {
    /// The first channel that we write to.
    pub(crate) fn first_output(self) -> u32 {
        match self {
            Self { stdout: true, .. } => 1,
            Self { stderr: true, .. } => 2,
            _ => STATUS_CHANNEL,
        }
    }
}

impl Command {
    pub(crate) fn wanted(&self, version: CommandVersion) -> Wanted {
        let (tty, stdin, stdout, stderr) = match self {
            Self::Exec(exec) => (exec.tty, exec.stdin, exec.stdout, exec.stderr),
            Self::Attach(attach) => (attach.tty, attach.stdin, attach.stdout, attach.stderr),
        };
        Wanted { stdin, stdout, stderr, resize: tty && version >= CommandVersion::V3 }
    }

    async fn run(self, runtime: &impl Runtime, stdio: Stdio) -> Finish {
        match self {
            Self::Exec(exec) => runtime.exec(exec, stdio).await,
            Self::Attach(attach) => runtime.attach(attach, stdio).await,
        }
    }
}

/// A stream that is only read. Its other direction stays open as long as it is: clients take its end for a sign that nobody reads any
/// more, and stop sending.
#[derive(Debug)]
pub(crate) struct ReadStream {
    input: InputHandle,
    _output: OutputHandle,
}

impl AsyncRead for ReadStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(context, buffer)
    }
}

/// The streams of a command, and the numbers of those that are there.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) error: Option<OutputHandle>,
    pub(crate) stdin: Option<ReadStream>,
    pub(crate) stdout: Option<OutputHandle>,
    pub(crate) stderr: Option<OutputHandle>,
    pub(crate) resize: Option<ReadStream>,
    /// Those that we write to, the error stream aside.
    pub(crate) outputs: Vec<u32>,
    /// Those that we read.
    pub(crate) inputs: Vec<u32>,
    /// The error stream.
    pub(crate) status: Option<u32>,
}

impl Gathered {
    /// Takes a stream, if it is one that is wanted and not there yet.
    fn take(&mut self, streams: &Streams, kind: Option<&str>, stream: u32, wanted: Wanted) -> bool {
        let fits = match kind {
            Some("error") => self.error.is_none(),
            Some("stdin") => wanted.stdin && self.stdin.is_none(),
            Some("stdout") => wanted.stdout && self.stdout.is_none(),
            Some("stderr") => wanted.stderr && self.stderr.is_none(),
            Some("resize") => wanted.resize && self.resize.is_none(),
            _ => false,
        };
        if !fits {
            return false;
        }
        let (input, output) = streams.accept(stream);
        match kind {
            Some("stdin" | "resize") => {
                let slot = if kind == Some("stdin") { &mut self.stdin } else { &mut self.resize };
                *slot = Some(ReadStream { input, _output: output });
                self.inputs.push(stream);
            }
            Some("error") => {
                self.error = Some(output);
                self.status = Some(stream);
            }
            _ => {
                let slot = if kind == Some("stdout") { &mut self.stdout } else { &mut self.stderr };
                *slot = Some(output);
                self.outputs.push(stream);
            }
        }
        true
    }

    fn is_complete(&self, wanted: Wanted) -> bool {
        self.error.is_some()
            && wanted.stdin == self.stdin.is_some()
            && wanted.stdout == self.stdout.is_some()
            && wanted.stderr == self.stderr.is_some()
            && wanted.resize == self.resize.is_some()
    }
}

/// The channel of an exit status, on a WebSocket.
pub(crate) const STATUS_CHANNEL: u32 = 3;
/// The channels there are.
pub(crate) const CHANNELS: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];

/// The streams that are wanted, where all are there from the beginning: as channels.
pub(crate) fn channels(streams: &Streams, wanted: Wanted) -> Gathered {
    let mut gathered = Gathered::default();
    for (kind, number) in CHANNELS.into_iter().zip(0..) {
        gathered.take(streams, Some(kind), number, wanted);
    }
    gathered
}

/// Waits for the streams that are wanted, and refuses others. None: they did not come in time.
pub(crate) async fn gather(streams: &Streams, wanted: Wanted, patience: Duration) -> Option<Gathered> {
    let mut gathered = Gathered::default();
    let all = async {
        while !gathered.is_complete(wanted) {
            let arrival = streams.arrival().await;
            let kind = arrival.headers.get("streamtype");
            if !gathered.take(streams, kind, arrival.stream, wanted) {
                tracing::debug!("a stream of type {kind:?} was not expected");
                streams.reset(arrival.stream, ResetStatus::RefusedStream);
            }
        }
    };
    timeout(patience, all).await.ok()?;
    Some(gathered)
}

/// Runs a command on its streams, and reports how it ended.
pub(crate) async fn serve(
    streams: &Streams,
    mut gathered: Gathered,
    version: CommandVersion,
    command: Command,
    runtime: &impl Runtime,
) {
    let (sizes, resize) = mpsc::channel(SIZES_WAITING);
    let stdio = Stdio {
        stdin: gathered.stdin.take().map(|input| Box::new(input) as _),
        stdout: gathered.stdout.take().map(|output| Box::new(output) as _),
        stderr: gathered.stderr.take().map(|output| Box::new(output) as _),
        resize,
    };
    let running = command.run(runtime, stdio);
    let resizing = read_sizes(gathered.resize.take(), sizes);
    let finish = {
        tokio::pin!(running, resizing);
        let mut resizing_ended = false;
        loop {
            tokio::select! {
                finish = &mut running => break finish,
                () = &mut resizing, if !resizing_ended => resizing_ended = true,
            }
        }
    };
    for stream in gathered.inputs {
        streams.discard(stream);
        streams.reset(stream, ResetStatus::Cancel);
    }
    for stream in gathered.outputs {
        streams.finish(stream);
    }
    if let Some(mut error) = gathered.error {
        // A client that does not listen is gone soon, and then so are we.
        let _ = error.write_all(&status::report(&finish, version)).await;
        let _ = error.shutdown().await;
    }
}

/// What a client writes to the resize stream: one JSON object after another.
#[derive(Debug, Deserialize)]
struct WireSize {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// Passes terminal sizes on, until the client sends none or nonsense.
async fn read_sizes(input: Option<ReadStream>, sizes: mpsc::Sender<TerminalSize>) {
    let Some(mut input) = input else { return };
    let mut text = Vec::new();
    while let Ok(1..) = input.read_buf(&mut text).await {
        let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<WireSize>();
        let mut last = None;
        loop {
            match objects.next() {
                Some(Ok(size)) => last = Some(TerminalSize { columns: size.width, rows: size.height }),
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(error)) => {
                    tracing::debug!("the client sent a terminal size that is none: {error}");
                    return;
                }
                None => break,
            }
        }
        let done = objects.byte_offset();
        text.drain(..done);
        // Of sizes that came together only the last matters.
        if let Some(size) = last
            && sizes.send(size).await.is_err()
        {
            return;
        }
        if text.len() > SIZE_LIMIT {
            return;
        }
    }
}
