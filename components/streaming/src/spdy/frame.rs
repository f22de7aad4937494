//! Frames, as they are on the wire (SPDY/3, section 2.2 and 2.6). All numbers are big-endian.

use super::SessionError;

/// The protocol's version, in every control frame.
pub const VERSION: u16 = 3;
/// Bytes before a frame's payload.
pub const HEAD_LENGTH: usize = 8;
/// The sender's last frame on this stream.
pub const FLAG_FIN: u8 = 0x01;
/// The receiver of this SYN_STREAM never sends on the stream.
pub const FLAG_UNIDIRECTIONAL: u8 = 0x02;
/// The id of the setting that says how wide a new stream's window is.
pub const SETTING_INITIAL_WINDOW: u32 = 7;

/// A stream's number, 31 bits.
const ID_MASK: u32 = 0x7fff_ffff;
/// The longest payload of SYN_STREAM, SYN_REPLY and HEADERS that is kept.
const HEADERS_LIMIT: usize = 32 << 10;
/// The longest payload of SETTINGS.
const SETTINGS_LIMIT: usize = 4 + 8 * 64;

/// The types of control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Opens a stream.
    SynStream = 1,
    /// Accepts it.
    SynReply = 2,
    /// Ends it in both directions at once.
    RstStream = 3,
    /// What the sender can take.
    Settings = 4,
    /// Wants an echo.
    Ping = 6,
    /// No new streams.
    GoAway = 7,
    /// More headers for an open stream.
    Headers = 8,
    /// The sender can take more.
    WindowUpdate = 9,
}

impl Kind {
    fn of(number: u16) -> Option<Self> {
        [
            Self::SynStream,
            Self::SynReply,
            Self::RstStream,
            Self::Settings,
            Self::Ping,
            Self::GoAway,
            Self::Headers,
            Self::WindowUpdate,
        ]
        .into_iter()
        .find(|kind| *kind as u16 == number)
    }

    /// Whether its payload may have this length.
    fn admits(self, length: usize) -> bool {
        match self {
            Self::SynStream => (10..=HEADERS_LIMIT).contains(&length),
            Self::SynReply | Self::Headers => (4..=HEADERS_LIMIT).contains(&length),
            Self::Settings => (4..=SETTINGS_LIMIT).contains(&length),
            Self::RstStream | Self::GoAway | Self::WindowUpdate => length == 8,
            Self::Ping => length == 4,
        }
    }
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A control frame of a type we know, and of a length that it can have.
    Control {
        /// Its type.
        kind: Kind,
        /// Its flags.
        flags: u8,
        /// The payload's length.
        length: usize,
    },
    /// A control frame of another type, to be skipped.
    Unknown {
        /// The payload's length.
        length: usize,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// Whether they are its last.
        fin: bool,
        /// How many they are.
        length: usize,
    },
}

impl Head {
    /// Reads it.
    pub fn parse(bytes: [u8; HEAD_LENGTH]) -> Result<Self, SessionError> {
        let [a, b, c, d, flags, ..] = bytes;
        let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            return Ok(Self::Data { stream, fin: flags & FLAG_FIN != 0, length });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(SessionError::Version(version));
        }
        let number = u16::from_be_bytes([c, d]);
        match Kind::of(number) {
            None => Ok(Self::Unknown { length }),
            Some(kind) if kind.admits(length) => Ok(Self::Control { kind, flags, length }),
            Some(_) => Err(SessionError::Length { kind: number, length }),
        }
    }
}

/// Why a stream was reset (section 2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetStatus {
    /// The peer broke the rules.
    ProtocolError = 1,
    /// A frame for a stream that was never opened.
    InvalidStream = 2,
    /// Not accepted, and nothing was done.
    RefusedStream = 3,
    /// A version that is not spoken.
    UnsupportedVersion = 4,
    /// No longer needed.
    Cancel = 5,
    /// The sender's fault.
    InternalError = 6,
    /// A window was overrun.
    FlowControlError = 7,
    /// A second SYN_REPLY.
    StreamInUse = 8,
    /// Data after the end.
    StreamAlreadyClosed = 9,
    /// A frame that is too long.
    FrameTooLarge = 11,
}

/// A control frame. Header blocks are as on the wire, compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control<'a> {
    /// Opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// The opener will send nothing.
        fin: bool,
        /// The other side will send nothing.
        unidirectional: bool,
        /// Its headers.
        block: &'a [u8],
    },
    /// Accepts a stream.
    SynReply {
        /// Its number.
        stream: u32,
        /// Nothing will be sent on it.
        fin: bool,
        /// Headers.
        block: &'a [u8],
    },
    /// Ends a stream.
    RstStream {
        /// Its number.
        stream: u32,
        /// A [`ResetStatus`], or any other number.
        status: u32,
    },
    /// Settings: ids and values.
    Settings(Vec<(u32, u32)>),
    /// Wants an echo with this number, or is one.
    Ping(u32),
    /// No new streams.
    GoAway {
        /// The last of the peer's streams that was looked at.
        last: u32,
        /// 0: all is well; 1: protocol error; 2: internal error.
        status: u32,
    },
    /// More headers.
    Headers {
        /// The stream.
        stream: u32,
        /// The last frame on it.
        fin: bool,
        /// The headers.
        block: &'a [u8],
    },
    /// More room.
    WindowUpdate {
        /// The stream; 0: the session.
        stream: u32,
        /// Bytes.
        delta: u32,
    },
}

impl<'a> Control<'a> {
    /// Reads a payload of a length that [`Head::parse`] has let through.
    pub fn parse(kind: Kind, flags: u8, payload: &'a [u8]) -> Result<Self, SessionError> {
        let wrong = || SessionError::Length { kind: kind as u16, length: payload.len() };
        let number = |at: usize| {
            let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
            Ok(u32::from_be_bytes(bytes))
        };
        let block = |at: usize| payload.get(at..).ok_or_else(wrong);
        let stream = number(0)? & ID_MASK;
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            Kind::SynStream => Self::SynStream {
                stream,
                fin,
                unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                block: block(10)?,
            },
            Kind::SynReply => Self::SynReply { stream, fin, block: block(4)? },
            Kind::RstStream => Self::RstStream { stream, status: number(4)? },
            Kind::Settings => {
                let entries = block(4)?;
                if entries.len() % 8 != 0 || (entries.len() / 8) as u64 != u64::from(number(0)?) {
                    return Err(wrong());
                }
                let pairs = (4..payload.len()).step_by(8);
                // The upper byte of the id holds flags, which are about storing settings: nobody does.
                let pairs = pairs.map(|at| Ok((number(at)? & 0x00ff_ffff, number(at + 4)?)));
                Self::Settings(pairs.collect::<Result<_, _>>()?)
            }
            Kind::Ping => Self::Ping(number(0)?),
            Kind::GoAway => Self::GoAway { last: stream, status: number(4)? },
            Kind::Headers => Self::Headers { stream, fin, block: block(4)? },
            Kind::WindowUpdate => Self::WindowUpdate { stream, delta: number(4)? & ID_MASK },
        })
    }

    /// Writes the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let fin_flag = |fin: bool| if fin { FLAG_FIN } else { 0 };
        match self {
            Self::SynStream { stream, fin, unidirectional, block } => {
                let flags = fin_flag(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                // Not associated with another stream; highest priority, no credentials.
                control(out, Kind::SynStream, flags, &[*stream, 0], &[&[0, 0], block]);
            }
            Self::SynReply { stream, fin, block } => {
                control(out, Kind::SynReply, fin_flag(*fin), &[*stream], &[block]);
            }
            Self::RstStream { stream, status } => {
                control(out, Kind::RstStream, 0, &[*stream, *status], &[]);
            }
            Self::Settings(pairs) => {
                let numbers = pairs.iter().flat_map(|(id, value)| [*id, *value]);
                let numbers: Vec<u32> = std::iter::once(pairs.len() as u32).chain(numbers).collect();
                control(out, Kind::Settings, 0, &numbers, &[]);
            }
            Self::Ping(id) => control(out, Kind::Ping, 0, &[*id], &[]),
            Self::GoAway { last, status } => control(out, Kind::GoAway, 0, &[*last, *status], &[]),
            Self::Headers { stream, fin, block } => {
                control(out, Kind::Headers, fin_flag(*fin), &[*stream], &[block]);
            }
            Self::WindowUpdate { stream, delta } => {
                control(out, Kind::WindowUpdate, 0, &[*stream, *delta], &[]);
            }
        }
    }
}

fn control(out: &mut Vec<u8>, kind: Kind, flags: u8, numbers: &[u32], rest: &[&[u8]]) {
    let length = numbers.len() * 4 + rest.iter().map(|part| part.len()).sum::<usize>();
    out.extend((0x8000 | VERSION).to_be_bytes());
    out.extend((kind as u16).to_be_bytes());
    out.extend((u32::from(flags) << 24 | length as u32).to_be_bytes());
    for number in numbers {
        out.extend(number.to_be_bytes());
    }
    for part in rest {
        out.extend_from_slice(part);
    }
}

/// Writes a DATA frame. `bytes` are fewer than 16 MiB.
pub fn encode_data(stream: u32, fin: bool, bytes: &[u8], out: &mut Vec<u8>) {
    let flags = if fin { FLAG_FIN } else { 0 };
    out.extend((stream & ID_MASK).to_be_bytes());
    out.extend((u32::from(flags) << 24 | bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}
