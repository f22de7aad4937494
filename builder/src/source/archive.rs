//! Tar archives as trees, in place.
//!
//! A compressed archive is decompressed once, into the cache, as one file; reading it walks the headers only, and
//! every regular file becomes a range of that file. Understood are ustar, GNU long names and PAX (`path`,
//! `linkpath`, `size`, `uid`, `gid`, `SCHILY.xattr.*`). A hard link becomes a second entry with the same content.

use super::cache::{Cache, Claim, Part, StorageError};
use crate::tree::{Content, Entries, Kind, Metadata, Name, Node};
use cairn_contract::digest::Sha256Digest;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};
use tar::EntryType;

/// The PAX records that hold extended attributes.
const XATTR_RECORD: &str = "SCHILY.xattr.";
/// Most memory one decompressor may ask for; xz's strongest preset wants 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// Why an archive is not a tree.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The format is broken, or cut short.
    #[error("{archive} is damaged: {source}")]
    Damaged {
        /// The archive.
        archive: PathBuf,
        /// What the reader met.
        source: io::Error,
    },
    /// An entry that must not be followed.
    #[error("{archive}: entry `{entry}` is refused: {why}")]
    Refused {
        /// The archive.
        archive: PathBuf,
        /// Path of the entry.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The cache cannot hold it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How a stream of bytes is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// By the extension that follows `.tar`: `""`, `".gz"`, `".xz"`, `".zst"`.
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension {
            "" => Some(Self::None),
            ".gz" => Some(Self::Gzip),
            ".xz" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Reads what is in `compressed`.
    ///
    /// # Errors
    /// The decompressor cannot be set up.
    pub fn reader<'a>(self, compressed: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(compressed),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(compressed)),
            Self::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
                Box::new(liblzma::read::XzDecoder::new_stream(compressed, stream))
            }
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(compressed)?),
        })
    }
}

/// What names beginning with `.wh.` mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// Nothing special.
    Literal,
    /// OCI's marks of deletion; they become overlayfs' (0:0 character device, `trusted.overlay.opaque`).
    Overlay,
}

/// The decompressed archive out of the blob `digest`: made by `write` when it is not in the cache.
///
/// `write` gets the file to write to and is called at most once.
///
/// # Errors
/// The blob is damaged, or the cache cannot hold the result.
pub(crate) fn unpacked(
    cache: &Cache,
    digest: &Sha256Digest,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<PathBuf, ArchiveError> {
    let path = cache.tar(digest);
    if let Claim::Mine(mut part) = Part::claim(&path)? {
        part.restart()?;
        if let Err(error) = write(&mut part.file) {
            let is_storage =
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            let storage = is_storage.then(|| io::Error::from(error.kind()));
            let error = match storage {
                Some(full) => part.fault(full).into(),
                None => ArchiveError::Damaged { archive: cache.blob(digest), source: error },
            };
            part.discard();
            return Err(error);
        }
        part.rename()?;
    }
    Ok(path)
}

/// Reads the headers of an uncompressed archive.
///
/// Directories that entries lie in but that have no entry are root's, 0755. The archive's own root entry (`./`) is
/// not part of the answer.
///
/// # Errors
/// It is damaged or truncated, cannot be read, or has an entry that leads out of the tree.
pub fn read(path: &Path, whiteouts: Whiteouts) -> Result<Entries, ArchiveError> {
    let file = File::open(path).map_err(StorageError::at(path))?;
    let length = file.metadata().map_err(StorageError::at(path))?.len();
    let damaged = |source| ArchiveError::Damaged { archive: path.to_owned(), source };
    let refused = |name: &[u8], why| ArchiveError::Refused {
        archive: path.to_owned(),
        entry: String::from_utf8_lossy(name).into_owned(),
        why,
    };
    let shared = Arc::new(path.to_owned());
    let mut tree = Entries::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let raw = entry.path_bytes().into_owned();
        let mut names = components(&raw).map_err(|why| refused(&raw, why))?;
        let meta = metadata(&mut entry).map_err(damaged)?;
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let (offset, size) = (entry.raw_file_position(), entry.size());
                if offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
                }
                Kind::File(Content::Range { path: Arc::clone(&shared), offset, length: size })
            }
            EntryType::Directory => Kind::Directory(Entries::new()),
            EntryType::Symlink => Kind::Symlink(link_target(&entry).map_err(|why| refused(&raw, why))?),
            EntryType::Link => {
                let target = link_target(&entry).map_err(|why| refused(&raw, why))?;
                let target = components(&target).map_err(|why| refused(&raw, why))?;
                let node = find(&tree, &target)
                    .filter(|node| !matches!(node.kind, Kind::Directory(_)))
                    .ok_or_else(|| refused(&raw, "a hard link to what is not in the archive before it"))?
                    .clone();
                insert(&mut tree, &names, node).map_err(|why| refused(&raw, why))?;
                continue;
            }
            EntryType::Char => {
                let (major, minor) = device(&entry).map_err(damaged)?;
                Kind::CharDevice { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = device(&entry).map_err(damaged)?;
                Kind::BlockDevice { major, minor }
            }
            EntryType::Fifo => Kind::Fifo,
            EntryType::XGlobalHeader => continue,
            _ => return Err(refused(&raw, "a kind of entry that images do not have")),
        };
        if whiteouts == Whiteouts::Overlay {
            match names.last().and_then(|name| name.strip_prefix(b".wh.")) {
                Some(b".wh..opq") => {
                    names.pop();
                    let directory = directory(&mut tree, &names).map_err(|why| refused(&raw, why))?;
                    let Some(meta) = directory else {
                        return Err(refused(&raw, "a layer that hides everything below it is not supported"));
                    };
                    meta.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
                    continue;
                }
                Some(hidden) if !hidden.is_empty() => {
                    let hidden = hidden.to_vec();
                    names.pop();
                    names.push(hidden);
                    let meta = Metadata { mode: 0, uid: 0, gid: 0, xattrs: BTreeMap::new() };
                    let node = Node { meta, kind: Kind::CharDevice { major: 0, minor: 0 } };
                    insert(&mut tree, &names, node).map_err(|why| refused(&raw, why))?;
                    continue;
                }
                _ => {}
            }
        }
        if !names.is_empty() {
            insert(&mut tree, &names, Node { meta, kind }).map_err(|why| refused(&raw, why))?;
        }
    }
    Ok(tree)
}

/// The names of a path inside an archive; a leading `/` or `./` is of no meaning.
fn components(path: &[u8]) -> Result<Vec<Name>, &'static str> {
    if path.contains(&0) {
        return Err("its name has a zero byte");
    }
    let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names
        .map(|name| if name == b".." { Err("its path leads out of the tree") } else { Ok(name.to_vec()) })
        .collect()
}

fn metadata(entry: &mut tar::Entry<'_, File>) -> io::Result<Metadata> {
    let number = |value: u64| u32::try_from(value).map_err(io::Error::other);
    let header = entry.header();
    // The mask leaves 12 bits.
    let mode = (header.mode()? & 0o7777) as u16;
    let (mut uid, mut gid) = (number(header.uid()?)?, number(header.gid()?)?);
    let mut xattrs = BTreeMap::new();
    if let Some(records) = entry.pax_extensions()? {
        for record in records {
            let record = record?;
            let owner = || record.value().ok().and_then(|text| text.parse().ok());
            match record.key_bytes() {
                b"uid" => uid = owner().ok_or_else(|| io::Error::other("PAX uid is not a number"))?,
                b"gid" => gid = owner().ok_or_else(|| io::Error::other("PAX gid is not a number"))?,
                key => {
                    if let Some(name) = key.strip_prefix(XATTR_RECORD.as_bytes()) {
                        xattrs.insert(name.to_vec(), record.value_bytes().to_vec());
                    }
                }
            }
        }
    }
    Ok(Metadata { mode, uid, gid, xattrs })
}

fn link_target(entry: &tar::Entry<'_, File>) -> Result<Vec<u8>, &'static str> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target.into_owned()),
        _ => Err("a link without a target"),
    }
}

fn device(entry: &tar::Entry<'_, File>) -> io::Result<(u32, u32)> {
    let header = entry.header();
    Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
}

/// A directory nobody described.
pub(crate) fn plain_directory() -> Node {
    let meta = Metadata { mode: 0o755, uid: 0, gid: 0, xattrs: BTreeMap::new() };
    Node { meta, kind: Kind::Directory(Entries::new()) }
}

/// The node at a path, not following links.
pub(crate) fn find<'t>(tree: &'t Entries, names: &[Name]) -> Option<&'t Node> {
    let (last, parents) = names.split_last()?;
    let mut entries = tree;
    for name in parents {
        match &entries.get(name)?.kind {
            Kind::Directory(children) => entries = children,
            _ => return None,
        }
    }
    entries.get(last)
}

const NOT_A_DIRECTORY: &str = "its path goes through something that is not a directory";

fn descend<'t>(tree: &'t mut Entries, names: &[Name]) -> Result<&'t mut Entries, &'static str> {
    let mut entries = tree;
    for name in names {
        match &mut entries.entry(name.clone()).or_insert_with(plain_directory).kind {
            Kind::Directory(children) => entries = children,
            _ => return Err(NOT_A_DIRECTORY),
        }
    }
    Ok(entries)
}

/// The metadata of the directory at a path, made when missing; `None` for the tree's root.
fn directory<'t>(tree: &'t mut Entries, names: &[Name]) -> Result<Option<&'t mut Metadata>, &'static str> {
    let Some((last, parents)) = names.split_last() else { return Ok(None) };
    let node = descend(tree, parents)?.entry(last.clone()).or_insert_with(plain_directory);
    match node.kind {
        Kind::Directory(_) => Ok(Some(&mut node.meta)),
        _ => Err(NOT_A_DIRECTORY),
    }
}

/// Puts a node at a path; a directory that is there already keeps what is in it.
pub(crate) fn insert(tree: &mut Entries, names: &[Name], node: Node) -> Result<(), &'static str> {
    let Some((last, parents)) = names.split_last() else { return Ok(()) };
    let entries = descend(tree, parents)?;
    match (entries.get_mut(last), node) {
        (
            Some(Node { meta: old, kind: Kind::Directory(_) }),
            Node { mut meta, kind: Kind::Directory(children) },
        ) if children.is_empty() => {
            // An opaque mark may have come before the directory's own entry.
            meta.xattrs.extend(std::mem::take(&mut old.xattrs));
            *old = meta;
        }
        (_, node) => {
            entries.insert(last.clone(), node);
        }
    }
    Ok(())
}

/// The bytes of a content, all of them in memory: for the small documents inside archives.
pub(crate) fn bytes(content: &Content) -> Result<Vec<u8>, StorageError> {
    use std::os::unix::fs::FileExt as _;
    match content {
        Content::Bytes(bytes) => Ok(bytes.to_vec()),
        Content::Range { path, offset, length } => {
            let file = File::open(path.as_path()).map_err(StorageError::at(path))?;
            let size = usize::try_from(*length).map_err(io::Error::other).map_err(StorageError::at(path))?;
            let mut bytes = vec![0; size];
            file.read_exact_at(&mut bytes, *offset).map_err(StorageError::at(path))?;
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests;
