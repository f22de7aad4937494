//! One end of a connection: its state, what it sends, and how bytes become frames. What frames from the peer do is in [`incoming`].

mod incoming;

use super::{
    SessionError,
    frame::{Control, HEAD_LENGTH, Head, Kind, ResetStatus, SETTING_INITIAL_WINDOW, encode_data},
    headers::{Decoder, Encoder, Headers},
    streams::{PeerWindows, Stream, StreamClosed, Streams, WIDEST},
};

/// What a stream's reader may leave untaken.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// What all readers of a session may leave untaken.
pub const SESSION_WINDOW: u32 = 2 << 20;
/// Both windows before anything is said about them.
const DEFAULT_WINDOW: u32 = 64 << 10;
/// Streams at the same time that the peer may have open.
const STREAMS_LIMIT: usize = 512;
/// The longest DATA frame that is sent.
const DATA_LIMIT: usize = 32 << 10;
/// Bytes already sent that may stay in front of those that are not.
const COMPACT_AT: usize = 64 << 10;

/// Which end it is. Streams and pings of the client have odd numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that was connected to.
    Server,
    /// The one that connected.
    Client,
}

/// What has come from the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A stream, to be accepted or refused.
    Opened {
        /// Its number.
        stream: u32,
        /// Its headers.
        headers: Headers,
    },
    /// The peer has accepted a stream of ours.
    Replied {
        /// Its number.
        stream: u32,
    },
    /// More headers for a stream.
    Headers {
        /// Its number.
        stream: u32,
        /// The headers.
        headers: Headers,
    },
    /// Bytes. To be given back by [`Session::consume`].
    Data {
        /// The stream.
        stream: u32,
        /// Some of them; how a frame is cut depends on how it arrived.
        bytes: &'a [u8],
    },
    /// Nothing more will come on this stream.
    Finished {
        /// Its number.
        stream: u32,
    },
    /// The stream is closed in both directions.
    Reset {
        /// Its number.
        stream: u32,
        /// A [`ResetStatus`], or any other number.
        status: u32,
    },
    /// Windows were widened: what was not taken by [`Session::send`] may be now.
    Widened,
    /// The peer has answered a ping.
    Pong(u32),
    /// The peer will open no more streams.
    GoneAway,
}

/// Where in the stream of bytes we are.
#[derive(Debug)]
enum Reading {
    Head {
        bytes: [u8; HEAD_LENGTH],
        have: usize,
    },
    Control {
        kind: Kind,
        flags: u8,
        length: usize,
        payload: Vec<u8>,
    },
    /// `stream` None: nobody wants it.
    Data {
        stream: Option<u32>,
        fin: bool,
        left: usize,
    },
    Skip {
        left: usize,
    },
}

const START: Reading = Reading::Head { bytes: [0; HEAD_LENGTH], have: 0 };

/// One end of a SPDY/3.1 connection.
///
/// Bytes from the socket go into [`receive`](Self::receive); bytes for the socket are taken from [`output`](Self::output) by
/// [`advance`](Self::advance).
#[derive(Debug)]
pub struct Session {
    role: Role,
    reading: Reading,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams,
    /// The peer's highest stream.
    last_peer: u32,
    next_own: u32,
    next_ping: u32,
    peer: PeerWindows,
    /// What was taken, of all streams, and not yet given back.
    credit: u32,
    out: Vec<u8>,
    /// How much of `out` is on its way already.
    sent: usize,
    gone: bool,
    failed: Option<SessionError>,
}

impl Session {
    /// A session that has told its windows, and nothing else.
    pub fn new(role: Role) -> Self {
        let mut session = Self {
            role,
            reading: START,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            streams: Streams::default(),
            last_peer: 0,
            next_own: if role == Role::Client { 1 } else { 2 },
            next_ping: if role == Role::Client { 1 } else { 2 },
            peer: PeerWindows {
                streams: false,
                session: false,
                initial: i64::from(DEFAULT_WINDOW),
                window: i64::from(DEFAULT_WINDOW),
            },
            credit: 0,
            out: Vec::new(),
            sent: 0,
            gone: false,
            failed: None,
        };
        session.write(&Control::Settings(vec![(SETTING_INITIAL_WINDOW, STREAM_WINDOW)]));
        session.write(&Control::WindowUpdate { stream: 0, delta: SESSION_WINDOW - DEFAULT_WINDOW });
        session
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So much of it was sent.
    pub fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.out.len());
        if self.sent == self.out.len() || self.sent >= COMPACT_AT {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Whether the stream is open in at least one direction.
    pub fn is_open(&self, stream: u32) -> bool {
        self.streams.contains(stream)
    }

    /// Whether no stream is open.
    pub fn is_idle(&self) -> bool {
        self.streams.len() == 0
    }

    /// Opens a stream; None when all numbers are used up.
    pub fn open(&mut self, headers: &Headers) -> Option<u32> {
        let stream = self.next_own;
        self.next_own = stream.checked_add(2).filter(|next| *next <= WIDEST as u32)?;
        let block = self.encoder.encode(headers);
        self.write(&Control::SynStream { stream, fin: false, unidirectional: false, block: &block });
        self.streams.insert(stream, self.new_stream(true, true));
        Some(stream)
    }

    /// Accepts a stream of the peer's.
    pub fn accept(&mut self, stream: u32) {
        let Some(open) = self.streams.get_mut(stream) else { return };
        if !std::mem::replace(&mut open.replied, true) {
            let block = self.encoder.encode(&Headers::default());
            self.write(&Control::SynReply { stream, fin: false, block: &block });
        }
    }

    /// Sends what the windows allow and one frame holds, and says how much that was.
    pub fn send(&mut self, stream: u32, bytes: &[u8]) -> Result<usize, StreamClosed> {
        let open = self.streams.get_mut(stream).filter(|open| open.sending).ok_or(StreamClosed)?;
        let mut room = DATA_LIMIT as i64;
        if self.peer.streams {
            room = room.min(open.send_window);
        }
        if self.peer.session {
            room = room.min(self.peer.window);
        }
        let count = bytes.len().min(room.max(0) as usize);
        if count > 0 {
            open.send_window -= count as i64;
            self.peer.window -= count as i64;
            encode_data(stream, false, &bytes[..count], &mut self.out);
        }
        Ok(count)
    }

    /// We send no more on this stream. Told to the peer once.
    pub fn finish(&mut self, stream: u32) {
        if self.streams.end_sending(stream) {
            encode_data(stream, true, &[], &mut self.out);
        }
    }

    /// Closes a stream in both directions.
    pub fn reset(&mut self, stream: u32, status: ResetStatus) {
        if self.streams.remove(stream).is_some() {
            self.write(&Control::RstStream { stream, status: status as u32 });
        }
    }

    /// A reader has taken bytes that came as [`Event::Data`], or nobody will.
    pub fn consume(&mut self, stream: u32, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.credit = self.credit.saturating_add(count);
        if self.credit >= SESSION_WINDOW / 2 {
            let delta = std::mem::take(&mut self.credit).min(WIDEST as u32);
            self.write(&Control::WindowUpdate { stream: 0, delta });
        }
        let Some(open) = self.streams.get_mut(stream).filter(|open| open.receiving) else { return };
        open.credit = open.credit.saturating_add(count);
        if open.credit >= STREAM_WINDOW / 2 {
            let delta = std::mem::take(&mut open.credit).min(WIDEST as u32);
            open.receive_window += i64::from(delta);
            self.write(&Control::WindowUpdate { stream, delta });
        }
    }

    /// Sends a ping, and says its number.
    pub fn ping(&mut self) -> u32 {
        let id = self.next_ping;
        self.next_ping = id.wrapping_add(2);
        self.write(&Control::Ping(id));
        id
    }

    /// Tells the peer, once, that it is over.
    pub fn go_away(&mut self) {
        self.say_goodbye(0);
    }

    /// Takes bytes from the socket, all of them, and tells what they mean. After an error the session is over: it
    /// takes nothing more, and its last words are in the output.
    pub fn receive(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), SessionError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read(bytes, sink).inspect_err(|error| {
            self.failed = Some(error.clone());
            self.say_goodbye(1);
        })
    }

    fn say_goodbye(&mut self, status: u32) {
        if !std::mem::replace(&mut self.gone, true) {
            self.write(&Control::GoAway { last: self.last_peer, status });
        }
    }

    fn read(&mut self, mut input: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), SessionError> {
        while !input.is_empty() {
            match &mut self.reading {
                Reading::Head { bytes, have } => {
                    let count = input.len().min(HEAD_LENGTH - *have);
                    bytes[*have..*have + count].copy_from_slice(&input[..count]);
                    *have += count;
                    input = &input[count..];
                    if *have == HEAD_LENGTH {
                        let bytes = *bytes;
                        self.reading = self.begin(bytes)?;
                    }
                }
                Reading::Control { length, payload, .. } => {
                    let count = input.len().min(*length - payload.len());
                    payload.extend_from_slice(&input[..count]);
                    input = &input[count..];
                }
                Reading::Data { stream, left, .. } => {
                    let count = input.len().min(*left);
                    *left -= count;
                    let (bytes, rest) = input.split_at(count);
                    input = rest;
                    match *stream {
                        Some(stream) => sink(Event::Data { stream, bytes }),
                        None => self.consume(0, count), // the session's window is for all
                    }
                }
                Reading::Skip { left } => {
                    let count = input.len().min(*left);
                    *left -= count;
                    input = &input[count..];
                }
            }
            self.complete(sink)?;
        }
        Ok(())
    }

    /// A frame's head was read: what comes next.
    fn begin(&mut self, bytes: [u8; HEAD_LENGTH]) -> Result<Reading, SessionError> {
        Ok(match Head::parse(bytes)? {
            Head::Control { kind, flags, length } => {
                Reading::Control { kind, flags, length, payload: Vec::with_capacity(length) }
            }
            Head::Unknown { length } => Reading::Skip { left: length },
            Head::Data { stream, fin, length } => {
                let wanted = self.admit_data(stream, length)?;
                Reading::Data { stream: wanted.then_some(stream), fin, left: length }
            }
        })
    }

    /// Whether somebody wants these bytes; if not, the peer is told why.
    fn admit_data(&mut self, stream: u32, length: usize) -> Result<bool, SessionError> {
        if stream == 0 {
            return Err(SessionError::StreamId(0));
        }
        let Some(open) = self.streams.get_mut(stream) else {
            // A stream that was closed while this frame was on its way is no mistake.
            let known = if self.is_peers(stream) { stream <= self.last_peer } else { stream < self.next_own };
            if !known {
                let status = ResetStatus::InvalidStream as u32;
                self.write(&Control::RstStream { stream, status });
            }
            return Ok(false);
        };
        if !open.receiving {
            // Its reader has had its end already, so only the other direction dies of this.
            self.reset(stream, ResetStatus::StreamAlreadyClosed);
            return Ok(false);
        }
        open.receive_window -= length as i64;
        Ok(true)
    }

    /// Acts on the frame, if it is all there.
    fn complete(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), SessionError> {
        match &self.reading {
            Reading::Control { length, payload, .. } if payload.len() == *length => {
                if let Reading::Control { kind, flags, payload, .. } =
                    std::mem::replace(&mut self.reading, START)
                {
                    self.control(Control::parse(kind, flags, &payload)?, sink)?;
                }
            }
            Reading::Data { stream, fin, left: 0 } => {
                let (stream, fin) = (*stream, *fin);
                self.reading = START;
                if let Some(stream) = stream {
                    self.end_of_data(stream, fin, sink);
                }
            }
            Reading::Skip { left: 0 } => self.reading = START,
            _ => {}
        }
        Ok(())
    }

    fn end_of_data(&mut self, stream: u32, fin: bool, sink: &mut dyn FnMut(Event<'_>)) {
        let overrun =
            self.peer.streams && self.streams.get_mut(stream).is_some_and(|open| open.receive_window < 0);
        if overrun {
            self.reset(stream, ResetStatus::FlowControlError);
            sink(Event::Reset { stream, status: ResetStatus::FlowControlError as u32 });
        } else if fin {
            self.peer_finished(stream, sink);
        }
    }

    fn new_stream(&self, sending: bool, receiving: bool) -> Stream {
        Stream {
            sending,
            receiving,
            replied: false,
            send_window: self.peer.initial,
            receive_window: i64::from(STREAM_WINDOW),
            credit: 0,
        }
    }

    fn is_peers(&self, stream: u32) -> bool {
        (stream % 2 == 1) == (self.role == Role::Server)
    }

    fn write(&mut self, frame: &Control<'_>) {
        frame.encode(&mut self.out);
    }
}
