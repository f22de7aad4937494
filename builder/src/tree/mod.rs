//! The root file tree in memory: what the image will hold, before any format is chosen.
//!
//! Sources produce trees, later ones are merged over earlier ones, and writers (squashfs, cpio) walk the result
//! in name order. File contents are not held: a [`Content`] says where the bytes are. Every node has the image's
//! one timestamp, so the tree has none; the writer is told it once.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// A file name: no `/`, not empty, not `.` or `..`. Bytes, as Linux has it.
pub type Name = Vec<u8>;

/// What a directory holds, in byte order of the names: the order every writer wants.
pub type Entries = BTreeMap<Name, Node>;

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Ownership, mode and attributes.
    pub meta: Metadata,
    /// What it is.
    pub kind: Kind,
}

/// Ownership, mode and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes by full name (`security.capability`, `trusted.overlay.opaque`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The kinds of inode an image can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory(Entries),
    /// A regular file.
    File(Content),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In memory: small generated files.
    Bytes(Arc<[u8]>),
    /// A range of a file on disk: a member of an unpacked archive, or a whole file.
    Range {
        /// The file.
        path: Arc<PathBuf>,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
    },
}

impl Content {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Range { length, .. } => *length,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

mod access;
pub use access::NotADirectory;
pub mod alternatives;
pub mod ca_bundle;
pub mod capability;
pub mod check;
pub mod depmod;
pub mod glob;
pub mod hwdb;
pub mod ld_cache;
pub mod merge;
pub mod users;
