//! Bytes between a client and a process, until the process has ended and everything it wrote is delivered.

use super::{
    descriptor::Descriptor,
    session::{Events, Orders, SessionError, Wires},
};
use cairn_streaming::{Input, Output, Stdio};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Bytes copied at once.
const CHUNK: usize = 32 << 10;
/// Longest wait for the end of a stream once its process has ended. It comes at once; this is for a shim that died.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What becomes of a session when the client sends no more input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterInput {
    /// It goes on; the process has seen the end of its input.
    GoOn,
    /// It goes on; the shim is told, and closes the container's input.
    Tell,
    /// It is over.
    Leave,
}

/// How a process's output ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastOutput {
    /// With what is in the pipe when the process has ended. Others may have the pipe, and keep it open for ever.
    Waiting,
    /// With the end of the stream.
    End,
}

/// Copies until the process has ended; its exit status, or none if the client left.
pub(super) async fn relay(
    (mut events, mut orders, wires): (Events, Orders, Wires),
    stdio: Stdio,
    after: AfterInput,
    last: LastOutput,
) -> Result<Option<i32>, SessionError> {
    let Stdio { stdin, stdout, stderr, mut resize } = stdio;
    let exit = CancellationToken::new();
    let outputs = async {
        tokio::join!(deliver(wires.stdout, stdout, &exit, last), deliver(wires.stderr, stderr, &exit, last))
    };
    let ended = async {
        let ended = events.ended().await;
        exit.cancel();
        ended
    };
    let finished = async { tokio::join!(ended, outputs).0.map(Some) };
    let input = async {
        match stdin {
            Some(stdin) => feed(stdin, wires.stdin).await,
            None => {
                // Nobody holds the process's input open.
                drop(wires.stdin);
                std::future::pending().await
            }
        }
        match after {
            AfterInput::Leave => return Ok(None),
            AfterInput::Tell => orders.close_stdin().await?,
            AfterInput::GoOn => {}
        }
        std::future::pending().await
    };
    let resizing = async {
        let terminal = wires.terminal;
        while let Some(size) = resize.recv().await {
            if let Some(Err(error)) =
                terminal.as_ref().map(|terminal| terminal.resize(size.columns, size.rows))
            {
                tracing::debug!("cannot resize a terminal: {error}");
            }
        }
        drop(terminal);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = finished => result,
        result = input => result,
        () = resizing => Ok(None),
    }
}

/// Copies input to its end; then, or when the process wants no more, closes the descriptor.
async fn feed(mut from: Input, to: Option<Descriptor>) {
    let Some(mut to) = to else { return std::future::pending().await };
    let mut buffer = vec![0; CHUNK];
    while let Ok(length) = from.read(&mut buffer).await
        && length > 0
        && to.write_all(&buffer[..length]).await.is_ok()
    {}
}

/// Copies output to its end. When the client is gone the descriptor is closed, which the process notices as it would
/// that of a pipe in a shell.
async fn deliver(from: Option<Descriptor>, to: Option<Output>, exit: &CancellationToken, last: LastOutput) {
    let Some(mut from) = from else { return };
    let mut to = to.unwrap_or_else(|| Box::new(tokio::io::sink()));
    let mut buffer = vec![0; CHUNK];
    let mut left = None;
    loop {
        let read = match left {
            Some(0) => break,
            Some(_) => match timeout(END_TIMEOUT, from.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => break,
            },
            None => tokio::select! {
                biased;
                () = exit.cancelled() => {
                    left = Some(if last == LastOutput::Waiting { from.waiting() } else { u64::MAX });
                    continue;
                }
                read = from.read(&mut buffer) => read,
            },
        };
        let Ok(length @ 1..) = read else { break };
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            return;
        }
        left = left.map(|left| left.saturating_sub(length as u64));
    }
    drop(from);
    let _ = to.shutdown().await;
}
