//! Header blocks (SPDY/3, section 2.6.10): names and values, in one zlib stream per direction that lasts as long as the session.
//!
//! What we send is a zlib stream of stored blocks, naming the dictionary but never using it: our replies are
//! empty, and a compressor would take a quarter of a megabyte per connection. Each block is followed by an empty one, which is
//! what a zlib flush writes and what makes readers hand out the bytes before it.

use super::{
    SessionError,
    dictionary::{CHECKSUM, DICTIONARY},
};
use flate2::{Decompress, FlushDecompress, Status};

/// The longest block, decompressed.
pub const BLOCK_LIMIT: usize = 64 << 10;
/// Names in a block.
const NAMES_LIMIT: usize = 256;
/// The most that a stored block of deflate holds.
const STORED_LIMIT: usize = 0xffff;

/// Names, in lower case, and values. Several values under one name are separated by NUL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// From pairs. Names are made lower-case.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect())
    }

    /// The first value under this name, which is lower-case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(own, _)| own == name)?;
        value.split('\0').next()
    }

    /// Reads a decompressed block. None: it is malformed.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let mut rest = block;
        let count = length(&mut rest)?;
        if count > NAMES_LIMIT {
            return None;
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for _ in 0..count {
            let name = text(&mut rest)?;
            let value = text(&mut rest)?;
            let doubled = pairs.iter().any(|(other, _)| *other == name);
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) || doubled {
                return None;
            }
            pairs.push((name, value));
        }
        rest.is_empty().then_some(Self(pairs))
    }

    fn write(&self) -> Vec<u8> {
        let mut block = Vec::new();
        block.extend((self.0.len() as u32).to_be_bytes());
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        block
    }
}

fn length(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*number) as usize)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = length(rest)?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

/// The sending side of a session's compression.
#[derive(Debug, Default)]
pub struct Encoder {
    begun: bool,
}

impl Encoder {
    /// The block on the wire.
    pub fn encode(&mut self, headers: &Headers) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            // Deflate with a window of 32 KiB; a dictionary; the check bits that make it a multiple of 31.
            out.extend([0x78, 0x20]);
            out.extend(CHECKSUM.to_be_bytes());
        }
        let block = headers.write();
        for part in block.chunks(STORED_LIMIT).chain([&[][..]]) {
            out.push(0); // not the last block; stored
            out.extend((part.len() as u16).to_le_bytes());
            out.extend((!(part.len() as u16)).to_le_bytes());
            out.extend(part);
        }
        out
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct Decoder {
    zlib: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { zlib: Decompress::new(true) }
    }
}

impl Decoder {
    /// Decompresses a block from the wire. `Ok(None)`: what was in it is not a header block; the next one may be.
    pub fn decode(&mut self, block: &[u8]) -> Result<Option<Headers>, SessionError> {
        self.inflate(block).map(|block| Headers::parse(&block))
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, SessionError> {
        let mut plain = Vec::new();
        let mut chunk = [0; 2048];
        let mut rest = block;
        loop {
            let (taken, given) = (self.zlib.total_in(), self.zlib.total_out());
            let result = self.zlib.decompress(rest, &mut chunk, FlushDecompress::Sync);
            let taken = (self.zlib.total_in() - taken) as usize;
            let given = (self.zlib.total_out() - given) as usize;
            rest = rest.get(taken..).unwrap_or_default();
            plain.extend_from_slice(&chunk[..given]);
            if plain.len() > BLOCK_LIMIT {
                return Err(SessionError::HeadersTooLong);
            }
            match result {
                Ok(Status::Ok | Status::BufError) if rest.is_empty() && given < chunk.len() => {
                    return Ok(plain);
                }
                Ok(Status::Ok) if taken > 0 || given > 0 => {}
                Err(error) if error.needs_dictionary() == Some(CHECKSUM) => {
                    self.zlib.set_dictionary(&DICTIONARY).map_err(|_| SessionError::Compression)?;
                }
                // The end of the stream, an error, or no way forward.
                _ => return Err(SessionError::Compression),
            }
        }
    }
}
