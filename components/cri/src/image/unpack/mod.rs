//! From a layer's archive to a directory that overlayfs takes as a lower layer.
//!
//! The archive is not trusted: where entries land is [`tree`]'s business, how they are read [`tar`]'s. Here is
//! what each entry means:
//!
//! - `.wh.NAME` hides `NAME` of the layers below: a character device 0:0, overlayfs' whiteout. The OCI image
//!   specification lets it speak of lower layers only, so beside a `NAME` of this same layer it says no more than
//!   that a directory is opaque.
//! - `.wh..wh..opq` hides all that lower layers have in its directory: `trusted.overlay.opaque`.
//! - Everything else is made with owner, mode, time stamp and extended attributes as the archive says, except
//!   attributes by which overlayfs itself is steered.

mod attributes;
mod tar;
mod tree;

pub(super) use tar::TarError;

use attributes::{attributes, special, timestamps, tolerate, wanted_xattrs};
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};
use tar::{Entry, Kind, TarReader};
use tree::{Existing, Place, Tree};

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// Free space is looked at whenever this much was written, or this many entries were made.
const CHECK_BYTES: u64 = 32 << 20;
const CHECK_ENTRIES: u64 = 2048;
/// What an unpack must leave free, so that the node stays alive: 5 % of the file system, at most this.
const RESERVE: u64 = 256 << 20;
const RESERVE_INODES: u64 = 1024;

/// Paths held in memory, bytes. Directories whose time stamps wait for the end; when it is too much they get them at
/// once, and those that change later lose them.
const DIRECTORY_BYTES: usize = 16 << 20;
/// And directories that no entry describes: nearly none in real layers.
const IMPLICIT_BYTES: usize = 4 << 20;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is no archive we accept, or it failed.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// An entry that tries to leave the layer's directory, or makes no sense. The archive is hostile or broken.
    #[error("refused entry `{path}`: {reason}")]
    Refused {
        /// As in the archive.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A system call failed for an entry.
    #[error("`{path}`: {operation}: {source}")]
    Entry {
        /// As in the archive.
        path: String,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file system would be left with too little for the node to work.
    #[error(
        "the image store is full: {free_mib} MiB and {free_inodes} inodes are free; remove images or enlarge the state partition"
    )]
    NoSpace {
        /// Mebibytes available.
        free_mib: u64,
        /// Inodes available.
        free_inodes: u64,
    },
}

/// What an unpacked layer amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Bytes of file contents.
    pub(super) size: u64,
    /// Bytes on disk, in whole blocks.
    pub(super) disk: u64,
    /// Files of all kinds, the root included.
    pub(super) inodes: u64,
    /// Directories that the archive put things into but did not describe, parents first.
    pub(super) implicit: Vec<PathBuf>,
}

/// Unpacks `archive` into the empty directory `root`, and reads it to its last byte.
pub(super) fn unpack(archive: impl Read, root: &Path) -> Result<Unpacked, UnpackError> {
    let named = |operation, source: Errno| UnpackError::Entry {
        path: root.display().to_string(),
        operation,
        source: source.into(),
    };
    let tree = Tree::open(root).map_err(|error| named("open", error))?;
    let mut unpacker = Unpacker {
        tree,
        archive: TarReader::new(archive),
        directories: BTreeMap::new(),
        directory_bytes: 0,
        unpacked: Unpacked { inodes: 1, disk: BLOCK, ..Unpacked::default() },
        unchecked_bytes: 0,
        unchecked_entries: 0,
        buffer: vec![0; 256 << 10],
    };
    unpacker.check_space()?;
    while let Some(entry) = unpacker.archive.next()? {
        unpacker.entry(&entry)?;
        unpacker.count_implicit(&entry)?;
    }
    unpacker.finish_directories();
    let Unpacker { tree, archive, mut unpacked, .. } = unpacker;
    // What follows the archive's end belongs to the digest.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(TarError::Io)?;
    unpacked.implicit = tree.into_implicit();
    Ok(unpacked)
}

const BLOCK: u64 = 4096;

struct Unpacker<R> {
    tree: Tree,
    archive: TarReader<R>,
    /// Time stamps of directories change with each file made in them, so they are set last.
    /// By path: an archive may name one directory any number of times.
    directories: BTreeMap<PathBuf, (i64, u32)>,
    /// Bytes of those paths.
    directory_bytes: usize,
    unpacked: Unpacked,
    unchecked_bytes: u64,
    unchecked_entries: u64,
    buffer: Vec<u8>,
}

/// An entry's name for messages, and how its failures become errors.
struct Context<'a>(&'a Entry);

impl Context<'_> {
    fn path(&self) -> String {
        String::from_utf8_lossy(&self.0.path).chars().take(300).collect()
    }

    fn refused(&self, reason: &'static str) -> UnpackError {
        UnpackError::Refused { path: self.path(), reason }
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(Errno) -> UnpackError + '_ {
        move |error| match error {
            Errno::XDEV => self.refused("its path leaves the layer"),
            Errno::LOOP => self.refused("its path is a loop of symbolic links"),
            Errno::NOTDIR => self.refused("a file stands where its path needs a directory"),
            error => UnpackError::Entry { path: self.path(), operation, source: error.into() },
        }
    }
}

impl<R: Read> Unpacker<R> {
    fn entry(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let context = Context(entry);
        self.unchecked_entries += 1;
        self.unchecked_bytes += entry.xattrs.iter().map(|(_, value)| value.len() as u64).sum::<u64>();
        if self.unchecked_bytes >= CHECK_BYTES || self.unchecked_entries >= CHECK_ENTRIES {
            self.check_space()?;
        }
        let Some(path) = relative(&entry.path).map_err(|reason| context.refused(reason))? else {
            return self.root(entry);
        };
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if name == WHITEOUT_OPAQUE {
            let directory = path.parent().unwrap_or(Path::new(""));
            return self.tree.make_opaque(directory).map_err(context.failed("mark as opaque"));
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(context.refused("a whiteout must name a file"));
            }
            return self.whiteout(&path.with_file_name(OsStr::from_bytes(hidden)), &context);
        }
        let place = self.tree.place(&path).map_err(context.failed("find its directory"))?;
        let fresh = self.make_room(&place, entry, &context)?;
        match &entry.kind {
            Kind::Directory => {
                self.tree.explicit(&path);
                self.directory(&place, entry, fresh)?;
                let length = path.as_os_str().len();
                if self.directories.insert(path, entry.mtime).is_none() {
                    self.directory_bytes += length;
                }
                if self.directory_bytes > DIRECTORY_BYTES {
                    self.finish_directories();
                }
            }
            Kind::File => self.file(&place, entry)?,
            Kind::HardLink(target) => return self.hard_link(&place, target, &context),
            Kind::Symlink(target) => {
                if target.is_empty() {
                    return Err(context.refused("a symbolic link to nothing"));
                }
                fs::symlinkat(OsStr::from_bytes(target), place.dir(), &place.name)
                    .map_err(context.failed("make a symbolic link"))?;
                attributes(&place, entry)?;
            }
            Kind::Character { major, minor } => {
                special(&place, entry, FileType::CharacterDevice, *major, *minor)?
            }
            Kind::Block { major, minor } => special(&place, entry, FileType::BlockDevice, *major, *minor)?,
            Kind::Fifo => special(&place, entry, FileType::Fifo, 0, 0)?,
        }
        if fresh != Fresh::Kept {
            self.count(entry.size);
        }
        Ok(())
    }

    /// The layer's own directory: the archive may set its owner and mode.
    fn root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let context = Context(entry);
        if entry.kind != Kind::Directory {
            return Err(context.refused("the root can only be a directory"));
        }
        let root = self.tree.root();
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fs::fchown(root, Some(uid), Some(gid)).map_err(context.failed("set the owner"))?;
        fs::fchmod(root, Mode::from_raw_mode(entry.mode)).map_err(context.failed("set the mode"))?;
        for (name, value) in wanted_xattrs(entry) {
            let result = fs::fsetxattr(root, OsStr::from_bytes(name), value, XattrFlags::empty());
            tolerate(name, &entry.kind, result).map_err(context.failed("set an extended attribute"))?;
        }
        let _ = fs::futimens(root, &timestamps(entry.mtime));
        Ok(())
    }

    fn whiteout(&mut self, path: &Path, context: &Context<'_>) -> Result<(), UnpackError> {
        let place = self.tree.place(path).map_err(context.failed("find its directory"))?;
        match place.existing().map_err(context.failed("look at"))? {
            None => {
                place.make_whiteout().map_err(context.failed("make a whiteout"))?;
                self.count(0);
            }
            Some(Existing::Directory) => place.make_opaque().map_err(context.failed("mark as opaque"))?,
            Some(Existing::Whiteout | Existing::Other) => {}
        }
        Ok(())
    }

    /// Removes what stands where `entry` wants to go, unless both are directories.
    fn make_room(
        &mut self,
        place: &Place,
        entry: &Entry,
        context: &Context<'_>,
    ) -> Result<Fresh, UnpackError> {
        let existing = place.existing().map_err(context.failed("look at"))?;
        let is_directory = entry.kind == Kind::Directory;
        let fresh = match existing {
            None => return Ok(Fresh::New),
            Some(Existing::Directory) if is_directory => return Ok(Fresh::Kept),
            Some(Existing::Whiteout) => Fresh::AfterWhiteout,
            Some(_) => Fresh::New,
        };
        if let Kind::HardLink(target) = &entry.kind
            && relative(target).ok().flatten() == relative(&entry.path).ok().flatten()
        {
            return Err(context.refused("a hard link to itself"));
        }
        place.remove().map_err(context.failed("replace"))?;
        self.tree.forget();
        Ok(fresh)
    }

    fn directory(&mut self, place: &Place, entry: &Entry, fresh: Fresh) -> Result<(), UnpackError> {
        let context = Context(entry);
        if fresh != Fresh::Kept {
            fs::mkdirat(place.dir(), &place.name, Mode::RWXU).map_err(context.failed("make a directory"))?;
        }
        if fresh == Fresh::AfterWhiteout {
            place.make_opaque().map_err(context.failed("mark as opaque"))?;
        }
        attributes(place, entry)
    }

    fn file(&mut self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let context = Context(entry);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(place.dir(), &place.name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(context.failed("make a file"))?;
        loop {
            let count = match self.archive.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TarError::Io(error).into()),
            };
            let mut rest = &self.buffer[..count];
            while !rest.is_empty() {
                match rustix::io::write(&file, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(Errno::NOSPC | Errno::DQUOT) => return Err(self.no_space()),
                    Err(error) => return Err(context.failed("write")(error)),
                }
            }
            self.unchecked_bytes += count as u64;
            if self.unchecked_bytes >= CHECK_BYTES {
                self.check_space()?;
            }
        }
        // In this order: a change of owner takes set-id bits and capabilities away.
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fs::fchown(&file, Some(uid), Some(gid)).map_err(context.failed("set the owner"))?;
        fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(context.failed("set the mode"))?;
        for (name, value) in wanted_xattrs(entry) {
            let result = fs::fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty());
            tolerate(name, &entry.kind, result).map_err(context.failed("set an extended attribute"))?;
        }
        fs::futimens(&file, &timestamps(entry.mtime)).map_err(context.failed("set the time stamp"))
    }

    fn hard_link(&mut self, place: &Place, target: &[u8], context: &Context<'_>) -> Result<(), UnpackError> {
        let target = relative(target)
            .map_err(|reason| context.refused(reason))?
            .ok_or_else(|| context.refused("a hard link to the root"))?;
        let missing = |error| match error {
            Errno::NOENT => context.refused("a hard link to a file that is not in this layer"),
            Errno::PERM => context.refused("a hard link to a directory"),
            error => context.failed("make a hard link")(error),
        };
        let from = self.tree.find(&target).map_err(missing)?;
        fs::linkat(from.dir(), &from.name, place.dir(), &place.name, AtFlags::empty()).map_err(missing)
    }

    fn count(&mut self, size: u64) {
        self.unpacked.inodes += 1;
        self.unpacked.size = self.unpacked.size.saturating_add(size);
        self.unpacked.disk = self.unpacked.disk.saturating_add(size.div_ceil(BLOCK) * BLOCK);
    }

    /// Counts the directories that were made on the way to `entry`.
    fn count_implicit(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let made = self.tree.take_made();
        self.unchecked_entries += made;
        self.unpacked.inodes += made;
        self.unpacked.disk = self.unpacked.disk.saturating_add(made * BLOCK);
        if self.tree.implicit_bytes() > IMPLICIT_BYTES {
            return Err(Context(entry).refused("too many directories that the archive does not describe"));
        }
        Ok(())
    }

    fn check_space(&mut self) -> Result<(), UnpackError> {
        (self.unchecked_bytes, self.unchecked_entries) = (0, 0);
        let Ok(stat) = fs::fstatvfs(self.tree.root()) else { return Ok(()) };
        let reserve = (stat.f_blocks.saturating_mul(stat.f_frsize) / 20).min(RESERVE);
        let few_inodes = stat.f_files > 0 && stat.f_favail < RESERVE_INODES;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < reserve || few_inodes {
            return Err(self.no_space());
        }
        Ok(())
    }

    fn no_space(&self) -> UnpackError {
        let (free_mib, free_inodes) = fs::fstatvfs(self.tree.root())
            .map_or((0, 0), |stat| (stat.f_bavail.saturating_mul(stat.f_frsize) >> 20, stat.f_favail));
        UnpackError::NoSpace { free_mib, free_inodes }
    }

    fn finish_directories(&mut self) {
        self.directory_bytes = 0;
        for (path, mtime) in std::mem::take(&mut self.directories).into_iter().rev() {
            // A directory that a later entry replaced has no time stamp to keep.
            if let Ok(place) = self.tree.find(&path)
                && let Ok(directory) = place.open_directory()
            {
                let _ = fs::futimens(directory, &timestamps(mtime));
            }
        }
    }
}

/// How an entry's place came to be free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fresh {
    New,
    AfterWhiteout,
    /// It is not: a directory meets a directory.
    Kept,
}

/// An archive's path as a relative one: `/` and `./` in front and `.` within are dropped. `None` is the root.
fn relative(path: &[u8]) -> Result<Option<PathBuf>, &'static str> {
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err("a path with `..`"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok((!clean.as_os_str().is_empty()).then_some(clean))
}

#[cfg(test)]
mod tests;
