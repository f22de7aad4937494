//! Reading an image: the tree, files and attributes, for `inspect`, `verify` and `diff`.
//!
//! Only what [`super::write`] and mksquashfs with zstd write is understood. An image may be damaged or hostile:
//! sizes are bounded by the format's own limits before memory is taken, directories are followed to a limited
//! depth, and the answer to nonsense is [`InvalidImage`].

use super::layout::{
    ABSENT, DATA_STORED, DIRECTORY_SIZE_BIAS, Fields, METADATA_SIZE, METADATA_STORED, NONE, Position,
    SUPERBLOCK_SIZE, Superblock, XATTR_OUT_OF_LINE, XATTR_PREFIXES, decode_device, inode,
};
use crate::format::extent::ReadAt;
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    rc::Rc,
};

/// Directories nested deeper than this are taken for a loop.
const DEEPEST: usize = 256;
/// Metadata blocks kept decompressed.
const CACHED_BLOCKS: usize = 1024;

/// The image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidImage {
    /// Its bytes make no sense.
    #[error("not a sound squashfs image: {0}")]
    Nonsense(String),
    /// It could not be read from its file.
    #[error("cannot read the squashfs image: {0}")]
    Read(#[from] io::Error),
}

fn nonsense(what: impl Into<String>) -> InvalidImage {
    InvalidImage::Nonsense(what.into())
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file and its length in bytes.
    File {
        /// Length in bytes.
        length: u64,
    },
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device: major and minor.
    CharDevice(u32, u32),
    /// A block device: major and minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One inode found by walking the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub modified: u32,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    place: Place,
}

/// What the entry's inode says of its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    /// A file's blocks start here.
    start: u64,
    words: Vec<u32>,
    fragment: u32,
    fragment_offset: u32,
    /// A directory's listing.
    listing: Position,
    listing_size: u32,
}

/// An opened image.
pub struct Reader<'a> {
    image: &'a dyn ReadAt,
    superblock: Superblock,
    ids: Vec<u32>,
    xattrs: Option<XattrTables>,
    metadata: RefCell<HashMap<u64, MetadataBlock>>,
}

/// A metadata block's bytes, and where the next one starts.
type MetadataBlock = (Rc<Vec<u8>>, u64);

struct XattrTables {
    pairs: u64,
    sets: Vec<(u64, u32)>,
}

impl<'a> Reader<'a> {
    /// Reads the superblock and the small tables.
    ///
    /// # Errors
    /// [`InvalidImage`].
    pub fn open(image: &'a dyn ReadAt) -> Result<Self, InvalidImage> {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        if image.size() < SUPERBLOCK_SIZE as u64 {
            return Err(nonsense(format!("{} bytes are less than a superblock", image.size())));
        }
        image.read_exact_at(&mut bytes, 0)?;
        let superblock = Superblock::decode(&bytes).map_err(InvalidImage::Nonsense)?;
        if superblock.bytes_used > image.size() {
            return Err(nonsense(format!(
                "it should have {} bytes but is cut off at {}",
                superblock.bytes_used,
                image.size()
            )));
        }
        let mut reader =
            Self { image, superblock, ids: Vec::new(), xattrs: None, metadata: RefCell::default() };
        let ids = reader.indexed_table(superblock.id_table, u64::from(superblock.ids) * 4)?;
        reader.ids = ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        if superblock.xattr_table != ABSENT {
            reader.xattrs = Some(reader.xattr_tables(superblock.xattr_table)?);
        }
        Ok(reader)
    }

    /// The image's length in bytes without padding.
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        self.superblock.bytes_used
    }

    /// Modification time of the image, seconds since 1970.
    #[must_use]
    pub fn modified(&self) -> u32 {
        self.superblock.modified
    }

    /// Every inode, each directory before what is in it, names in byte order. The root is first.
    ///
    /// # Errors
    /// [`InvalidImage`].
    pub fn entries(&self) -> Result<Vec<Entry>, InvalidImage> {
        let root = self.inode(self.superblock.root, Vec::new())?;
        if root.kind != EntryKind::Directory {
            return Err(nonsense("the root is no directory"));
        }
        let mut found = Vec::new();
        self.walk(root, 0, &mut found)?;
        Ok(found)
    }

    fn walk(&self, directory: Entry, depth: usize, found: &mut Vec<Entry>) -> Result<(), InvalidImage> {
        if depth > DEEPEST {
            return Err(nonsense("directories are nested without end"));
        }
        let children = self.listing(&directory)?;
        let path = directory.path.clone();
        found.push(directory);
        for (name, position) in children {
            // A sound image has each inode once; a listing that loops would otherwise be followed for ever.
            if found.len() > self.superblock.inodes as usize {
                return Err(nonsense("there are more entries than inodes"));
            }
            let mut child = path.clone();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend(name);
            let entry = self.inode(position, child)?;
            match entry.kind {
                EntryKind::Directory => self.walk(entry, depth + 1, found)?,
                _ => found.push(entry),
            }
        }
        Ok(())
    }

    /// The entry at `path` (no leading slash), without following symbolic links.
    ///
    /// # Errors
    /// [`InvalidImage`]; a path that is not there is `None`.
    pub fn find(&self, path: &[u8]) -> Result<Option<Entry>, InvalidImage> {
        let mut entry = self.inode(self.superblock.root, Vec::new())?;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            if entry.kind != EntryKind::Directory {
                return Ok(None);
            }
            let Some((name, position)) = self.listing(&entry)?.into_iter().find(|(name, _)| name == part)
            else {
                return Ok(None);
            };
            let mut child = entry.path;
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend(name);
            entry = self.inode(position, child)?;
        }
        Ok(Some(entry))
    }

    /// Gives the file's bytes to `receive`, block by block; nothing for what is no regular file.
    ///
    /// # Errors
    /// [`InvalidImage`], also from `receive`.
    pub fn read(
        &self,
        entry: &Entry,
        receive: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), InvalidImage> {
        let EntryKind::File { length } = entry.kind else {
            return Ok(());
        };
        let block_size = self.superblock.block_size.bytes();
        let mut at = entry.place.start;
        let mut left = length;
        for word in &entry.place.words {
            let length = left.min(block_size as u64) as usize;
            match *word {
                0 => receive(&vec![0; length])?,
                word => {
                    let block = self.data_block(at, word)?;
                    if block.len() != length {
                        return Err(nonsense(format!(
                            "a data block has {} bytes instead of {length}",
                            block.len()
                        )));
                    }
                    receive(&block)?;
                    at += u64::from(word & !DATA_STORED);
                }
            }
            left -= length as u64;
        }
        if left > 0 {
            let fragment = self.fragment(entry.place.fragment)?;
            let start = entry.place.fragment_offset as usize;
            let tail = usize::try_from(left)
                .ok()
                .and_then(|left| fragment.get(start..start.checked_add(left)?))
                .ok_or_else(|| nonsense("a file's tail reaches past its fragment"))?;
            receive(tail)?;
        }
        Ok(())
    }

    fn fragment(&self, number: u32) -> Result<Vec<u8>, InvalidImage> {
        if number >= self.superblock.fragments {
            return Err(nonsense(format!("fragment {number} of {}", self.superblock.fragments)));
        }
        const PER_BLOCK: u32 = METADATA_SIZE as u32 / 16;
        let block = self.index_entry(self.superblock.fragment_table, number / PER_BLOCK)?;
        let (bytes, _) = self.metadata_block(block)?;
        let at = (number % PER_BLOCK) as usize * 16;
        let mut fields = Fields::new(bytes.get(at..).unwrap_or_default());
        let (start, word) =
            fields.u64().zip(fields.u32()).ok_or_else(|| nonsense("the fragment table is cut short"))?;
        self.data_block(start, word)
    }

    fn data_block(&self, at: u64, word: u32) -> Result<Vec<u8>, InvalidImage> {
        let length = (word & !DATA_STORED) as usize;
        let block_size = self.superblock.block_size.bytes();
        if length > block_size {
            return Err(nonsense(format!("a data block of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.image.read_exact_at(&mut bytes, at)?;
        if word & DATA_STORED != 0 {
            return Ok(bytes);
        }
        zstd::bulk::decompress(&bytes, block_size)
            .map_err(|error| nonsense(format!("the data block at {at} does not decompress: {error}")))
    }

    fn inode(&self, position: Position, path: Vec<u8>) -> Result<Entry, InvalidImage> {
        let start = self
            .superblock
            .inode_table
            .checked_add(u64::from(position.block))
            .ok_or_else(|| nonsense("an inode outside the image"))?;
        let mut cursor = Cursor { reader: self, block: start, offset: usize::from(position.offset) };
        let [kind, mode, uid, gid] = [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?];
        let modified = cursor.u32()?;
        let _number = cursor.u32()?;
        let extended = kind > inode::EXTENDED;
        let basic = if extended { kind - inode::EXTENDED } else { kind };
        let mut place = Place { fragment: NONE, ..Place::default() };
        let mut set = NONE;
        let kind = match basic {
            inode::DIRECTORY => {
                self.directory_fields(&mut cursor, extended, &mut place, &mut set)?;
                EntryKind::Directory
            }
            inode::FILE => {
                EntryKind::File { length: self.file_fields(&mut cursor, extended, &mut place, &mut set)? }
            }
            _ => {
                let _links = cursor.u32()?;
                let kind = match basic {
                    inode::SYMLINK => {
                        let length = cursor.u32()? as usize;
                        if length > METADATA_SIZE {
                            return Err(nonsense(format!("a symbolic link of {length} bytes")));
                        }
                        EntryKind::Symlink(cursor.bytes(length)?)
                    }
                    inode::BLOCK_DEVICE | inode::CHAR_DEVICE => {
                        let (major, minor) = decode_device(cursor.u32()?);
                        match basic {
                            inode::BLOCK_DEVICE => EntryKind::BlockDevice(major, minor),
                            _ => EntryKind::CharDevice(major, minor),
                        }
                    }
                    inode::FIFO => EntryKind::Fifo,
                    inode::SOCKET => EntryKind::Socket,
                    other => return Err(nonsense(format!("an inode of type {other}"))),
                };
                if extended {
                    set = cursor.u32()?;
                }
                kind
            }
        };
        let id = |index: u16| {
            self.ids.get(usize::from(index)).copied().ok_or_else(|| nonsense(format!("owner number {index}")))
        };
        Ok(Entry {
            path,
            kind,
            mode,
            uid: id(uid)?,
            gid: id(gid)?,
            modified,
            xattrs: self.xattr_set(set)?,
            place,
        })
    }

    fn directory_fields(
        &self,
        cursor: &mut Cursor<'_, '_>,
        extended: bool,
        place: &mut Place,
        set: &mut u32,
    ) -> Result<(), InvalidImage> {
        if extended {
            let _links = cursor.u32()?;
            place.listing_size = cursor.u32()?;
            place.listing.block = cursor.u32()?;
            let _parent = cursor.u32()?;
            let _indexes = cursor.u16()?;
            place.listing.offset = cursor.u16()?;
            *set = cursor.u32()?;
        } else {
            place.listing.block = cursor.u32()?;
            let _links = cursor.u32()?;
            place.listing_size = u32::from(cursor.u16()?);
            place.listing.offset = cursor.u16()?;
        }
        Ok(())
    }

    fn file_fields(
        &self,
        cursor: &mut Cursor<'_, '_>,
        extended: bool,
        place: &mut Place,
        set: &mut u32,
    ) -> Result<u64, InvalidImage> {
        let length;
        if extended {
            place.start = cursor.u64()?;
            length = cursor.u64()?;
            let _sparse = cursor.u64()?;
            let _links = cursor.u32()?;
            place.fragment = cursor.u32()?;
            place.fragment_offset = cursor.u32()?;
            *set = cursor.u32()?;
        } else {
            place.start = u64::from(cursor.u32()?);
            place.fragment = cursor.u32()?;
            place.fragment_offset = cursor.u32()?;
            length = u64::from(cursor.u32()?);
        }
        let block_size = self.superblock.block_size.bytes() as u64;
        let blocks = match place.fragment {
            NONE => length.div_ceil(block_size),
            _ => length / block_size,
        };
        // Each block has four bytes in the inode table, so there cannot be more than the image has bytes.
        if blocks > self.superblock.bytes_used {
            return Err(nonsense(format!("a file of {length} bytes")));
        }
        for _ in 0..blocks {
            place.words.push(cursor.u32()?);
        }
        Ok(length)
    }

    fn listing(&self, directory: &Entry) -> Result<Vec<(Vec<u8>, Position)>, InvalidImage> {
        let place = &directory.place;
        let mut found = Vec::new();
        let Some(size) = place.listing_size.checked_sub(DIRECTORY_SIZE_BIAS) else {
            return Ok(found);
        };
        let start = self
            .superblock
            .directory_table
            .checked_add(u64::from(place.listing.block))
            .ok_or_else(|| nonsense("a directory outside the image"))?;
        let mut cursor = Cursor { reader: self, block: start, offset: usize::from(place.listing.offset) };
        let mut left = i64::from(size);
        while left > 0 {
            let entries = cursor.u32()?;
            let block = cursor.u32()?;
            let _number = cursor.u32()?;
            left -= 12;
            if entries > 255 {
                return Err(nonsense(format!("a directory header of {} entries", u64::from(entries) + 1)));
            }
            for _ in 0..=entries {
                let offset = cursor.u16()?;
                let [_number, _kind] = [cursor.u16()?, cursor.u16()?];
                let length = usize::from(cursor.u16()?) + 1;
                let name = if length <= 256 { cursor.bytes(length)? } else { Vec::new() };
                if name.is_empty()
                    || name == b"."
                    || name == b".."
                    || name.contains(&b'/')
                    || name.contains(&0)
                {
                    return Err(nonsense(format!("a file called {:?}", String::from_utf8_lossy(&name))));
                }
                left -= 8 + length as i64;
                found.push((name, Position { block, offset }));
            }
        }
        Ok(found)
    }

    fn xattr_tables(&self, at: u64) -> Result<XattrTables, InvalidImage> {
        let mut header = [0; 16];
        self.image.read_exact_at(&mut header, at)?;
        let mut fields = Fields::new(&header);
        let (pairs, count) = fields.u64().zip(fields.u32()).ok_or_else(|| nonsense("no attribute table"))?;
        let bytes = self.indexed_table(at.saturating_add(16), u64::from(count) * 16)?;
        let sets = bytes
            .chunks_exact(16)
            .filter_map(|set| {
                let mut fields = Fields::new(set);
                fields.u64().zip(fields.u32())
            })
            .collect();
        Ok(XattrTables { pairs, sets })
    }

    fn xattr_set(&self, set: u32) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, InvalidImage> {
        let mut found = BTreeMap::new();
        if set == NONE {
            return Ok(found);
        }
        let tables = self.xattrs.as_ref().ok_or_else(|| nonsense("attributes without an attribute table"))?;
        let &(packed, count) =
            tables.sets.get(set as usize).ok_or_else(|| nonsense(format!("attribute set {set}")))?;
        let mut cursor = self.pairs_at(tables, packed)?;
        for _ in 0..count {
            let kind = cursor.u16()?;
            let name = usize::from(cursor.u16()?);
            let prefix = XATTR_PREFIXES
                .get(usize::from(kind & !XATTR_OUT_OF_LINE))
                .ok_or_else(|| nonsense(format!("an attribute of type {kind}")))?;
            let mut full = prefix.to_vec();
            full.extend(cursor.bytes(name)?);
            let mut length = cursor.u32()? as usize;
            let value = if kind & XATTR_OUT_OF_LINE == 0 {
                bounded_value(&mut cursor, length)?
            } else {
                let mut elsewhere = self.pairs_at(tables, cursor.u64()?)?;
                length = elsewhere.u32()? as usize;
                bounded_value(&mut elsewhere, length)?
            };
            found.insert(full, value);
        }
        Ok(found)
    }

    fn pairs_at(&self, tables: &XattrTables, packed: u64) -> Result<Cursor<'_, 'a>, InvalidImage> {
        let block = tables
            .pairs
            .checked_add(packed >> 16)
            .ok_or_else(|| nonsense("an attribute outside the image"))?;
        Ok(Cursor { reader: self, block, offset: (packed & 0xffff) as usize })
    }

    /// A table of `length` bytes whose blocks' places are listed at `at`.
    fn indexed_table(&self, at: u64, length: u64) -> Result<Vec<u8>, InvalidImage> {
        let mut bytes = Vec::new();
        for block in 0..length.div_ceil(METADATA_SIZE as u64) {
            let place = self.index_entry(at, block as u32)?;
            bytes.extend_from_slice(&self.metadata_block(place)?.0);
        }
        if (bytes.len() as u64) < length {
            return Err(nonsense("a table is cut short"));
        }
        bytes.truncate(length as usize);
        Ok(bytes)
    }

    fn index_entry(&self, at: u64, number: u32) -> Result<u64, InvalidImage> {
        let mut place = [0; 8];
        let at =
            at.checked_add(u64::from(number) * 8).ok_or_else(|| nonsense("a table outside the image"))?;
        self.image.read_exact_at(&mut place, at)?;
        Ok(u64::from_le_bytes(place))
    }

    /// The metadata block at `at`, decompressed, and where the next one starts.
    fn metadata_block(&self, at: u64) -> Result<MetadataBlock, InvalidImage> {
        if let Some(known) = self.metadata.borrow().get(&at) {
            return Ok(known.clone());
        }
        let mut word = [0; 2];
        self.image.read_exact_at(&mut word, at)?;
        let word = u16::from_le_bytes(word);
        let length = usize::from(word & !METADATA_STORED);
        if length == 0 || length > METADATA_SIZE {
            return Err(nonsense(format!("a metadata block of {length} bytes at {at}")));
        }
        let mut bytes = vec![0; length];
        self.image.read_exact_at(&mut bytes, at.saturating_add(2))?;
        if word & METADATA_STORED == 0 {
            bytes = zstd::bulk::decompress(&bytes, METADATA_SIZE).map_err(|error| {
                nonsense(format!("the metadata block at {at} does not decompress: {error}"))
            })?;
        }
        let known = (Rc::new(bytes), at + 2 + length as u64);
        let mut cache = self.metadata.borrow_mut();
        if cache.len() >= CACHED_BLOCKS {
            cache.clear();
        }
        cache.insert(at, known.clone());
        Ok(known)
    }
}

fn bounded_value(cursor: &mut Cursor<'_, '_>, length: usize) -> Result<Vec<u8>, InvalidImage> {
    if length > 65536 {
        return Err(nonsense(format!("an attribute of {length} bytes")));
    }
    cursor.bytes(length)
}

/// Reads on through a table's metadata blocks.
struct Cursor<'r, 'a> {
    reader: &'r Reader<'a>,
    block: u64,
    offset: usize,
}

impl Cursor<'_, '_> {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), InvalidImage> {
        let mut filled = 0;
        while filled < out.len() {
            let (bytes, next) = self.reader.metadata_block(self.block)?;
            let rest = bytes.get(self.offset..).unwrap_or_default();
            if rest.is_empty() {
                if self.offset > bytes.len() {
                    return Err(nonsense("a reference points behind its metadata block"));
                }
                self.block = next;
                self.offset = 0;
                continue;
            }
            let count = rest.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            self.offset += count;
        }
        Ok(())
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, InvalidImage> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, InvalidImage> {
        let mut bytes = [0; 2];
        self.fill(&mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, InvalidImage> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, InvalidImage> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
