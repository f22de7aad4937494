//! Streams as channels: a message's first byte is its stream's number.

use super::{Piece, Socket, SocketError};
use crate::spdy::{Event, Role, StreamClosed};
use base64::{Engine, engine::general_purpose::STANDARD};

/// The channel on which v5 closes others.
const CLOSE_SIGNAL: u8 = 255;
/// Bytes in a message that is sent.
const MESSAGE_LIMIT: usize = 32 << 10;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Binary messages: the number, the bytes.
    Binary,
    /// As binary, and a message of 255 and a number ends the client's side of a channel (v5).
    BinaryWithClose,
    /// Text messages: the number as a digit, the bytes in base64.
    Base64,
}

/// Where in a message we are.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Channel,
    Data(u32),
    Signal(Option<u32>),
}

/// A channel's two directions.
#[derive(Debug, Clone, Copy)]
struct Channel {
    receiving: bool,
    sending: bool,
}

/// The channels of a connection. All are there from the beginning.
#[derive(Debug)]
pub struct Channels {
    socket: Socket,
    codec: Codec,
    channels: Vec<Channel>,
    /// When this one is finished, so is the connection.
    closing: Option<u32>,
    reading: Reading,
    /// Base64 digits that do not make a byte yet.
    digits: Vec<u8>,
    /// They have ended.
    padded: bool,
}

impl Channels {
    /// So many channels. The connection is closed when `closing` is finished.
    pub fn new(role: Role, codec: Codec, count: u8, closing: Option<u32>) -> Self {
        Self {
            socket: Socket::new(role),
            codec,
            channels: vec![Channel { receiving: true, sending: true }; usize::from(count)],
            closing,
            reading: Reading::Channel,
            digits: Vec::new(),
            padded: false,
        }
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.socket.output()
    }

    /// So much of it was sent.
    pub fn advance(&mut self, count: usize) {
        self.socket.advance(count);
    }

    /// Whether the channel is open in at least one direction.
    pub fn is_open(&self, channel: u32) -> bool {
        !self.socket.is_closed()
            && self.channel(channel).is_some_and(|channel| channel.receiving || channel.sending)
    }

    /// Whether the peer has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.socket.is_closed()
    }

    /// Sends an empty message, which tells the client that the channel works.
    pub fn greet(&mut self, channel: u32) {
        self.message(channel, &[]);
    }

    /// Sends as much as one message holds.
    pub fn send(&mut self, channel: u32, bytes: &[u8]) -> Result<usize, StreamClosed> {
        if self.channel(channel).is_none_or(|channel| !channel.sending) || self.socket.is_closed() {
            return Err(StreamClosed);
        }
        let bytes = &bytes[..bytes.len().min(MESSAGE_LIMIT)];
        if !bytes.is_empty() {
            self.message(channel, bytes);
        }
        Ok(bytes.len())
    }

    /// We send no more on this channel. The protocol has no word for it, but for the last channel.
    pub fn finish(&mut self, channel: u32) {
        if let Some(channel) = self.channels.get_mut(channel as usize) {
            channel.sending = false;
        }
        if self.closing == Some(channel) {
            self.socket.close();
        }
    }

    /// Says that the client sends no more on this channel.
    pub fn signal_close(&mut self, channel: u32) {
        self.socket.send(false, &[&[CLOSE_SIGNAL, channel as u8]]);
    }

    /// Neither side uses the channel any more.
    pub fn reset(&mut self, channel: u32) {
        if let Some(channel) = self.channels.get_mut(channel as usize) {
            *channel = Channel { receiving: false, sending: false };
        }
    }

    /// Closes the connection.
    pub fn close(&mut self) {
        self.socket.close();
    }

    /// Takes bytes from the socket, all of them, and tells what they mean.
    pub fn receive(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), SocketError> {
        let Self { socket, codec, channels, reading, digits, padded, .. } = self;
        let was_closed = socket.is_closed();
        socket.receive(bytes, &mut |piece| {
            Parser { codec: *codec, channels, reading, digits, padded }.piece(piece, sink)
        })?;
        if self.socket.is_closed() && !was_closed {
            sink(Event::GoneAway);
        }
        Ok(())
    }

    fn channel(&self, channel: u32) -> Option<&Channel> {
        self.channels.get(channel as usize)
    }

    fn message(&mut self, channel: u32, bytes: &[u8]) {
        let number = channel as u8; // there are at most 255
        match self.codec {
            Codec::Binary | Codec::BinaryWithClose => self.socket.send(false, &[&[number], bytes]),
            Codec::Base64 => {
                self.socket.send(true, &[&[b'0'.wrapping_add(number)], STANDARD.encode(bytes).as_bytes()]);
            }
        }
    }
}

/// What reading a message changes.
struct Parser<'a> {
    codec: Codec,
    channels: &'a mut Vec<Channel>,
    reading: &'a mut Reading,
    digits: &'a mut Vec<u8>,
    padded: &'a mut bool,
}

impl Parser<'_> {
    fn piece(&mut self, piece: Piece<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), SocketError> {
        if piece.first {
            *self.reading = Reading::Channel;
            self.digits.clear();
            *self.padded = false;
        }
        let mut bytes = piece.bytes;
        if let (Reading::Channel, [number, rest @ ..]) = (*self.reading, bytes) {
            *self.reading = match self.codec {
                Codec::BinaryWithClose if *number == CLOSE_SIGNAL => Reading::Signal(None),
                Codec::Base64 => Reading::Data(u32::from(number.wrapping_sub(b'0'))),
                _ => Reading::Data(u32::from(*number)),
            };
            bytes = rest;
        }
        match *self.reading {
            Reading::Channel => {} // an empty message
            Reading::Data(channel) => self.data(channel, bytes, piece.last, sink)?,
            Reading::Signal(named) => {
                let channel = match (named, bytes) {
                    (named, []) => named,
                    (None, [number]) => Some(u32::from(*number)),
                    _ => return Err(SocketError::CloseSignal),
                };
                *self.reading = Reading::Signal(channel);
                if piece.last {
                    self.end(channel.ok_or(SocketError::CloseSignal)?, sink)?;
                }
            }
        }
        Ok(())
    }

    fn data(
        &mut self,
        channel: u32,
        bytes: &[u8],
        last: bool,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), SocketError> {
        let wanted = self.channels.get(channel as usize).is_some_and(|channel| channel.receiving);
        if self.codec != Codec::Base64 {
            if wanted && !bytes.is_empty() {
                sink(Event::Data { stream: channel, bytes });
            }
            return Ok(());
        }
        if *self.padded && !bytes.is_empty() {
            return Err(SocketError::Base64); // padding ends a message
        }
        self.digits.extend_from_slice(bytes);
        let whole = self.digits.len() / 4 * 4;
        if last && whole != self.digits.len() {
            return Err(SocketError::Base64);
        }
        *self.padded = self.digits[..whole].ends_with(b"=");
        let plain = STANDARD.decode(&self.digits[..whole]).map_err(|_| SocketError::Base64)?;
        self.digits.drain(..whole);
        if *self.padded && !self.digits.is_empty() {
            return Err(SocketError::Base64);
        }
        if wanted && !plain.is_empty() {
            sink(Event::Data { stream: channel, bytes: &plain });
        }
        Ok(())
    }

    fn end(&mut self, channel: u32, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), SocketError> {
        let open = self.channels.get_mut(channel as usize).ok_or(SocketError::CloseSignal)?;
        if std::mem::replace(&mut open.receiving, false) {
            sink(Event::Finished { stream: channel });
        }
        Ok(())
    }
}
