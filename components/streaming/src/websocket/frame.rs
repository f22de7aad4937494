//! Frames on the wire (RFC 6455, section 5.2).

use super::SocketError;

/// The longest head: two bytes, a length of eight, a mask of four.
pub(super) const HEAD_LIMIT: usize = 14;
/// The longest payload of a control frame.
pub(super) const CONTROL_LIMIT: usize = 125;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) last: bool,
    pub(super) opcode: Opcode,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) length: u64,
}

impl Head {
    /// How long the head is that begins with these two bytes.
    pub(super) fn length_of(second: u8) -> usize {
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + mask
    }

    /// Reads a whole head.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, SocketError> {
        let (first, second) = (bytes[0], bytes[1]);
        let opcode = match first & 0x7f {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return Err(SocketError::FirstByte(first)),
        };
        let rest = &bytes[2..];
        let (length, rest) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => {
                let (length, rest) = rest.split_first_chunk().ok_or(SocketError::Length)?;
                (u64::from_be_bytes(*length), rest)
            }
            length => (u64::from(length), rest),
        };
        if length >> 63 != 0 {
            return Err(SocketError::Length);
        }
        let last = first & 0x80 != 0;
        if opcode.is_control() && (!last || length > CONTROL_LIMIT as u64) {
            return Err(SocketError::Control);
        }
        let mask = (second & 0x80 != 0).then(|| [rest[0], rest[1], rest[2], rest[3]]);
        Ok(Self { last, opcode, mask, length })
    }

    /// Writes it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(if self.last { 0x80 } else { 0 } | self.opcode as u8);
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.length {
            length @ 0..=125 => out.push(masked | length as u8),
            length @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(masked | 127);
                out.extend(length.to_be_bytes());
            }
        }
        out.extend(self.mask.iter().flatten());
    }
}

/// Masks or unmasks bytes, the first of which is the payload's `offset`th.
pub(super) fn mask(bytes: &mut [u8], mask: [u8; 4], offset: u64) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(offset as usize + at) & 3];
    }
}
