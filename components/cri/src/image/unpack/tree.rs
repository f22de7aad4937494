//! The directory a layer is unpacked into, as something a path cannot lead out of.
//!
//! Every operation names its file by the descriptor of the parent directory and one component. The parent is
//! opened with `openat2(RESOLVE_IN_ROOT)`: the kernel itself takes the tree as the root for `..`, absolute symlinks
//! and everything else, however the archive arranged them. The last component is never followed.

use crate::image::remove;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

/// Chains of dangling symlinks longer than this are loops.
const MAX_LINKS: usize = 40;

/// Directories that no entry describes are made so deep at most. Whoever looks at such a path later does so step by step.
const MAX_DEPTH: usize = 256;

/// How overlayfs marks a directory that hides those below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// A file's place: its parent directory, and its name there.
pub(super) struct Place {
    pub(super) parent: Rc<OwnedFd>,
    pub(super) name: OsString,
}

impl Place {
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// A path that reaches this file and does not follow it when the call does not: for the calls that take no
    /// directory descriptor (`lsetxattr`).
    fn through_proc(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.parent.as_raw_fd().to_string()).join(&self.name)
    }

    /// What is there now, if anything; symlinks are not followed.
    pub(super) fn existing(&self) -> rustix::io::Result<Option<Existing>> {
        match fs::statat(self.dir(), &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Existing::Directory,
                FileType::CharacterDevice if stat.st_rdev == 0 => Existing::Whiteout,
                _ => Existing::Other,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens the directory that is here.
    pub(super) fn open_directory(&self) -> rustix::io::Result<OwnedFd> {
        fs::openat(
            self.dir(),
            &self.name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }

    /// A way to go on from the directory that is here. LOOP: it is a symlink.
    fn open_without_links(&self) -> rustix::io::Result<Rc<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat2(self.dir(), &self.name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map(Rc::new)
    }

    /// Sets an extended attribute of the file itself, symlinks included.
    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        fs::lsetxattr(self.through_proc(), OsStr::from_bytes(name), value, XattrFlags::empty())
    }

    /// Hides whatever lower layers have here.
    pub(super) fn make_whiteout(&self) -> rustix::io::Result<()> {
        fs::mknodat(self.dir(), &self.name, FileType::CharacterDevice, Mode::empty(), 0)
    }

    /// Hides whatever lower layers have inside the directory that is here.
    pub(super) fn make_opaque(&self) -> rustix::io::Result<()> {
        self.set_xattr(OPAQUE.as_bytes(), b"y")
    }

    /// Removes what is here, with all below it.
    pub(super) fn remove(&self) -> rustix::io::Result<()> {
        remove::remove_tree(self.dir(), &self.name)
    }
}

/// What stands where an entry wants to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Directory,
    Whiteout,
    Other,
}

/// The tree, with the directory last used kept open: archives are ordered by directory.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    last: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Directories made because an entry below them came without one of their own.
    implicit: BTreeSet<PathBuf>,
    /// Bytes of those paths.
    implicit_bytes: usize,
    /// Directories made without an entry of their own since this was last asked.
    made: u64,
}

impl Tree {
    pub(super) fn open(root: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Rc::new(fs::open(root, flags, Mode::empty())?);
        Ok(Self { root, last: None, implicit: BTreeSet::new(), implicit_bytes: 0, made: 0 })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Directories made without an entry of their own, parents before children.
    pub(super) fn into_implicit(self) -> Vec<PathBuf> {
        self.implicit.into_iter().collect()
    }

    /// What the paths of such directories take in memory, bytes.
    pub(super) fn implicit_bytes(&self) -> usize {
        self.implicit_bytes
    }

    /// How many directories were made without an entry of their own since the last call.
    pub(super) fn take_made(&mut self) -> u64 {
        std::mem::take(&mut self.made)
    }

    /// An entry for this directory came after all.
    pub(super) fn explicit(&mut self, path: &Path) {
        if self.implicit.remove(path) {
            self.implicit_bytes -= path.as_os_str().len();
        }
    }

    /// Hides whatever lower layers have inside the directory `path` (the root if empty), which is made if need be.
    pub(super) fn make_opaque(&mut self, path: &Path) -> rustix::io::Result<()> {
        let directory = self.directory(path)?;
        let through_proc = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
        fs::setxattr(through_proc, OPAQUE, b"y", XattrFlags::empty())
    }

    /// Forgets the open directory: something on the way to it may have been replaced.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The place of `path`, which is relative, without `..`, and not empty. Missing parents are made.
    pub(super) fn place(&mut self, path: &Path) -> rustix::io::Result<Place> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok(Place { parent: self.directory(parent)?, name })
    }

    /// The place of `path`, if its parent exists.
    pub(super) fn find(&self, path: &Path) -> rustix::io::Result<Place> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok(Place { parent: self.open_in_root(parent)?, name })
    }

    fn directory(&mut self, path: &Path) -> rustix::io::Result<Rc<OwnedFd>> {
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.open_in_root(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_directories(path, MAX_LINKS)?,
            other => other?,
        };
        self.last = Some((path.to_owned(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn open_in_root(&self, path: &Path) -> rustix::io::Result<Rc<OwnedFd>> {
        if path.as_os_str().is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        fs::openat2(self.root(), path, flags, Mode::empty(), resolve).map(Rc::new)
    }

    /// Walks down `path`, making what is missing. A symlink to a directory that is not in this layer gets that
    /// directory made, so that the entry lands where the link leads.
    fn make_directories(&mut self, path: &Path, links: usize) -> rustix::io::Result<Rc<OwnedFd>> {
        let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
        let mut current = Rc::clone(&self.root);
        let mut walked = PathBuf::new();
        let components: Vec<_> = path.components().collect();
        if components.len() > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        for (index, component) in components.iter().enumerate() {
            let Component::Normal(name) = component else { return Err(Errno::INVAL) };
            let place = Place { parent: Rc::clone(&current), name: (*name).to_owned() };
            walked.push(name);
            // From here rather than from the root, or a deep path would take the square of its length.
            let opened = match place.open_without_links() {
                Err(Errno::LOOP) => self.open_in_root(&walked),
                other => other,
            };
            match opened {
                Ok(fd) => {
                    current = fd;
                    continue;
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
            match fs::readlinkat(place.dir(), &place.name, Vec::new()) {
                Ok(target) => {
                    walked.pop();
                    let mut resolved = lexical(&walked, Path::new(OsStr::from_bytes(target.as_bytes())));
                    resolved.extend(&components[index + 1..]);
                    return self.make_directories(&resolved, links);
                }
                Err(Errno::NOENT | Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
            let hidden = match place.existing()? {
                None => false,
                Some(Existing::Whiteout) => {
                    fs::unlinkat(place.dir(), &place.name, AtFlags::empty())?;
                    true
                }
                Some(_) => return Err(Errno::NOTDIR),
            };
            fs::mkdirat(place.dir(), &place.name, Mode::from_raw_mode(0o755))?;
            fs::chmodat(place.dir(), &place.name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
            self.made += 1;
            if hidden {
                place.make_opaque()?;
            } else if self.implicit.insert(walked.clone()) {
                self.implicit_bytes += walked.as_os_str().len();
            }
            current = place.open_without_links()?;
        }
        Ok(current)
    }
}

/// `target` seen from `directory`, without leaving the root. Only names where to make directories; the kernel
/// resolves again when they are opened.
fn lexical(directory: &Path, target: &Path) -> PathBuf {
    let mut resolved = if target.is_absolute() { PathBuf::new() } else { directory.to_owned() };
    for component in target.components() {
        match component {
            Component::Normal(name) => resolved.push(name),
            Component::ParentDir => {
                resolved.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    resolved
}
