//! Mounts of file systems that answer no questions: an XFS that has shut itself down refuses even statx(2). The kernel's lists
//! of descriptors and of mounts still say what is there, so that it can be unmounted.

use super::info::mounts;
use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    fs::{Mode, OFlags, openat},
};
use std::{ffi::OsStr, fs, io};

/// Device number and inode of the root of what is mounted on `name` in `parent`; `None` if nothing is.
///
/// # Errors
/// The kernel's.
pub(super) fn mounted(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<(u64, u64)>> {
    let there = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let ((mount, inode), (around, _)) = (described(&there)?, described(parent)?);
    if mount == around {
        return Ok(None);
    }
    let info = fs::read_to_string("/proc/self/mountinfo")?;
    let listed = mounts(&info).find(|listed| listed.id == mount);
    let listed = listed.ok_or_else(|| unexpected("no such mount in /proc/self/mountinfo"))?;
    Ok(Some((listed.device, inode)))
}

/// Number of its mount, and its inode: proc_pid_fdinfo(5).
fn described(descriptor: &impl AsFd) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd()))?;
    let value = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok())
    };
    value("mnt_id").zip(value("ino")).ok_or_else(|| unexpected("no mnt_id or ino in /proc/self/fdinfo"))
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_mount_is_told_from_what_is_around_it() {
        let root: OwnedFd = fs::File::open("/").unwrap().into();
        let proc = fs::metadata("/proc").unwrap();
        assert_eq!(mounted(&root, OsStr::new("proc")).unwrap(), Some((proc.dev(), proc.ino())));
        let inside: OwnedFd = fs::File::open("/proc").unwrap().into();
        assert_eq!(mounted(&inside, OsStr::new("version")).unwrap(), None);
        assert!(mounted(&inside, OsStr::new("no-such-file")).is_err());
    }
}
