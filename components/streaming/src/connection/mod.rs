//! An upgraded connection: a [`Driver`] that moves bytes between the socket and the protocol's machine, and [`Streams`], by which
//! everybody else sees what came and sends what goes. Both hold the machine behind one lock, which is never held
//! across a wait.
//!
//! The driver reads only while there is room for what it reads ([`Shared::is_full`]). While it does not, it would not see the client
//! hang up either, so it asks the socket about that every second.

mod handle;
mod lanes;

use crate::{
    link::Link,
    spdy::{Event, frame::ResetStatus, headers::Headers},
};
pub(crate) use handle::{InputHandle, OutputHandle};
use lanes::Lanes;
use rustix::event::{PollFd, PollFlags};
use std::{
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Interval, MissedTickBehavior, Sleep, interval, sleep},
};

/// What all writers together may leave unsent.
const OUTPUT_LIMIT: usize = 64 << 10;
/// Unsent bytes beyond which nothing is read: replies to a peer that asks and does not listen.
const REPLIES_LIMIT: usize = 256 << 10;
/// Bytes read at once.
const READ_SIZE: usize = 32 << 10;
/// How often a socket that is not read is asked whether its client is gone.
const HANGUP_CHECK: Duration = Duration::from_secs(1);
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it.
    Closed,
    /// The client broke the protocol.
    Broken(String),
    /// Nothing moved for too long.
    Idle,
    /// We closed it.
    Ours,
}

/// A stream that the client has opened.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) stream: u32,
    pub(crate) headers: Headers,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    lanes: Lanes,
    driver: Option<Waker>,
    /// We are done: send what there is to send, and close.
    closing: bool,
    /// The client will open no more streams.
    gone_away: bool,
    /// There is no connection any more.
    closed: bool,
}

impl Shared {
    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Whether there is no room for what would be read.
    fn is_full(&mut self) -> bool {
        self.lanes.is_full() || self.link.output().len() >= REPLIES_LIMIT
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Self { link, lanes, gone_away, .. } = self;
        let mut discarded = Vec::new();
        let result = link.receive(bytes, &mut |event| match event {
            Event::GoneAway => *gone_away = true,
            Event::Data { stream, bytes } if !lanes.push(stream, bytes) => {
                discarded.push((stream, bytes.len()));
            }
            event => lanes.note(event),
        });
        for (stream, count) in discarded {
            link.consume(stream, count);
        }
        lanes.tidy(|stream| link.is_open(stream));
        result.map_err(|error| error.to_string())
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a connection of a protocol and a socket. `socket`, if it is one, tells of a hangup while nothing is read.
pub(crate) fn connect<T>(
    link: Link,
    io: T,
    socket: Option<Arc<OwnedFd>>,
    idle: Duration,
) -> (Streams, Driver<T>) {
    let shared = Arc::new(Mutex::new(Shared {
        link,
        lanes: Lanes::default(),
        driver: None,
        closing: false,
        gone_away: false,
        closed: false,
    }));
    let mut hangup = interval(HANGUP_CHECK);
    hangup.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let driver = Driver {
        io,
        shared: Arc::clone(&shared),
        socket,
        buffer: vec![0; READ_SIZE].into_boxed_slice(),
        idle,
        active: Instant::now(),
        timer: Box::pin(sleep(idle)),
        hangup,
        farewell: None,
        broken: None,
    };
    (Streams(shared), driver)
}

/// The streams of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Mutex<Shared>>);

impl Streams {
    /// Waits for the client to open a stream. Never ready once the connection is closed: whoever waits is dropped with it.
    pub(crate) async fn arrival(&self) -> Arrival {
        std::future::poll_fn(|context| {
            let mut shared = lock(&self.0);
            shared.lanes.poll_arrival(context)
        })
        .await
    }

    /// Accepts it.
    pub(crate) fn accept(&self, stream: u32) -> (InputHandle, OutputHandle) {
        let mut shared = lock(&self.0);
        shared.link.accept(stream);
        shared.lanes.take_handles(stream);
        shared.wake_driver();
        (InputHandle::new(&self.0, stream), OutputHandle::new(&self.0, stream))
    }

    /// Closes a stream in both directions, if it is open.
    pub(crate) fn reset(&self, stream: u32, status: ResetStatus) {
        let mut shared = lock(&self.0);
        shared.link.reset(stream, status);
        shared.lanes.reset(stream);
        let Shared { link, lanes, .. } = &mut *shared;
        lanes.tidy(|stream| link.is_open(stream));
        shared.wake_driver();
    }

    /// Ends a stream in our direction, whoever holds its [`OutputHandle`].
    pub(crate) fn finish(&self, stream: u32) {
        let mut shared = lock(&self.0);
        shared.link.finish(stream);
        shared.lanes.wake_writer(stream);
        shared.wake_driver();
    }

    /// Throws away what was not read of a stream and what still comes.
    pub(crate) fn discard(&self, stream: u32) {
        let mut shared = lock(&self.0);
        let count = shared.lanes.discard(stream);
        shared.link.consume(stream, count);
        shared.wake_driver();
    }

    /// Says goodbye, and leaves the closing to the client.
    pub(crate) fn say_goodbye(&self) {
        let mut shared = lock(&self.0);
        shared.link.go_away();
        shared.wake_driver();
    }

    /// Says goodbye; the driver closes the connection once all is sent.
    pub(crate) fn close(&self) {
        let mut shared = lock(&self.0);
        shared.link.go_away();
        shared.closing = true;
        shared.wake_driver();
    }

    /// A stream that both ends know from the beginning.
    #[cfg(test)]
    pub(crate) fn channel(&self, stream: u32) -> (InputHandle, OutputHandle) {
        self.accept(stream)
    }

    /// Does something with the protocol itself.
    #[cfg(test)]
    pub(crate) fn with_link(&self, act: impl FnOnce(&mut Link)) {
        let mut shared = lock(&self.0);
        act(&mut shared.link);
        shared.wake_driver();
    }

    /// Opens a stream, as clients do.
    #[cfg(test)]
    pub(crate) fn open(&self, headers: &Headers) -> (u32, InputHandle, OutputHandle) {
        let mut shared = lock(&self.0);
        let stream = shared.link.open(headers).expect("numbers");
        shared.lanes.take_handles(stream);
        shared.wake_driver();
        (stream, InputHandle::new(&self.0, stream), OutputHandle::new(&self.0, stream))
    }
}

/// Moves bytes until the connection has ended, and says how it did. It does nothing unless polled, and ends the
/// connection when dropped.
#[derive(Debug)]
pub(crate) struct Driver<T> {
    io: T,
    shared: Arc<Mutex<Shared>>,
    socket: Option<Arc<OwnedFd>>,
    buffer: Box<[u8]>,
    idle: Duration,
    active: Instant,
    timer: Pin<Box<Sleep>>,
    hangup: Interval,
    farewell: Option<Pin<Box<Sleep>>>,
    broken: Option<String>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(end) = this.poll_write(context) {
                return Poll::Ready(end);
            }
            match this.poll_read(context) {
                Poll::Ready(Some(end)) => return Poll::Ready(end),
                Poll::Ready(None) => {}
                Poll::Pending => break,
            }
        }
        if this.timer.as_mut().poll(context).is_ready() {
            let until = this.active + this.idle;
            if until <= Instant::now() {
                return Poll::Ready(End::Idle);
            }
            this.timer.as_mut().reset(until);
            context.waker().wake_by_ref(); // so that the timer is polled with its new time
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Sends what there is. Ready: the connection has ended.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<End> {
        let mut shared = lock(&self.shared);
        shared.driver = Some(context.waker().clone());
        let mut sent = false;
        loop {
            let output = shared.link.output();
            if output.is_empty() {
                break;
            }
            match Pin::new(&mut self.io).poll_write(context, output) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    shared.link.advance(count);
                    sent = true;
                }
                Poll::Ready(_) => return Poll::Ready(End::Closed),
                Poll::Pending => break,
            }
        }
        if sent {
            self.active = Instant::now();
            shared.lanes.wake_writers();
        }
        let all_sent = shared.link.output().is_empty();
        let closing = shared.closing || self.broken.is_some();
        drop(shared);
        if all_sent && let Poll::Ready(Err(_)) = Pin::new(&mut self.io).poll_flush(context) {
            return Poll::Ready(End::Closed);
        }
        if !closing {
            return Poll::Pending;
        }
        // The last words: sent, or given up.
        let farewell = self.farewell.get_or_insert_with(|| Box::pin(sleep(FAREWELL)));
        let given_up = farewell.as_mut().poll(context).is_ready();
        if !given_up {
            if !all_sent {
                return Poll::Pending;
            }
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(context));
        }
        Poll::Ready(self.broken.take().map_or(End::Ours, End::Broken))
    }

    /// Reads once. Ready with None: and there may be more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<End>> {
        let mut shared = lock(&self.shared);
        if shared.closing || self.broken.is_some() {
            return Poll::Pending;
        }
        if shared.gone_away && shared.link.is_idle() {
            // What was not sent by now, the answer to a goodbye at most, may fail to be.
            return Poll::Ready(Some(End::Closed));
        }
        if shared.is_full() {
            drop(shared);
            while self.hangup.poll_tick(context).is_ready() {
                if self.socket.as_deref().is_some_and(hung_up) {
                    return Poll::Ready(Some(End::Closed));
                }
            }
            return Poll::Pending;
        }
        drop(shared);
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => {
                self.active = Instant::now();
                self.broken = lock(&self.shared).receive(buffer.filled()).err();
                Poll::Ready(None)
            }
            _ => Poll::Ready(Some(End::Closed)),
        }
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.closed = true;
        shared.lanes.wake_all();
    }
}

/// Whether the client has closed its side, though there may be bytes before that which nobody has read.
fn hung_up(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    rustix::event::poll(&mut fds, Some(&rustix::time::Timespec::default())).is_ok()
        && fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}
