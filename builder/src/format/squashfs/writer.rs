//! Writing an image: data first, then the tables that say where it is, then the superblock.

use super::{
    BlockSize,
    compress::{BlockCompressor, Zstd},
    layout::{DATA_STORED, DEFAULT_ZSTD_LEVEL, IMAGE_ALIGNMENT, SUPERBLOCK_SIZE, Superblock, flags},
    metadata::encode_block,
    plan::{self, Block, Plan},
    tables,
};
use crate::{
    format::{
        contents::{OpenFiles, ReadError},
        pipeline,
    },
    tree::{Kind, Node},
};
use std::{
    io::{self, Seek, SeekFrom, Write},
    num::NonZeroUsize,
};

/// How an image is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Uncompressed bytes in a block.
    pub block_size: BlockSize,
    /// Modification time of every inode and of the image, seconds since 1970.
    pub timestamp: u32,
    /// Whether the tails of files larger than a block share fragments too: smaller, but reading such a tail
    /// decompresses its neighbours.
    pub pack_tails: bool,
    /// Whether to write the table that NFS export needs.
    pub exportable: bool,
    /// Threads that compress. Never shows in the image.
    pub threads: NonZeroUsize,
}

impl Options {
    /// The defaults: 256 KiB blocks, packed tails, no export table, all cores.
    #[must_use]
    pub fn new(timestamp: u32) -> Self {
        Self {
            block_size: BlockSize::KIB_256,
            timestamp,
            pack_tails: true,
            exportable: false,
            threads: pipeline::all_cores(),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image in bytes, a multiple of 4096.
    pub length: u64,
    /// Inodes of all kinds.
    pub inodes: u32,
    /// Bytes of all regular files, each counted as often as it is there.
    pub file_bytes: u64,
    /// Bytes that were not stored because an equal file was there already.
    pub duplicate_bytes: u64,
    /// Fragments.
    pub fragments: u32,
}

/// The image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tree's root is no directory.
    #[error("the root of a file system must be a directory")]
    RootNotDirectory,
    /// squashfs, or Linux, cannot have this inode.
    #[error("{path} cannot be in a squashfs image: {reason}")]
    Unrepresentable {
        /// Path in the image.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A count does not fit its field.
    #[error("squashfs cannot hold so many {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
    },
    /// A file's content could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// zstd failed.
    #[error("compressing failed: {0}")]
    Compress(io::Error),
    /// The output could not be written.
    #[error("cannot write the squashfs image: {0}")]
    Write(io::Error),
}

/// Where a file's blocks ended up.
#[derive(Debug, Clone, Default)]
pub(super) struct Placed {
    /// First byte of the first block.
    pub(super) start: u64,
    /// Length words of the blocks; 0 is a hole.
    pub(super) blocks: Vec<u32>,
    /// Bytes in holes.
    pub(super) sparse: u64,
}

/// Where a fragment ended up.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedFragment {
    pub(super) start: u64,
    pub(super) word: u32,
}

/// A block ready to be written.
enum Finished {
    Hole,
    Stored(Vec<u8>),
    Compressed(Vec<u8>),
}

/// Writes the tree under `root` as a squashfs image, from the output's current position on.
///
/// `progress` is called on this thread with the number of file bytes done since the last call.
///
/// # Errors
/// [`Error`]; the output then holds a part of an image.
pub fn write<W: Write + Seek>(
    root: &Node,
    options: &Options,
    compressor: &dyn BlockCompressor,
    out: &mut W,
    progress: &dyn Fn(u64),
) -> Result<Summary, Error> {
    if !matches!(root.kind, Kind::Directory(_)) {
        return Err(Error::RootNotDirectory);
    }
    let open_files = OpenFiles::default();
    let plan = plan::make(root, options.block_size, options.pack_tails, options.threads, &open_files)?;
    let mut out = Output { base: out.stream_position().map_err(Error::Write)?, inner: out, position: 0 };

    let level = compressor.level();
    let mut flags = flags::DUPLICATES;
    out.append(&[0; SUPERBLOCK_SIZE])?;
    // Tables are small and change with every build: they would only fill a cache.
    let zstd = Zstd { level };
    if level != DEFAULT_ZSTD_LEVEL {
        flags |= flags::COMPRESSOR_OPTIONS;
        let stored = encode_block(&NoCompression, &level.to_le_bytes()).map_err(Error::Compress)?;
        out.append(&stored)?;
    }
    let (files, fragments) = write_data(&plan, options, compressor, &open_files, &mut out, progress)?;

    let tables = tables::make(&plan, &files, &fragments, options, &zstd)?;
    flags |= if fragments.is_empty() { flags::NO_FRAGMENTS } else { 0 };
    flags |= if options.pack_tails { flags::ALWAYS_FRAGMENTS } else { 0 };
    flags |= if options.exportable { flags::EXPORTABLE } else { 0 };
    flags |= if tables.xattrs.is_none() { flags::NO_XATTRS } else { 0 };
    let places = tables.write(&mut out)?;
    let superblock = Superblock {
        inodes: plan.inodes.len() as u32,
        modified: options.timestamp,
        block_size: options.block_size,
        fragments: fragments.len() as u32,
        flags,
        ids: places.ids,
        root: places.root,
        bytes_used: out.position,
        id_table: places.id_table,
        xattr_table: places.xattr_table,
        inode_table: places.inode_table,
        directory_table: places.directory_table,
        fragment_table: places.fragment_table,
        export_table: places.export_table,
    };
    let padding = out.position.next_multiple_of(IMAGE_ALIGNMENT) - out.position;
    out.append(&vec![0; padding as usize])?;
    let length = out.position;
    out.overwrite_start(&superblock.encode())?;
    Ok(Summary {
        length,
        inodes: superblock.inodes,
        file_bytes: file_bytes(root),
        duplicate_bytes: plan.duplicate_bytes,
        fragments: superblock.fragments,
    })
}

/// Compressor options must be stored as they are.
struct NoCompression;

impl BlockCompressor for NoCompression {
    fn level(&self) -> i32 {
        0
    }

    fn compress(&self, _: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

fn write_data<W: Write + Seek>(
    plan: &Plan<'_>,
    options: &Options,
    compressor: &dyn BlockCompressor,
    open_files: &OpenFiles,
    out: &mut Output<'_, W>,
    progress: &dyn Fn(u64),
) -> Result<(Vec<Placed>, Vec<PlacedFragment>), Error> {
    let mut files = vec![Placed::default(); plan.files.len()];
    let mut fragments = Vec::with_capacity(plan.fragments as usize);
    pipeline::in_order(
        plan.blocks.len(),
        options.threads,
        4 * options.threads.get(),
        |job| finish_block(&plan.blocks[job], plan, compressor, open_files),
        |job, finished| {
            let start = out.position;
            let word = match &finished {
                Finished::Hole => 0,
                Finished::Stored(bytes) => bytes.len() as u32 | DATA_STORED,
                Finished::Compressed(bytes) => bytes.len() as u32,
            };
            if let Finished::Stored(bytes) | Finished::Compressed(bytes) = &finished {
                out.append(bytes)?;
            }
            match &plan.blocks[job] {
                Block::Data { file, start: in_file, length } => {
                    let placed = &mut files[*file];
                    if *in_file == 0 {
                        placed.start = start;
                    }
                    placed.blocks.push(word);
                    placed.sparse += if word == 0 { *length as u64 } else { 0 };
                    progress(*length as u64);
                }
                Block::Fragment(pieces) => {
                    fragments.push(PlacedFragment { start, word });
                    progress(pieces.iter().map(|piece| piece.length as u64).sum());
                }
            }
            Ok(())
        },
    )?;
    Ok((files, fragments))
}

/// Reads and compresses one block; runs on a worker thread.
fn finish_block(
    block: &Block,
    plan: &Plan<'_>,
    compressor: &dyn BlockCompressor,
    open_files: &OpenFiles,
) -> Result<Finished, Error> {
    let bytes = match block {
        Block::Data { file, start, length } => {
            let mut bytes = vec![0; *length];
            open_files.read_exact(plan.files[*file].content, *start, &mut bytes)?;
            if is_zero(&bytes) {
                return Ok(Finished::Hole);
            }
            bytes
        }
        Block::Fragment(pieces) => {
            let mut bytes = vec![0; pieces.iter().map(|piece| piece.length).sum()];
            let mut rest = bytes.as_mut_slice();
            for piece in pieces {
                let (front, back) = rest.split_at_mut(piece.length);
                open_files.read_exact(plan.files[piece.file].content, piece.start, front)?;
                rest = back;
            }
            bytes
        }
    };
    Ok(match compressor.compress(&bytes).map_err(Error::Compress)? {
        Some(compressed) => Finished::Compressed(compressed),
        None => Finished::Stored(bytes),
    })
}

/// Whether there are only zeros; comparing a slice with itself, shifted by one, is one `memcmp`.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes[..bytes.len() - 1] == bytes[1..]
}

fn file_bytes(node: &Node) -> u64 {
    match &node.kind {
        Kind::Directory(entries) => entries.values().map(file_bytes).sum(),
        Kind::File(content) => content.len(),
        _ => 0,
    }
}

/// The output, counted from the image's start.
pub(super) struct Output<'a, W> {
    inner: &'a mut W,
    base: u64,
    pub(super) position: u64,
}

impl<W: Write + Seek> Output<'_, W> {
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.inner.write_all(bytes).map_err(Error::Write)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Replaces the first bytes and leaves the output at the image's end.
    fn overwrite_start(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut write = || {
            self.inner.seek(SeekFrom::Start(self.base))?;
            self.inner.write_all(bytes)?;
            self.inner.seek(SeekFrom::Start(self.base + self.position))?;
            self.inner.flush()
        };
        write().map_err(Error::Write)
    }
}
