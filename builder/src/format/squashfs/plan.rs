//! From a tree to a list of inodes and a row of blocks to compress, before any block is read.
//!
//! Inode numbers follow the list: a directory's children are consecutive, and each child directory's own
//! children come after them. File data is laid out in the same order, so what lies in one directory lies
//! together on disk.

use super::{BlockSize, writer::Error};
use crate::{
    format::{contents::OpenFiles, pipeline},
    tree::{Content, Kind, Name, Node},
};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, num::NonZeroUsize, ops::Range};

/// The longest name the kernel accepts.
const LONGEST_NAME: usize = 255;
/// The longest symlink target the kernel accepts (`PATH_MAX`, with its final zero).
const LONGEST_TARGET: usize = 4095;
/// Content read at once while hashing.
const HASH_BUFFER: u64 = 256 * 1024;

/// One inode of the image.
pub(super) struct Inode<'a> {
    pub(super) node: &'a Node,
    pub(super) name: &'a [u8],
    /// Index of the directory it is in; the root's is its own.
    pub(super) parent: usize,
    pub(super) kind: Planned<'a>,
}

/// What the plan adds to a [`Kind`].
pub(super) enum Planned<'a> {
    /// Indexes of the children, in name order.
    Directory(Range<usize>),
    /// Index into [`Plan::files`].
    File(usize),
    /// Nothing to add.
    Other(&'a Kind),
}

/// A file's data, shared by all inodes of equal content.
pub(super) struct File<'a> {
    pub(super) content: &'a Content,
    pub(super) tail: Option<Tail>,
}

/// Where a file's last, partial block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) fragment: u32,
    pub(super) offset: u32,
}

/// Part of a fragment: a file's tail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) file: usize,
    /// Where the tail starts in the file.
    pub(super) start: u64,
    pub(super) length: usize,
}

/// One block to read, compress and write.
pub(super) enum Block {
    /// A block of a file's data.
    Data {
        /// Index into [`Plan::files`].
        file: usize,
        /// First byte in the file.
        start: u64,
        /// At most the block size.
        length: usize,
    },
    /// The next fragment.
    Fragment(Vec<Piece>),
}

/// Everything that is known before reading.
pub(super) struct Plan<'a> {
    pub(super) inodes: Vec<Inode<'a>>,
    pub(super) files: Vec<File<'a>>,
    pub(super) blocks: Vec<Block>,
    pub(super) fragments: u32,
    /// Bytes that equal files did not cost.
    pub(super) duplicate_bytes: u64,
}

pub(super) fn make<'a>(
    root: &'a Node,
    block_size: BlockSize,
    pack_tails: bool,
    threads: NonZeroUsize,
    open_files: &OpenFiles,
) -> Result<Plan<'a>, Error> {
    let mut inodes = vec![Inode { node: root, name: b"", parent: 0, kind: Planned::Other(&root.kind) }];
    flatten(&mut inodes, 0)?;
    if u32::try_from(inodes.len()).is_err() {
        return Err(Error::TooMany { what: "files and directories" });
    }
    let mut plan = Plan { inodes, files: Vec::new(), blocks: Vec::new(), fragments: 0, duplicate_bytes: 0 };
    share_contents(&mut plan, threads, open_files)?;
    lay_out(&mut plan, block_size.bytes() as u64, pack_tails);
    Ok(plan)
}

/// Appends the children of the directory at `index`, then theirs.
fn flatten(inodes: &mut Vec<Inode<'_>>, index: usize) -> Result<(), Error> {
    let Kind::Directory(entries) = &inodes[index].node.kind else {
        return Ok(());
    };
    let first = inodes.len();
    for (name, node) in entries {
        check(name, node, inodes, index)?;
        inodes.push(Inode { node, name, parent: index, kind: Planned::Other(&node.kind) });
    }
    let children = first..inodes.len();
    inodes[index].kind = Planned::Directory(children.clone());
    children.into_iter().try_for_each(|child| flatten(inodes, child))
}

fn check(name: &Name, node: &Node, inodes: &[Inode<'_>], parent: usize) -> Result<(), Error> {
    let because = |reason| Err(Error::Unrepresentable { path: path_of(inodes, parent, name), reason });
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return because("the name is not one a file can have");
    }
    if name.len() > LONGEST_NAME {
        return because("the name is longer than 255 bytes");
    }
    match &node.kind {
        Kind::Symlink(target) if target.is_empty() => because("the symbolic link's target is empty"),
        Kind::Symlink(target) if target.len() > LONGEST_TARGET => {
            because("the symbolic link's target is longer than 4095 bytes")
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor }
            if *major > 0xfff || *minor > 0xf_ffff =>
        {
            because("the device number does not fit 12 bits of major and 20 of minor")
        }
        _ => Ok(()),
    }
}

/// The path of a child of the inode at `parent`, for messages.
pub(super) fn path_of(inodes: &[Inode<'_>], parent: usize, name: &[u8]) -> String {
    let mut parts = vec![name];
    let mut at = parent;
    while at != 0 {
        parts.push(inodes[at].name);
        at = inodes[at].parent;
    }
    parts.reverse();
    format!("/{}", String::from_utf8_lossy(&parts.join(&b'/')))
}

/// Gives every regular file its entry in `files`; equal contents share one. Only files whose length occurs more
/// than once are read for it.
fn share_contents(plan: &mut Plan<'_>, threads: NonZeroUsize, open_files: &OpenFiles) -> Result<(), Error> {
    let mut by_length: HashMap<u64, usize> = HashMap::new();
    let contents: Vec<_> = plan
        .inodes
        .iter()
        .enumerate()
        .filter_map(|(index, inode)| match &inode.node.kind {
            Kind::File(content) => Some((index, content)),
            _ => None,
        })
        .inspect(|(_, content)| *by_length.entry(content.len()).or_default() += 1)
        .collect();
    let candidates: Vec<_> =
        contents.iter().filter(|(_, content)| !content.is_empty() && by_length[&content.len()] > 1).collect();
    let mut digests: HashMap<usize, [u8; 32]> = HashMap::with_capacity(candidates.len());
    pipeline::in_order(
        candidates.len(),
        threads,
        1024,
        |job| hash(candidates[job].1, open_files),
        |job, digest| {
            digests.insert(candidates[job].0, digest);
            Ok(())
        },
    )?;
    let mut known: HashMap<(u64, [u8; 32]), usize> = HashMap::new();
    for (index, content) in contents {
        let fresh = plan.files.len();
        let file = match digests.get(&index) {
            Some(digest) => *known.entry((content.len(), *digest)).or_insert(fresh),
            None => fresh,
        };
        if file == fresh {
            plan.files.push(File { content, tail: None });
        } else {
            plan.duplicate_bytes += content.len();
        }
        plan.inodes[index].kind = Planned::File(file);
    }
    Ok(())
}

fn hash(content: &Content, open_files: &OpenFiles) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let length = content.len();
    let mut buffer = vec![0; length.min(HASH_BUFFER) as usize];
    let mut done = 0;
    while done < length {
        let piece = (length - done).min(HASH_BUFFER) as usize;
        open_files.read_exact(content, done, &mut buffer[..piece])?;
        hash.update(&buffer[..piece]);
        done += piece as u64;
    }
    Ok(hash.finalize().into())
}

/// Cuts files into blocks and packs their tails into fragments. A fragment takes its place in the row when it
/// is full, between two files.
fn lay_out(plan: &mut Plan<'_>, block_size: u64, pack_tails: bool) {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut filled = 0;
    for (index, file) in plan.files.iter_mut().enumerate() {
        let length = file.content.len();
        let tail = match length % block_size {
            tail if pack_tails || length < block_size => tail,
            _ => 0,
        };
        let mut start = 0;
        while start < length - tail {
            let length = (length - start).min(block_size) as usize;
            plan.blocks.push(Block::Data { file: index, start, length });
            start += length as u64;
        }
        if tail == 0 {
            continue;
        }
        if filled + tail > block_size {
            plan.blocks.push(Block::Fragment(std::mem::take(&mut pieces)));
            plan.fragments += 1;
            filled = 0;
        }
        file.tail = Some(Tail { fragment: plan.fragments, offset: filled as u32 });
        pieces.push(Piece { file: index, start: length - tail, length: tail as usize });
        filled += tail;
    }
    if !pieces.is_empty() {
        plan.blocks.push(Block::Fragment(pieces));
        plan.fragments += 1;
    }
}
