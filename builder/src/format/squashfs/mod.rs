//! squashfs 4.0 with zstd: the root file system.
//!
//! A squashfs image is, in this order: a superblock; the files' data in blocks of a fixed size, each compressed
//! alone; *fragments*, blocks that hold the tails of many files; then tables of inodes, directories, fragments,
//! inode references (for NFS export), user and group ids, and extended attributes. Tables are cut into
//! *metadata blocks* of 8 KiB before compression. The format is described in the kernel's
//! `Documentation/filesystems/squashfs.rst` and `fs/squashfs/squashfs_fs.h`.
//!
//! Writing has three steps, so that the expensive one is a plain row of independent jobs:
//!
//! 1. [`plan`]: the tree becomes a list of inodes; equal files are found; every data block and fragment is laid
//!    out, from sizes alone.
//! 2. Blocks are read, compressed and written: many threads, results in the plan's order
//!    ([`crate::format::pipeline`]).
//! 3. [`tables`]: what was learnt (positions, compressed sizes) goes into the tables.
//!
//! What it does not write: directory indexes (lookups in directories of thousands of entries are linear),
//! sockets, other compressors, and hard links (a tree has none: equal files share their data anyway).

mod cache;
mod compress;
mod layout;
mod metadata;
mod plan;
mod reader;
mod tables;
mod writer;

pub use cache::{CacheError, CachedZstd};
pub use compress::{BlockCompressor, Zstd};
pub use reader::{Entry, EntryKind, InvalidImage, Reader};
pub use writer::{Error, Options, Summary, write};

/// How many uncompressed bytes one data block or fragment holds: a power of two from 4 KiB to 1 MiB.
///
/// Larger blocks compress better; smaller ones cost less to read when little of them is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSize {
    log: u16,
}

/// The number is not a power of two from 4 KiB to 1 MiB.
#[derive(Debug, thiserror::Error)]
#[error("squashfs block size {0} is not a power of two between 4096 and 1048576")]
pub struct InvalidBlockSize(u32);

impl BlockSize {
    /// mksquashfs's default.
    pub const KIB_128: Self = Self { log: 17 };
    /// Ours: on a system tree 2 to 3 % smaller than 128 KiB, and a random read still decompresses little.
    pub const KIB_256: Self = Self { log: 18 };
    /// The largest.
    pub const MIB_1: Self = Self { log: 20 };

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.log
    }

    /// The exponent of two.
    #[must_use]
    pub const fn log(self) -> u16 {
        self.log
    }
}

impl TryFrom<u32> for BlockSize {
    type Error = InvalidBlockSize;

    fn try_from(bytes: u32) -> Result<Self, InvalidBlockSize> {
        match bytes.checked_ilog2().unwrap_or(0) as u16 {
            log @ 12..=20 if bytes.is_power_of_two() => Ok(Self { log }),
            _ => Err(InvalidBlockSize(bytes)),
        }
    }
}

#[cfg(test)]
mod tests;
