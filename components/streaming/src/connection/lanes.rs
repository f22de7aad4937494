//! What the connection keeps for each stream: bytes that were not read yet, and who waits.

use super::Arrival;
use crate::spdy::{Event, SESSION_WINDOW, STREAM_WINDOW};
use bytes::{Buf, BytesMut};
use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll, Waker},
};

/// Unread bytes of all streams beyond which nothing is read from the socket.
const TOTAL_LIMIT: usize = SESSION_WINDOW as usize;

/// One stream.
#[derive(Debug, Default)]
struct Lane {
    unread: BytesMut,
    /// The client sends no more.
    finished: bool,
    /// Closed in both directions, at once.
    reset: bool,
    /// Nobody reads: what comes is thrown away.
    discarding: bool,
    /// Somebody holds the reading handle, the writing one.
    input: bool,
    output: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a reader finds.
pub(super) enum Taken {
    /// So many bytes, now in its buffer.
    Bytes(usize),
    /// Nothing more, ever.
    End,
    /// The stream was reset.
    Reset,
    /// Nothing yet.
    Nothing,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    map: HashMap<u32, Lane>,
    unread: usize,
    arrivals: VecDeque<Arrival>,
    acceptor: Option<Waker>,
}

impl Lanes {
    /// Whether no more may be read. A peer that keeps our windows never gets there: it could not tell us of its own.
    pub(super) fn is_full(&self) -> bool {
        self.unread > TOTAL_LIMIT || self.map.values().any(|lane| lane.unread.len() > STREAM_WINDOW as usize)
    }

    /// Bytes have come. False: nobody wants them.
    pub(super) fn push(&mut self, stream: u32, bytes: &[u8]) -> bool {
        let Some(lane) = self.map.get_mut(&stream).filter(|lane| !lane.discarding) else { return false };
        lane.unread.extend_from_slice(bytes);
        self.unread += bytes.len();
        wake(&mut lane.reader);
        true
    }

    /// Something else has come.
    pub(super) fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Opened { stream, headers } => {
                self.map.insert(stream, Lane::default());
                self.arrivals.push_back(Arrival { stream, headers });
                wake(&mut self.acceptor);
            }
            Event::Finished { stream } => {
                if let Some(lane) = self.map.get_mut(&stream) {
                    lane.finished = true;
                    wake(&mut lane.reader);
                }
            }
            Event::Reset { stream, .. } => self.reset(stream),
            Event::Widened => self.wake_writers(),
            Event::Data { .. }
            | Event::Headers { .. }
            | Event::Replied { .. }
            | Event::Pong(_)
            | Event::GoneAway => {}
        }
    }

    pub(super) fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<Arrival> {
        match self.arrivals.pop_front() {
            Some(arrival) => Poll::Ready(arrival),
            None => {
                self.acceptor = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The stream has handles from now on.
    pub(super) fn take_handles(&mut self, stream: u32) {
        let lane = self.map.entry(stream).or_default();
        lane.input = true;
        lane.output = true;
    }

    /// Moves unread bytes into `buffer`.
    pub(super) fn take(&mut self, stream: u32, buffer: &mut tokio::io::ReadBuf<'_>) -> Taken {
        let Some(lane) = self.map.get_mut(&stream) else { return Taken::End };
        if !lane.unread.is_empty() {
            let count = lane.unread.len().min(buffer.remaining());
            buffer.put_slice(&lane.unread[..count]);
            lane.unread.advance(count);
            self.unread -= count;
            Taken::Bytes(count)
        } else if lane.reset {
            Taken::Reset
        } else if lane.finished || lane.discarding {
            Taken::End
        } else {
            Taken::Nothing
        }
    }

    /// Throws away what is unread and what comes. Returns how much was unread.
    pub(super) fn discard(&mut self, stream: u32) -> usize {
        let Some(lane) = self.map.get_mut(&stream) else { return 0 };
        lane.discarding = true;
        wake(&mut lane.reader);
        let count = std::mem::take(&mut lane.unread).len();
        self.unread -= count;
        count
    }

    /// The reading handle is gone. Returns how much was unread.
    pub(super) fn drop_input(&mut self, stream: u32) -> usize {
        if let Some(lane) = self.map.get_mut(&stream) {
            lane.input = false;
        }
        self.discard(stream)
    }

    /// The writing handle is gone.
    pub(super) fn drop_output(&mut self, stream: u32) {
        if let Some(lane) = self.map.get_mut(&stream) {
            lane.output = false;
        }
    }

    /// The stream is closed in both directions. What came before that can still be read.
    pub(super) fn reset(&mut self, stream: u32) {
        if let Some(lane) = self.map.get_mut(&stream) {
            lane.reset = true;
            wake(&mut lane.reader);
            wake(&mut lane.writer);
        }
    }

    /// Forgets streams that are closed and that nobody holds.
    pub(super) fn tidy(&mut self, is_open: impl Fn(u32) -> bool) {
        let awaited = &self.arrivals;
        self.map.retain(|stream, lane| {
            lane.input
                || lane.output
                || is_open(*stream)
                || awaited.iter().any(|arrival| arrival.stream == *stream)
        });
    }

    pub(super) fn wait_to_read(&mut self, stream: u32, waker: &Waker) {
        if let Some(lane) = self.map.get_mut(&stream) {
            lane.reader = Some(waker.clone());
        }
    }

    pub(super) fn wait_to_write(&mut self, stream: u32, waker: &Waker) {
        if let Some(lane) = self.map.get_mut(&stream) {
            lane.writer = Some(waker.clone());
        }
    }

    pub(super) fn wake_writer(&mut self, stream: u32) {
        if let Some(lane) = self.map.get_mut(&stream) {
            wake(&mut lane.writer);
        }
    }

    pub(super) fn wake_writers(&mut self) {
        for lane in self.map.values_mut() {
            wake(&mut lane.writer);
        }
    }

    pub(super) fn wake_all(&mut self) {
        for lane in self.map.values_mut() {
            wake(&mut lane.reader);
            wake(&mut lane.writer);
        }
        wake(&mut self.acceptor);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
