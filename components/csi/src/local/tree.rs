//! Copies of directories: everything in them as it is, without following links or leaving the file system.

use super::copy::{self, Copied, Progress};
use crate::walk::{self, Walk};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat,
        fchmod, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat,
        readlinkat, statat, symlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    path::Path,
};

/// Copies what is in the directory `from` into the directory `to`, and gives `to` the owner, mode and attributes of `from`.
/// `links` is a directory beside `to` that is not there: files with several names wait in it for the others.
///
/// # Errors
/// If the disk fails or is full.
pub(super) fn copy(from: &Path, to: &Path, links: &Path) -> io::Result<Copied> {
    let open = |path: &Path| rustix::fs::open(path, DIRECTORY, Mode::empty());
    let (old, new) = (Walk::at(CWD, from)?, Walk::at(CWD, to)?);
    let root = fstat(old.here()?)?;
    rustix::fs::mkdir(links, Mode::from_raw_mode(0o700))?;
    let linked = Copier {
        device: root.st_dev,
        links: open(links)?,
        progress: Progress::new(from),
        copied: Copied::Shared,
    };
    let copied = linked.all(old, new, root)?;
    rustix::fs::syncfs(open(to)?)?;
    let (parent, name) = (links.parent().unwrap_or(links), links.file_name().unwrap_or_default());
    walk::remove(open(parent)?, name)?;
    Ok(copied)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Of a directory that is not whole.
const PRIVATE: Mode = Mode::RWXU;

struct Copier {
    device: u64,
    /// The first copies of files with several names, by inode.
    links: OwnedFd,
    progress: Progress,
    copied: Copied,
}

impl Copier {
    fn all(mut self, mut old: Walk, mut new: Walk, root: Stat) -> io::Result<Copied> {
        loop {
            while let Some(name) = old.next()? {
                let seen = statat(old.here()?, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                // Something is mounted in it.
                if seen.st_dev != self.device {
                    continue;
                }
                if FileType::from_raw_mode(seen.st_mode).is_dir() {
                    mkdirat(new.here()?, &name, PRIVATE)?;
                    old.enter(&name)?;
                    new.enter(&name)?;
                } else {
                    self.file(old.here()?, new.here()?, &name, &seen)?;
                }
            }
            // Last, as it is private until then, and changed by what is made in it.
            let seen = if old.depth() == 0 { root } else { fstat(old.here()?)? };
            finish(old.here()?, new.here()?, &seen)?;
            if !old.leave()? || !new.leave()? {
                return Ok(self.copied);
            }
        }
    }

    fn file(&mut self, old: BorrowedFd<'_>, new: BorrowedFd<'_>, name: &CStr, seen: &Stat) -> io::Result<()> {
        let inode = (seen.st_nlink > 1).then(|| seen.st_ino.to_string());
        if let Some(inode) = &inode {
            match linkat(&self.links, inode.as_str(), new, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                linked => return Ok(linked?),
            }
        }
        self.first(old, new, name, seen)?;
        match inode {
            Some(inode) => Ok(linkat(new, name, &self.links, inode.as_str(), AtFlags::empty())?),
            None => Ok(()),
        }
    }

    /// A file by its first name, or its only one.
    fn first(
        &mut self,
        old: BorrowedFd<'_>,
        new: BorrowedFd<'_>,
        name: &CStr,
        seen: &Stat,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(seen.st_mode);
        match kind {
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let write =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let old = File::from(openat(old, name, read, Mode::empty())?);
                let new = File::from(openat(new, name, write, PRIVATE)?);
                if seen.st_size > 0 && !copy::share(&old, &new)? {
                    self.copied = Copied::Whole;
                    copy::copy_data(&old, &new, &mut self.progress)?;
                }
                finish(old.as_fd(), new.as_fd(), seen)
            }
            FileType::Symlink => {
                symlinkat(readlinkat(old, name, Vec::new())?, new, name)?;
                bare(new, name, seen)
            }
            _ => {
                let mode = Mode::from_raw_mode(seen.st_mode);
                mknodat(new, name, kind, mode, seen.st_rdev)?;
                rustix::fs::chmodat(new, name, mode, AtFlags::empty())?;
                bare(new, name, seen)
            }
        }
    }
}

/// Owner and times of what cannot be opened.
fn bare(new: BorrowedFd<'_>, name: &CStr, seen: &Stat) -> io::Result<()> {
    let (owner, group) = owners(seen);
    chownat(new, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(new, name, &times(seen), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives a file or directory what its original has besides its contents. The owner comes first: changing it takes bits of
/// the mode and capabilities away.
fn finish(old: BorrowedFd<'_>, new: BorrowedFd<'_>, seen: &Stat) -> io::Result<()> {
    let (owner, group) = owners(seen);
    rustix::fs::fchown(new, owner, group)?;
    fchmod(new, Mode::from_raw_mode(seen.st_mode & 0o7777))?;
    for name in attributes(old)? {
        let mut value = vec![0; 64 << 10];
        let length = match fgetxattr(old, &name, value.as_mut_slice()) {
            Err(Errno::NODATA) => continue,
            length => length?,
        };
        fsetxattr(new, &name, &value[..length], XattrFlags::empty())?;
    }
    Ok(futimens(new, &times(seen))?)
}

/// Names of extended attributes, access control lists among them.
fn attributes(file: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(file, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        length => length?,
    };
    let names = names[..length].split_inclusive(|&byte| byte == 0);
    Ok(names.filter_map(|name| Some(CStr::from_bytes_with_nul(name).ok()?.to_owned())).collect())
}

fn owners(seen: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(seen.st_uid)), Some(Gid::from_raw(seen.st_gid)))
}

fn times(seen: &Stat) -> Timestamps {
    let time =
        |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    Timestamps {
        last_access: time(seen.st_atime, seen.st_atime_nsec),
        last_modification: time(seen.st_mtime, seen.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    #[test]
    fn everything_is_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = (from.path(), to.path());
        fs::create_dir(old.join("d")).unwrap();
        fs::write(old.join("d/file"), "contents").unwrap();
        fs::write(old.join("empty"), "").unwrap();
        fs::hard_link(old.join("d/file"), old.join("second")).unwrap();
        symlink("/etc/passwd", old.join("link")).unwrap();
        fs::set_permissions(old.join("d"), fs::Permissions::from_mode(0o2751)).unwrap();
        let file = File::open(old.join("d/file")).unwrap();
        let marked = fsetxattr(&file, "user.mark", b"here", XattrFlags::empty()).is_ok();
        let links = to.path().with_extension("links");
        copy(old, new, &links).unwrap();
        assert!(!links.exists());
        assert_eq!(fs::read_to_string(new.join("d/file")).unwrap(), "contents");
        assert_eq!(fs::read_link(new.join("link")).unwrap(), Path::new("/etc/passwd"));
        let seen =
            |path: &str| (fs::metadata(old.join(path)).unwrap(), fs::metadata(new.join(path)).unwrap());
        for path in ["d", "d/file", "empty", ""] {
            let (old, new) = seen(path);
            assert_eq!((old.mode(), old.mtime_nsec()), (new.mode(), new.mtime_nsec()), "{path}");
        }
        assert_eq!(seen("d/file").1.ino(), seen("second").1.ino(), "still one file");
        if marked {
            let mut value = [0; 9];
            let copy = File::open(new.join("d/file")).unwrap();
            assert_eq!(fgetxattr(&copy, "user.mark", value.as_mut_slice()).unwrap(), 4);
        }
    }

    #[test]
    fn a_deep_tree_is_copied_whole() {
        let ground = walk::ground();
        let at = |name: &str| ground.path().join(name);
        let levels = 3000;
        for name in ["from", "to"] {
            fs::create_dir(at(name)).unwrap();
        }
        walk::nest(&at("from"), levels);
        fs::write(at("from").join("d/".repeat(900)).join("one"), "deep").unwrap();
        fs::hard_link(at("from").join("d/".repeat(900)).join("one"), at("from/two")).unwrap();
        copy(&at("from"), &at("to"), &at("links")).unwrap();
        let mut copied = Walk::at(CWD, at("to")).unwrap();
        while let Some(name) = copied.next().unwrap() {
            if name.as_c_str() == c"d" {
                copied.enter(&name).unwrap();
            }
        }
        assert_eq!(copied.depth(), levels);
        let seen = fs::metadata(at("to").join("d/".repeat(900)).join("one")).unwrap();
        assert_eq!((seen.nlink(), seen.ino()), (2, fs::metadata(at("to/two")).unwrap().ino()));
        for name in ["from", "to"] {
            walk::remove(File::open(ground.path()).unwrap(), name).unwrap();
        }
    }
}
