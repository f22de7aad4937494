//! Tables as rows of metadata blocks.

use super::{
    compress::BlockCompressor,
    layout::{METADATA_SIZE, METADATA_STORED, Position},
};
use std::io;

/// Collects a table and cuts it into compressed metadata blocks.
pub(super) struct MetadataWriter<'a> {
    compressor: &'a dyn BlockCompressor,
    /// The open block's bytes; less than [`METADATA_SIZE`].
    open: Vec<u8>,
    /// Finished blocks with their length words.
    finished: Vec<u8>,
    /// Where each finished block starts.
    starts: Vec<u64>,
}

impl<'a> MetadataWriter<'a> {
    pub(super) fn new(compressor: &'a dyn BlockCompressor) -> Self {
        Self { compressor, open: Vec::with_capacity(METADATA_SIZE), finished: Vec::new(), starts: Vec::new() }
    }

    /// Where the next byte goes. Tables stay far below 4 GiB: an inode has at most a few hundred bytes.
    pub(super) fn position(&self) -> Position {
        Position { block: self.finished.len() as u32, offset: self.open.len() as u16 }
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = METADATA_SIZE - self.open.len();
            let (front, rest) = bytes.split_at(room.min(bytes.len()));
            self.open.extend_from_slice(front);
            bytes = rest;
            if self.open.len() == METADATA_SIZE {
                self.close_block()?;
            }
        }
        Ok(())
    }

    fn close_block(&mut self) -> io::Result<()> {
        self.starts.push(self.finished.len() as u64);
        self.finished.extend(encode_block(self.compressor, &self.open)?);
        self.open.clear();
        Ok(())
    }

    /// The table's bytes, and where in them each block starts.
    pub(super) fn finish(mut self) -> io::Result<(Vec<u8>, Vec<u64>)> {
        if !self.open.is_empty() {
            self.close_block()?;
        }
        Ok((self.finished, self.starts))
    }
}

/// One metadata block: length word and bytes.
pub(super) fn encode_block(compressor: &dyn BlockCompressor, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let compressed = compressor.compress(bytes)?;
    let (word, payload) = match &compressed {
        Some(smaller) => (smaller.len() as u16, smaller.as_slice()),
        None => (bytes.len() as u16 | METADATA_STORED, bytes),
    };
    let mut block = Vec::with_capacity(2 + payload.len());
    block.extend(word.to_le_bytes());
    block.extend_from_slice(payload);
    Ok(block)
}
