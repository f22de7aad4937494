//! Mounts of file systems that answer no questions: an XFS that has shut itself down refuses even statx(2). The kernel's lists
//! of descriptors and of mounts still say what is there, so that it can be unmounted.

use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    fs::{Mode, OFlags, makedev, openat},
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
    let device = device(&info, mount).ok_or_else(|| unexpected("no such mount in /proc/self/mountinfo"))?;
    Ok(Some((device, inode)))
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

/// The device number of a mount, from proc_pid_mountinfo(5).
fn device(info: &str, mount: u64) -> Option<u64> {
    let mut fields = info.lines().map(|line| line.split(' '));
    let mut line = fields.find(|line| line.clone().next().and_then(|id| id.parse().ok()) == Some(mount))?;
    let (major, minor) = line.nth(2)?.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
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

    #[test]
    fn devices_are_found_by_the_whole_number() {
        let info = "2 1 254:1 / / rw - ext4 /dev/vda rw\n21 2 0:50 / /a rw - xfs /dev/b rw\n";
        assert_eq!(device(info, 21), Some(makedev(0, 50)));
        assert_eq!(device(info, 1), None);
    }
}
