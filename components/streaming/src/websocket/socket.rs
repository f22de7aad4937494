//! One end of a WebSocket connection, after the handshake.

use super::{
    SocketError,
    frame::{CONTROL_LIMIT, HEAD_LIMIT, Head, Opcode, mask},
};
use crate::spdy::Role;

/// Bytes unmasked at once.
const PIECE: usize = 4096;
/// The mask of our client, which exists to test our server: it hides nothing from anybody.
const CLIENT_MASK: [u8; 4] = [0x5a, 0xc3, 0x0f, 0x96];
/// Bytes already sent that may stay in front of those that are not.
const COMPACT_AT: usize = 64 << 10;

/// Part of a message, as much of it as has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The message begins with it.
    pub first: bool,
    /// The message ends with it.
    pub last: bool,
    /// Its bytes, of a text or a binary message: it is not told which.
    pub bytes: &'a [u8],
}

#[derive(Debug)]
enum Reading {
    Head { bytes: [u8; HEAD_LIMIT], have: usize },
    Payload { head: Head, at: u64 },
}

const START: Reading = Reading::Head { bytes: [0; HEAD_LIMIT], have: 0 };

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    role: Role,
    reading: Reading,
    /// The payload of a control frame.
    control: Vec<u8>,
    /// Inside a message: whether its first piece was handed on.
    message: Option<bool>,
    out: Vec<u8>,
    sent: usize,
    close_sent: bool,
    closed: bool,
    failed: Option<SocketError>,
}

impl Socket {
    /// An open connection.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            reading: START,
            control: Vec::new(),
            message: None,
            out: Vec::new(),
            sent: 0,
            close_sent: false,
            closed: false,
            failed: None,
        }
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

    /// Whether the peer has said that it is over.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Sends a message made of these parts. Nothing is sent after a close.
    pub fn send(&mut self, text: bool, parts: &[&[u8]]) {
        self.write(if text { Opcode::Text } else { Opcode::Binary }, parts);
    }

    /// Sends a ping.
    pub fn ping(&mut self) {
        self.write(Opcode::Ping, &[]);
    }

    /// Says, once, that it is over: normally.
    pub fn close(&mut self) {
        self.say_close(1000);
    }

    /// Takes bytes from the socket, all of them, and hands on what they say. After an error, and after the peer's close, what comes
    /// means nothing.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Piece<'_>) -> Result<(), SocketError>,
    ) -> Result<(), SocketError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.read(bytes, sink).inspect_err(|error| {
            self.failed = Some(*error);
            self.say_close(1002);
        })
    }

    fn read(
        &mut self,
        mut input: &[u8],
        sink: &mut dyn FnMut(Piece<'_>) -> Result<(), SocketError>,
    ) -> Result<(), SocketError> {
        while !input.is_empty() && !self.closed {
            match &mut self.reading {
                Reading::Head { bytes, have } => {
                    let need = if *have < 2 { 2 } else { Head::length_of(bytes[1]) };
                    let count = input.len().min(need - *have);
                    bytes[*have..*have + count].copy_from_slice(&input[..count]);
                    *have += count;
                    input = &input[count..];
                    if *have < 2 || *have < Head::length_of(bytes[1]) {
                        continue;
                    }
                    let head = Head::parse(&bytes[..*have])?;
                    self.begin(head)?;
                    if head.length == 0 {
                        self.payload(head, 0, &[], sink)?;
                    }
                }
                Reading::Payload { head, at } => {
                    let (head, at) = (*head, *at);
                    let left = usize::try_from(head.length - at).unwrap_or(usize::MAX);
                    let count = input.len().min(left).min(PIECE);
                    let mut piece = [0; PIECE];
                    let piece = &mut piece[..count];
                    piece.copy_from_slice(&input[..count]);
                    input = &input[count..];
                    if let Some(key) = head.mask {
                        mask(piece, key, at);
                    }
                    self.payload(head, at, piece, sink)?;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, head: Head) -> Result<(), SocketError> {
        if head.mask.is_some() != (self.role == Role::Server) {
            return Err(SocketError::Masking);
        }
        if !head.opcode.is_control() {
            let continues = head.opcode == Opcode::Continuation;
            if continues != self.message.is_some() {
                return Err(SocketError::Fragments);
            }
            if !continues {
                self.message = Some(false);
            }
        }
        self.reading = Reading::Payload { head, at: 0 };
        Ok(())
    }

    /// Some bytes of a frame's payload.
    fn payload(
        &mut self,
        head: Head,
        at: u64,
        bytes: &[u8],
        sink: &mut dyn FnMut(Piece<'_>) -> Result<(), SocketError>,
    ) -> Result<(), SocketError> {
        let at = at + bytes.len() as u64;
        let whole = at == head.length;
        self.reading = if whole { START } else { Reading::Payload { head, at } };
        if head.opcode.is_control() {
            self.control.extend_from_slice(bytes);
            if whole {
                let payload = std::mem::take(&mut self.control);
                self.act(head.opcode, &payload);
            }
            return Ok(());
        }
        let last = whole && head.last;
        let first = !self.message.unwrap_or(true);
        self.message = if last { None } else { Some(!first || !bytes.is_empty()) };
        if last || !bytes.is_empty() { sink(Piece { first, last, bytes }) } else { Ok(()) }
    }

    fn act(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => self.write(Opcode::Pong, &[payload]),
            Opcode::Close => {
                self.closed = true;
                // The same status back; none, if there was none.
                if !std::mem::replace(&mut self.close_sent, true) {
                    self.frame(Opcode::Close, &[payload.get(..2).unwrap_or_default()]);
                }
            }
            _ => {}
        }
    }

    fn say_close(&mut self, status: u16) {
        if !std::mem::replace(&mut self.close_sent, true) {
            self.frame(Opcode::Close, &[&status.to_be_bytes()]);
        }
    }

    fn write(&mut self, opcode: Opcode, parts: &[&[u8]]) {
        if !self.close_sent {
            self.frame(opcode, parts);
        }
    }

    fn frame(&mut self, opcode: Opcode, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert!(!opcode.is_control() || length <= CONTROL_LIMIT);
        let key = (self.role == Role::Client).then_some(CLIENT_MASK);
        Head { last: true, opcode, mask: key, length: length as u64 }.encode(&mut self.out);
        let start = self.out.len();
        for part in parts {
            self.out.extend_from_slice(part);
        }
        if let Some(key) = key {
            mask(&mut self.out[start..], key, 0);
        }
    }
}
