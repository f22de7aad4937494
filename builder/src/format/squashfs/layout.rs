//! Numbers and records of the on-disk form. All integers are little-endian.

use super::BlockSize;

/// `hsqs`.
pub(super) const MAGIC: u32 = 0x7371_7368;
/// Bytes of the superblock.
pub(super) const SUPERBLOCK_SIZE: usize = 96;
/// Compressor id of zstd.
pub(super) const COMPRESSION_ZSTD: u16 = 6;
/// Uncompressed bytes of a full metadata block.
pub(super) const METADATA_SIZE: usize = 8192;
/// In a metadata block's length: stored as it is.
pub(super) const METADATA_STORED: u16 = 0x8000;
/// In a data block's length: stored as it is.
pub(super) const DATA_STORED: u32 = 1 << 24;
/// A table, block or fragment that is not there.
pub(super) const ABSENT: u64 = u64::MAX;
/// A file without a fragment, an inode without attributes.
pub(super) const NONE: u32 = u32::MAX;
/// mksquashfs's zstd level, which an image without compressor options is said to have.
pub(super) const DEFAULT_ZSTD_LEVEL: i32 = 15;
/// Entries under one directory header.
pub(super) const ENTRIES_PER_HEADER: usize = 256;
/// What a directory's size field counts beyond its listing: room for `.` and `..`, by convention.
pub(super) const DIRECTORY_SIZE_BIAS: u32 = 3;
/// The image is padded with zeros to a multiple of this, so that it fits any block device.
pub(super) const IMAGE_ALIGNMENT: u64 = 4096;

/// Superblock flags.
pub(super) mod flags {
    /// No file has a fragment.
    pub(in super::super) const NO_FRAGMENTS: u16 = 0x10;
    /// Files larger than a block have their tail in a fragment too.
    pub(in super::super) const ALWAYS_FRAGMENTS: u16 = 0x20;
    /// Equal files were searched for.
    pub(in super::super) const DUPLICATES: u16 = 0x40;
    /// There is an export table.
    pub(in super::super) const EXPORTABLE: u16 = 0x80;
    /// There are no attributes.
    pub(in super::super) const NO_XATTRS: u16 = 0x200;
    /// A metadata block with the compressor's options follows the superblock.
    pub(in super::super) const COMPRESSOR_OPTIONS: u16 = 0x400;
}

/// Inode types: the basic ones; an extended inode's type is the basic one plus [`inode::EXTENDED`].
pub(super) mod inode {
    pub(in super::super) const DIRECTORY: u16 = 1;
    pub(in super::super) const FILE: u16 = 2;
    pub(in super::super) const SYMLINK: u16 = 3;
    pub(in super::super) const BLOCK_DEVICE: u16 = 4;
    pub(in super::super) const CHAR_DEVICE: u16 = 5;
    pub(in super::super) const FIFO: u16 = 6;
    pub(in super::super) const SOCKET: u16 = 7;
    pub(in super::super) const EXTENDED: u16 = 7;
}

/// Attribute name prefixes, by the number that stands for them.
pub(super) const XATTR_PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// In an attribute's type: the value is elsewhere, and a reference to it is here.
pub(super) const XATTR_OUT_OF_LINE: u16 = 0x100;

/// Place of something in a table: start of its metadata block within the table, and offset in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    pub(super) block: u32,
    pub(super) offset: u16,
}

impl Position {
    /// As inode and attribute references are stored.
    pub(super) fn pack(self) -> u64 {
        u64::from(self.block) << 16 | u64::from(self.offset)
    }

    /// `None` when the block is beyond what a table can hold.
    pub(super) fn unpack(packed: u64) -> Option<Self> {
        Some(Self { block: u32::try_from(packed >> 16).ok()?, offset: packed as u16 })
    }
}

/// The superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) inodes: u32,
    pub(super) modified: u32,
    pub(super) block_size: BlockSize,
    pub(super) fragments: u32,
    pub(super) flags: u16,
    pub(super) ids: u16,
    pub(super) root: Position,
    pub(super) bytes_used: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: u64,
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    pub(super) fragment_table: u64,
    pub(super) export_table: u64,
}

impl Superblock {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SUPERBLOCK_SIZE);
        for word in [MAGIC, self.inodes, self.modified, self.block_size.bytes() as u32, self.fragments] {
            bytes.extend(word.to_le_bytes());
        }
        for half in [COMPRESSION_ZSTD, self.block_size.log(), self.flags, self.ids, 4, 0] {
            bytes.extend(half.to_le_bytes());
        }
        for long in [
            self.root.pack(),
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            bytes.extend(long.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Self::encode`] writes; the error says what is wrong.
    pub(super) fn decode(bytes: &[u8; SUPERBLOCK_SIZE]) -> Result<Self, String> {
        let mut fields = Fields::new(bytes);
        let mut next = || fields.u32().ok_or_else(|| "superblock is cut short".to_owned());
        let magic = next()?;
        if magic != MAGIC {
            return Err(format!("no squashfs magic: found {magic:#010x}"));
        }
        let [inodes, modified, block_size, fragments] = [next()?, next()?, next()?, next()?];
        let block_size = BlockSize::try_from(block_size).map_err(|error| error.to_string())?;
        let short = || "superblock is cut short".to_owned();
        let mut half = || fields.u16().ok_or_else(short);
        let [compression, log, flags, ids, major, minor] =
            [half()?, half()?, half()?, half()?, half()?, half()?];
        if (major, minor) != (4, 0) {
            return Err(format!("squashfs version {major}.{minor}; only 4.0 is known"));
        }
        if compression != COMPRESSION_ZSTD {
            return Err(format!("compressor {compression}; only zstd ({COMPRESSION_ZSTD}) is known"));
        }
        if log != block_size.log() {
            return Err(format!("block size {} contradicts its exponent {log}", block_size.bytes()));
        }
        let mut long = || fields.u64().ok_or_else(short);
        let root = long()?;
        let root = Position::unpack(root).ok_or_else(|| format!("root inode reference {root:#x}"))?;
        let [bytes_used, id_table, xattr_table] = [long()?, long()?, long()?];
        let [inode_table, directory_table, fragment_table, export_table] =
            [long()?, long()?, long()?, long()?];
        Ok(Self {
            inodes,
            modified,
            block_size,
            fragments,
            flags,
            ids,
            root,
            bytes_used,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        })
    }
}

/// Takes little-endian integers off the front of a byte slice.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(front)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
}

/// A device number as the kernel's `new_encode_dev` packs it.
pub(super) fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Major and minor of a packed device number.
pub(super) fn decode_device(packed: u32) -> (u32, u32) {
    ((packed >> 8) & 0xfff, (packed & 0xff) | ((packed >> 12) & 0xf_ff00))
}
