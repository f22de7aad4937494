//! The two directions of a stream, as tokio reads and writes.

use super::{OUTPUT_LIMIT, Shared, lanes::Taken, lock};
use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the client sends on a stream.
#[derive(Debug)]
pub(crate) struct InputHandle {
    shared: Arc<Mutex<Shared>>,
    stream: u32,
}

impl InputHandle {
    pub(super) fn new(shared: &Arc<Mutex<Shared>>, stream: u32) -> Self {
        Self { shared: Arc::clone(shared), stream }
    }
}

impl AsyncRead for InputHandle {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut shared = lock(&self.shared);
        match shared.lanes.take(self.stream, buffer) {
            Taken::Bytes(count) => {
                shared.link.consume(self.stream, count);
                shared.wake_driver();
                Poll::Ready(Ok(()))
            }
            Taken::End => Poll::Ready(Ok(())),
            Taken::Reset => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            Taken::Nothing if shared.closed => Poll::Ready(Err(ErrorKind::ConnectionAborted.into())),
            Taken::Nothing => {
                shared.lanes.wait_to_read(self.stream, context.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for InputHandle {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        let count = shared.lanes.drop_input(self.stream);
        shared.link.consume(self.stream, count);
        let Shared { link, lanes, .. } = &mut *shared;
        lanes.tidy(|stream| link.is_open(stream));
        shared.wake_driver();
    }
}

/// What we send on a stream.
#[derive(Debug)]
pub(crate) struct OutputHandle {
    shared: Arc<Mutex<Shared>>,
    stream: u32,
}

impl OutputHandle {
    pub(super) fn new(shared: &Arc<Mutex<Shared>>, stream: u32) -> Self {
        Self { shared: Arc::clone(shared), stream }
    }
}

impl AsyncWrite for OutputHandle {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.shared);
        if shared.closed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = OUTPUT_LIMIT.saturating_sub(shared.link.output().len());
        match shared.link.send(self.stream, &bytes[..bytes.len().min(room)]) {
            Err(_) => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            Ok(0) if !bytes.is_empty() => {
                shared.lanes.wait_to_write(self.stream, context.waker());
                Poll::Pending
            }
            Ok(count) => {
                shared.wake_driver();
                Poll::Ready(Ok(count))
            }
        }
    }

    /// What was written is on its way: the driver needs no urging.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.shared);
        shared.link.finish(self.stream);
        shared.wake_driver();
        Poll::Ready(Ok(()))
    }
}

impl Drop for OutputHandle {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.link.finish(self.stream);
        shared.lanes.drop_output(self.stream);
        let Shared { link, lanes, .. } = &mut *shared;
        lanes.tidy(|stream| link.is_open(stream));
        shared.wake_driver();
    }
}
