//! The tables behind the data: inodes, directories, fragments, export, ids, attributes.
//!
//! An inode needs the place of its directory's listing, and a listing the places of its inodes. Directories are
//! therefore taken from the last inode to the first: children's listings are there when their inodes are
//! written, and all inodes of one directory lie together.

use super::{
    compress::BlockCompressor,
    layout::{
        ABSENT, DIRECTORY_SIZE_BIAS, ENTRIES_PER_HEADER, NONE, Position, XATTR_PREFIXES, encode_device, inode,
    },
    metadata::MetadataWriter,
    plan::{Inode, Plan, Planned, path_of},
    writer::{Error, Options, Output, Placed, PlacedFragment},
};
use crate::tree::{Kind, Metadata};
use std::{
    collections::{BTreeMap, HashMap},
    io::{Seek, Write},
};

/// A table reached through a list of its blocks' places.
pub(super) struct Indexed {
    bytes: Vec<u8>,
    starts: Vec<u64>,
}

/// All tables, ready to be written.
pub(super) struct Tables {
    inodes: Vec<u8>,
    directories: Vec<u8>,
    root: Position,
    fragments: Indexed,
    export: Option<Indexed>,
    ids: Indexed,
    id_count: u16,
    pub(super) xattrs: Option<Xattrs>,
}

/// The attribute tables.
pub(super) struct Xattrs {
    pairs: Vec<u8>,
    sets: Indexed,
    count: u32,
}

/// Where the tables are in the image.
pub(super) struct Places {
    pub(super) root: Position,
    pub(super) ids: u16,
    pub(super) inode_table: u64,
    pub(super) directory_table: u64,
    pub(super) fragment_table: u64,
    pub(super) export_table: u64,
    pub(super) id_table: u64,
    pub(super) xattr_table: u64,
}

/// Where a directory's listing is.
#[derive(Debug, Clone, Copy, Default)]
struct Listing {
    position: Position,
    /// As the inode says it: with [`DIRECTORY_SIZE_BIAS`].
    size: u32,
}

pub(super) fn make(
    plan: &Plan<'_>,
    files: &[Placed],
    fragments: &[PlacedFragment],
    options: &Options,
    zstd: &dyn BlockCompressor,
) -> Result<Tables, Error> {
    let ids = Ids::collect(plan)?;
    let (set_of_inode, xattrs) = make_xattrs(plan, zstd)?;
    let mut inodes = MetadataWriter::new(zstd);
    let mut directories = MetadataWriter::new(zstd);
    let mut positions = vec![Position::default(); plan.inodes.len()];
    let mut listings: Vec<Listing> = vec![Listing::default(); plan.inodes.len()];
    let encoder = InodeEncoder { plan, files, ids: &ids, sets: &set_of_inode, timestamp: options.timestamp };
    for index in (0..plan.inodes.len()).rev() {
        let Planned::Directory(children) = &plan.inodes[index].kind else {
            continue;
        };
        for child in children.clone() {
            positions[child] = inodes.position();
            inodes.append(&encoder.encode(child, listings[child])).map_err(Error::Compress)?;
        }
        let listing = encode_listing(plan, children.clone(), &positions);
        listings[index] = Listing {
            position: directories.position(),
            size: u32::try_from(listing.len())
                .ok()
                .and_then(|size| size.checked_add(DIRECTORY_SIZE_BIAS))
                .ok_or(Error::TooMany { what: "files in one directory" })?,
        };
        directories.append(&listing).map_err(Error::Compress)?;
    }
    let root = inodes.position();
    positions[0] = root;
    inodes.append(&encoder.encode(0, listings[0])).map_err(Error::Compress)?;

    let fragment_entries = fragments.iter().flat_map(|fragment| {
        let mut entry = fragment.start.to_le_bytes().to_vec();
        entry.extend(fragment.word.to_le_bytes());
        entry.extend([0; 4]);
        entry
    });
    let export = options.exportable.then(|| {
        indexed(positions.iter().flat_map(|position| position.pack().to_le_bytes()).collect(), zstd)
    });
    Ok(Tables {
        inodes: inodes.finish().map_err(Error::Compress)?.0,
        directories: directories.finish().map_err(Error::Compress)?.0,
        root,
        fragments: indexed(fragment_entries.collect(), zstd)?,
        export: export.transpose()?,
        id_count: ids.values.len() as u16,
        ids: indexed(ids.values.iter().flat_map(|id| id.to_le_bytes()).collect(), zstd)?,
        xattrs,
    })
}

fn indexed(bytes: Vec<u8>, zstd: &dyn BlockCompressor) -> Result<Indexed, Error> {
    let mut writer = MetadataWriter::new(zstd);
    writer.append(&bytes).map_err(Error::Compress)?;
    let (bytes, starts) = writer.finish().map_err(Error::Compress)?;
    Ok(Indexed { bytes, starts })
}

impl Tables {
    /// Writes the tables in the order readers expect: each table's index ends where the next one's blocks begin.
    pub(super) fn write<W: Write + Seek>(self, out: &mut Output<'_, W>) -> Result<Places, Error> {
        let inode_table = out.position;
        out.append(&self.inodes)?;
        let directory_table = out.position;
        out.append(&self.directories)?;
        let fragment_table = self.fragments.write(out, &[])?;
        let export_table = match self.export {
            Some(table) => table.write(out, &[])?,
            None => ABSENT,
        };
        let id_table = self.ids.write(out, &[])?;
        let xattr_table = match self.xattrs {
            Some(Xattrs { pairs, sets, count }) => {
                let start = out.position;
                out.append(&pairs)?;
                let mut header = start.to_le_bytes().to_vec();
                header.extend(count.to_le_bytes());
                header.extend([0; 4]);
                sets.write(out, &header)?
            }
            None => ABSENT,
        };
        Ok(Places {
            root: self.root,
            ids: self.id_count,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
            id_table,
            xattr_table,
        })
    }
}

impl Indexed {
    /// Blocks, then `header`, then the blocks' places; returns where the header or the places start.
    fn write<W: Write + Seek>(self, out: &mut Output<'_, W>, header: &[u8]) -> Result<u64, Error> {
        let base = out.position;
        out.append(&self.bytes)?;
        let start = out.position;
        out.append(header)?;
        for block in self.starts {
            out.append(&(base + block).to_le_bytes())?;
        }
        Ok(start)
    }
}

/// The user and group ids in use, in numeric order.
struct Ids {
    values: Vec<u32>,
    index: HashMap<u32, u16>,
}

impl Ids {
    fn collect(plan: &Plan<'_>) -> Result<Self, Error> {
        let mut values: Vec<u32> =
            plan.inodes.iter().flat_map(|inode| [inode.node.meta.uid, inode.node.meta.gid]).collect();
        values.sort_unstable();
        values.dedup();
        if values.len() > usize::from(u16::MAX) {
            return Err(Error::TooMany { what: "different user and group ids" });
        }
        let index = values.iter().zip(0..).map(|(id, index)| (*id, index)).collect();
        Ok(Self { values, index })
    }
}

/// Attribute sets: for each inode its set's number, and the tables.
fn make_xattrs(plan: &Plan<'_>, zstd: &dyn BlockCompressor) -> Result<(Vec<u32>, Option<Xattrs>), Error> {
    let mut known: HashMap<&BTreeMap<Vec<u8>, Vec<u8>>, u32> = HashMap::new();
    let mut of_inode = Vec::with_capacity(plan.inodes.len());
    let mut pairs = MetadataWriter::new(zstd);
    let mut sets = Vec::new();
    for inode in &plan.inodes {
        let xattrs = &inode.node.meta.xattrs;
        if xattrs.is_empty() {
            of_inode.push(NONE);
            continue;
        }
        if let Some(set) = known.get(xattrs) {
            of_inode.push(*set);
            continue;
        }
        let set = known.len() as u32;
        let encoded = encode_pairs(xattrs).map_err(|reason| Error::Unrepresentable {
            path: path_of(&plan.inodes, inode.parent, inode.name),
            reason,
        })?;
        sets.extend(pairs.position().pack().to_le_bytes());
        sets.extend((xattrs.len() as u32).to_le_bytes());
        sets.extend((encoded.len() as u32).to_le_bytes());
        pairs.append(&encoded).map_err(Error::Compress)?;
        known.insert(xattrs, set);
        of_inode.push(set);
    }
    if known.is_empty() {
        return Ok((of_inode, None));
    }
    let (pairs, _) = pairs.finish().map_err(Error::Compress)?;
    Ok((of_inode, Some(Xattrs { pairs, sets: indexed(sets, zstd)?, count: known.len() as u32 })))
}

fn encode_pairs(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::new();
    for (name, value) in xattrs {
        let (kind, rest) = (0u16..)
            .zip(XATTR_PREFIXES)
            .find_map(|(kind, prefix)| Some((kind, name.strip_prefix(prefix)?)))
            .filter(|(_, rest)| !rest.is_empty())
            .ok_or("it has an extended attribute outside user., trusted. and security.")?;
        if name.len() > 255 {
            return Err("it has an extended attribute with a name longer than 255 bytes");
        }
        if value.len() > 65536 {
            return Err("it has an extended attribute with a value longer than 64 KiB");
        }
        bytes.extend(kind.to_le_bytes());
        bytes.extend((rest.len() as u16).to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(value);
    }
    Ok(bytes)
}

/// One directory's listing: runs of entries that share an inode block, each behind a header.
fn encode_listing(plan: &Plan<'_>, children: std::ops::Range<usize>, positions: &[Position]) -> Vec<u8> {
    let children: Vec<usize> = children.collect();
    let mut bytes = Vec::new();
    for in_block in children.chunk_by(|a, b| positions[*a].block == positions[*b].block) {
        for run in in_block.chunks(ENTRIES_PER_HEADER) {
            // Children are numbered consecutively, so differences to the first always fit.
            let first = run[0];
            bytes.extend((run.len() as u32 - 1).to_le_bytes());
            bytes.extend(positions[first].block.to_le_bytes());
            bytes.extend(number(first).to_le_bytes());
            for child in run {
                let name = plan.inodes[*child].name;
                bytes.extend(positions[*child].offset.to_le_bytes());
                bytes.extend(((child - first) as i16).to_le_bytes());
                bytes.extend(basic_type(&plan.inodes[*child].node.kind).to_le_bytes());
                bytes.extend((name.len() as u16 - 1).to_le_bytes());
                bytes.extend_from_slice(name);
            }
        }
    }
    bytes
}

/// The inode number of the inode at `index`; numbers start at 1.
fn number(index: usize) -> u32 {
    index as u32 + 1
}

fn basic_type(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory(_) => inode::DIRECTORY,
        Kind::File(_) => inode::FILE,
        Kind::Symlink(_) => inode::SYMLINK,
        Kind::CharDevice { .. } => inode::CHAR_DEVICE,
        Kind::BlockDevice { .. } => inode::BLOCK_DEVICE,
        Kind::Fifo => inode::FIFO,
    }
}

struct InodeEncoder<'a> {
    plan: &'a Plan<'a>,
    files: &'a [Placed],
    ids: &'a Ids,
    sets: &'a [u32],
    timestamp: u32,
}

impl InodeEncoder<'_> {
    fn encode(&self, index: usize, listing: Listing) -> Vec<u8> {
        let inode = &self.plan.inodes[index];
        let set = self.sets[index];
        let mut body = Body::default();
        let extended = match &inode.kind {
            Planned::Directory(children) => self.directory(&mut body, index, children.clone(), listing, set),
            Planned::File(file) => self.file(&mut body, inode, *file, set),
            Planned::Other(kind) => other(&mut body, kind, set),
        };
        let kind = basic_type(&inode.node.kind) + if extended { inode::EXTENDED } else { 0 };
        let mut bytes = self.header(kind, &inode.node.meta, index);
        bytes.extend(body.0);
        bytes
    }

    fn header(&self, kind: u16, meta: &Metadata, index: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        for half in [kind, meta.mode & 0o7777, self.ids.index[&meta.uid], self.ids.index[&meta.gid]] {
            bytes.extend(half.to_le_bytes());
        }
        bytes.extend(self.timestamp.to_le_bytes());
        bytes.extend(number(index).to_le_bytes());
        bytes
    }

    fn directory(
        &self,
        body: &mut Body,
        index: usize,
        children: std::ops::Range<usize>,
        listing: Listing,
        set: u32,
    ) -> bool {
        let directories = self.plan.inodes[children]
            .iter()
            .filter(|child| matches!(child.kind, Planned::Directory(_)))
            .count();
        let links = 2 + directories as u32;
        // The root's parent is, by convention, the number after the last inode.
        let parent = match index {
            0 => number(self.plan.inodes.len()),
            _ => number(self.plan.inodes[index].parent),
        };
        match u16::try_from(listing.size) {
            Ok(size) if set == NONE => {
                body.u32(listing.position.block)
                    .u32(links)
                    .u16(size)
                    .u16(listing.position.offset)
                    .u32(parent);
                false
            }
            _ => {
                body.u32(links).u32(listing.size).u32(listing.position.block).u32(parent);
                body.u16(0).u16(listing.position.offset).u32(set);
                true
            }
        }
    }

    fn file(&self, body: &mut Body, inode: &Inode<'_>, file: usize, set: u32) -> bool {
        let Kind::File(content) = &inode.node.kind else {
            unreachable!("only regular files have a planned file");
        };
        let placed = &self.files[file];
        let tail = self.plan.files[file].tail;
        let (fragment, offset) = tail.map_or((NONE, 0), |tail| (tail.fragment, tail.offset));
        let extended = match (u32::try_from(placed.start), u32::try_from(content.len())) {
            (Ok(start), Ok(length)) if set == NONE && placed.sparse == 0 => {
                body.u32(start).u32(fragment).u32(offset).u32(length);
                false
            }
            _ => {
                // As mksquashfs has it, a file is never said to be nothing but holes.
                let sparse = placed.sparse.min(content.len().saturating_sub(1));
                body.u64(placed.start).u64(content.len()).u64(sparse);
                body.u32(1).u32(fragment).u32(offset).u32(set);
                true
            }
        };
        for word in &placed.blocks {
            body.u32(*word);
        }
        extended
    }
}

fn other(body: &mut Body, kind: &Kind, set: u32) -> bool {
    body.u32(1);
    match kind {
        Kind::Symlink(target) => {
            body.u32(target.len() as u32);
            body.0.extend_from_slice(target);
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            body.u32(encode_device(*major, *minor));
        }
        Kind::Fifo | Kind::Directory(_) | Kind::File(_) => {}
    }
    if set != NONE {
        body.u32(set);
    }
    set != NONE
}

/// The part of an inode behind the common header.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }
}
