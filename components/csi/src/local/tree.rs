//! Copies of directories: everything in them as it is, without following links or leaving the file system.

use super::copy::{self, Copied, Progress};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat,
        fchmod, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat,
        readlinkat, statat, symlinkat, utimensat,
    },
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Copies what is in the directory `from` into the directory `to`, and gives `to` the owner, mode and attributes of `from`.
///
/// # Errors
/// If the disk fails or is full.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<Copied> {
    let open = |path: &Path| rustix::fs::open(path, DIRECTORY, Mode::empty());
    let (old, new) = (open(from)?, open(to)?);
    let root = fstat(&old)?;
    let mut copier = Copier {
        device: root.st_dev,
        root: new.as_fd().try_clone_to_owned()?,
        linked: BTreeMap::new(),
        progress: Progress::new(from),
        copied: Copied::Shared,
    };
    copier.directory(&old, &new, Path::new(""))?;
    finish(&old, &new, &root)?;
    rustix::fs::syncfs(&new)?;
    Ok(copier.copied)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Copier {
    device: u64,
    /// Of the copy.
    root: OwnedFd,
    /// Files with several names, by inode: where the first one is in the copy.
    linked: BTreeMap<u64, PathBuf>,
    progress: Progress,
    copied: Copied,
}

impl Copier {
    fn directory(&mut self, old: &OwnedFd, new: &OwnedFd, path: &Path) -> io::Result<()> {
        for entry in Dir::read_from(old)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let seen = statat(old, name, AtFlags::SYMLINK_NOFOLLOW)?;
            // Something is mounted in it.
            if seen.st_dev != self.device {
                continue;
            }
            self.entry(old, new, name, &seen, &path.join(text(name)))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        old: &OwnedFd,
        new: &OwnedFd,
        name: &CStr,
        seen: &Stat,
        path: &Path,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(seen.st_mode);
        if !kind.is_dir() && seen.st_nlink > 1 {
            if let Some(first) = self.linked.get(&seen.st_ino) {
                return Ok(linkat(&self.root, first, new, name, AtFlags::empty())?);
            }
            self.linked.insert(seen.st_ino, path.to_path_buf());
        }
        let private = Mode::from_raw_mode(0o700);
        match kind {
            FileType::Directory => {
                mkdirat(new, name, private)?;
                let (old, new) = (
                    openat(old, name, DIRECTORY, Mode::empty())?,
                    openat(new, name, DIRECTORY, Mode::empty())?,
                );
                self.directory(&old, &new, path)?;
                finish(&old, &new, seen)
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let write =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let old = File::from(openat(old, name, read, Mode::empty())?);
                let new = File::from(openat(new, name, write, private)?);
                if seen.st_size > 0 && !copy::share(&old, &new)? {
                    self.copied = Copied::Whole;
                    copy::copy_data(&old, &new, &mut self.progress)?;
                }
                finish(&old.into(), &new.into(), seen)
            }
            FileType::Symlink => {
                symlinkat(readlinkat(old, name, Vec::new())?, new, name)?;
                self.bare(new, name, seen)
            }
            _ => {
                let mode = Mode::from_raw_mode(seen.st_mode);
                mknodat(new, name, kind, mode, seen.st_rdev)?;
                rustix::fs::chmodat(new, name, mode, AtFlags::empty())?;
                self.bare(new, name, seen)
            }
        }
    }

    /// Owner and times of what cannot be opened.
    fn bare(&self, new: &OwnedFd, name: &CStr, seen: &Stat) -> io::Result<()> {
        let (owner, group) = owners(seen);
        chownat(new, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(utimensat(new, name, &times(seen), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Gives a file or directory what its original has besides its contents. The owner comes first: changing it takes bits of
/// the mode and capabilities away.
fn finish(old: &OwnedFd, new: &OwnedFd, seen: &Stat) -> io::Result<()> {
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
fn attributes(file: &OwnedFd) -> io::Result<Vec<CString>> {
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

fn text(name: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
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
        copy(old, new).unwrap();
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
}
