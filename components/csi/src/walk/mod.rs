//! Directory trees that pods made, walked and removed, however deep they are.
//!
//! A pod can nest directories as deep as its files last. Who recurses runs out of stack there, who keeps every directory open
//! runs out of descriptors, and a path to the deepest is longer than any call takes. So a [`Walk`] is a cursor: it goes
//! down by name and comes back by `..`, with the last [`OPEN`] directories open and 24 bytes for each of the others.
//!
//! It follows no links, crosses no mounts, and does not leave the tree: where `..` is not the directory it came from, because
//! somebody moved one meanwhile, it ends with an error. A directory that was closed is read on from where its reading
//! had come to (`d_off`, getdents(2)), which file systems keep for NFS.
//!
//! [`remove`] is the one removal of trees in this crate.

mod remove;

pub(crate) use remove::remove;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Dir, Mode, OFlags, Stat, fstat, openat},
    io::{Errno, Result},
    path::Arg,
};
use std::{
    collections::VecDeque,
    ffi::{CStr, CString},
};

/// Directories that are kept open.
const OPEN: usize = 64;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A place in a tree: a directory, and how far it was read.
#[derive(Debug)]
pub(crate) struct Walk {
    /// From the root to here.
    levels: Vec<Level>,
    /// The last of them, open.
    open: VecDeque<Dir>,
}

/// What has to be known of a directory to come back to it.
#[derive(Debug)]
struct Level {
    device: u64,
    inode: u64,
    /// Where reading goes on.
    offset: i64,
}

impl Level {
    fn of(seen: &Stat) -> Self {
        Self { device: seen.st_dev, inode: seen.st_ino, offset: 0 }
    }

    fn is(&self, seen: &Stat) -> bool {
        (self.device, self.inode) == (seen.st_dev, seen.st_ino)
    }
}

impl Walk {
    /// At the directory that `root` is open on for reading.
    pub(crate) fn new(root: OwnedFd) -> Result<Self> {
        let level = Level::of(&fstat(&root)?);
        Ok(Self { levels: vec![level], open: VecDeque::from([Dir::new(root)?]) })
    }

    /// At the directory `name` of `parent`, which is no link.
    pub(crate) fn at(parent: impl AsFd, name: impl Arg) -> Result<Self> {
        Self::new(openat(parent, name, DIRECTORY, Mode::empty())?)
    }

    /// The directory where it is.
    pub(crate) fn here(&self) -> Result<BorrowedFd<'_>> {
        self.open.back().ok_or(Errno::BADF)?.fd()
    }

    /// How far below the root that is.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// The next name in it; `None` at its end.
    pub(crate) fn next(&mut self) -> Result<Option<CString>> {
        let (Some(level), Some(open)) = (self.levels.last_mut(), self.open.back_mut()) else {
            return Ok(None);
        };
        while let Some(entry) = open.read() {
            let entry = entry?;
            level.offset = entry.offset();
            if !is_dots(entry.file_name()) {
                return Ok(Some(entry.file_name().to_owned()));
            }
        }
        Ok(None)
    }

    /// Goes to a directory in it.
    ///
    /// # Errors
    /// ENOTDIR for what is no directory, links among that; EXDEV for a mount.
    pub(crate) fn enter(&mut self, name: &CStr) -> Result<Stat> {
        let child = openat(self.here()?, name, DIRECTORY, Mode::empty())?;
        let seen = fstat(&child)?;
        if self.levels.first().is_none_or(|root| root.device != seen.st_dev) {
            return Err(Errno::XDEV);
        }
        self.open.push_back(Dir::new(child)?);
        self.levels.push(Level::of(&seen));
        if self.open.len() > OPEN {
            self.open.pop_front();
        }
        Ok(seen)
    }

    /// Goes back to where it came from; `false` at the root.
    ///
    /// # Errors
    /// ESTALE if the directory where it is was moved meanwhile.
    pub(crate) fn leave(&mut self) -> Result<bool> {
        let Some([.., parent, _]) = self.levels.get(..) else { return Ok(false) };
        if self.open.len() == 1 {
            let up = openat(self.here()?, c"..", DIRECTORY, Mode::empty())?;
            if !parent.is(&fstat(&up)?) {
                return Err(Errno::STALE);
            }
            let mut up = Dir::new(up)?;
            up.seek(parent.offset)?;
            self.open.push_front(up);
        }
        self.levels.pop();
        self.open.pop_back();
        Ok(true)
    }
}

fn is_dots(name: &CStr) -> bool {
    name == c"." || name == c".."
}

/// A chain of directories named `d`, made without paths.
#[cfg(test)]
pub(crate) fn nest(root: &std::path::Path, levels: usize) {
    let mut at = openat(rustix::fs::CWD, root, DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&at, c"d", Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, c"d", DIRECTORY, Mode::empty()).unwrap();
    }
}

/// A directory for a test's trees, in memory where that can be had: a disk takes minutes for deep ones.
#[cfg(test)]
pub(crate) fn ground() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, os::unix::fs::symlink};

    pub(super) fn open(path: &std::path::Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn every_name_comes_once_also_where_directories_were_closed() {
        let root = ground();
        // Wider and deeper than one buffer and all open directories.
        let mut path = root.path().to_path_buf();
        let mut expected = BTreeSet::new();
        for level in 0..OPEN + 6 {
            for number in 0..if level == 2 { 2000 } else { 3 } {
                let name = format!("{level}-{number}");
                fs::create_dir(path.join(&name)).unwrap();
                expected.insert(name);
            }
            path.push(format!("{level}-1"));
        }
        symlink("/etc", root.path().join("link")).unwrap();
        expected.insert("link".to_owned());
        let mut walk = Walk::new(open(root.path())).unwrap();
        let (mut seen, mut deepest) = (BTreeSet::new(), 0);
        loop {
            while let Some(name) = walk.next().unwrap() {
                assert!(seen.insert(name.to_str().unwrap().to_owned()), "{name:?} came twice");
                match walk.enter(&name) {
                    Err(Errno::NOTDIR | Errno::LOOP) => assert_eq!(name.as_c_str(), c"link"),
                    entered => drop(entered.unwrap()),
                }
                assert!(walk.open.len() <= OPEN);
                deepest = deepest.max(walk.depth());
            }
            if !walk.leave().unwrap() {
                break;
            }
        }
        assert_eq!(seen, expected);
        assert_eq!(deepest, OPEN + 6);
    }

    #[test]
    fn who_moves_a_directory_leads_nowhere() {
        let root = ground();
        fs::create_dir(root.path().join("tree")).unwrap();
        nest(&root.path().join("tree"), OPEN + 10);
        let mut walk = Walk::new(open(&root.path().join("tree"))).unwrap();
        while let Some(name) = walk.next().unwrap() {
            walk.enter(&name).unwrap();
        }
        // One whose parent is closed by now leaves the tree.
        fs::rename(root.path().join("tree").join("d/".repeat(11)), root.path().join("away")).unwrap();
        let end = loop {
            match walk.leave() {
                Ok(true) => {}
                end => break end,
            }
        };
        assert_eq!(end, Err(Errno::STALE));
    }
}
