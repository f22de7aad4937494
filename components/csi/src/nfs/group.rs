//! `fsGroup` on an export: its root is given to the group, if the server lets us.
//!
//! What is below is not walked, as it is on a device ([`crate::fs_group`]): an export is others', too, and may be of any size.
//! The root gets the bit by which what is made in it is the group's as well. Most servers take the node's root for nobody
//! (`root_squash`) and refuse even that; whose the files are is then the server's to say, and the pod's to find out, as with
//! the kubelet's own way, which only logs what it could not change.

use crate::{
    error::{During, Fault},
    fs_group::DIRECTORY,
};
use rustix::{
    fd::{AsRawFd, BorrowedFd},
    fs::{AtFlags, Gid, Mode, chmod, chownat, fstat, fstatfs},
    io::Errno,
};

/// linux/magic.h, NFS_SUPER_MAGIC.
const NFS: u64 = 0x6969;

/// Whether a mount is of an export.
pub(crate) fn is_export(tree: BorrowedFd<'_>) -> bool {
    fstatfs(tree).is_ok_and(|held| u64::try_from(held.f_type).is_ok_and(|kind| kind == NFS))
}

/// Gives the root of a mount to a group. That it may not be given is said in the log, and is no error.
///
/// # Errors
/// If the server fails.
pub(crate) fn give(tree: BorrowedFd<'_>, group: u32) -> Result<(), Fault> {
    match give_root(tree, group) {
        Err(error @ (Errno::PERM | Errno::ACCESS | Errno::ROFS)) => {
            tracing::warn!(group, "the NFS server does not let its files be given to fsGroup: {error}");
            Ok(())
        }
        given => given.during(|| "give an export's root to a group".to_owned()),
    }
}

fn give_root(tree: BorrowedFd<'_>, group: u32) -> rustix::io::Result<()> {
    let seen = fstat(tree)?;
    if seen.st_gid == group && seen.st_mode & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    chownat(tree, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    // A mount's descriptor is a place, which fchmod(2) does not take; its name in /proc leads to the same.
    chmod(
        format!("/proc/self/fd/{}", tree.as_raw_fd()),
        Mode::from_raw_mode(seen.st_mode & 0o7777 | DIRECTORY),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        fd::AsFd,
        fs::{OFlags, open},
    };
    use std::{fs, os::unix::fs::MetadataExt, thread};

    #[test]
    fn the_root_is_given_and_what_may_not_be_given_is_left() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let volume = tempfile::tempdir().unwrap();
        fs::write(volume.path().join("others"), "").unwrap();
        let tree = open(volume.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        assert!(!is_export(tree.as_fd()));
        // As a server sees the node's root.
        thread::scope(|scope| {
            scope.spawn(|| {
                rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
                assert_eq!(give_root(tree.as_fd(), 4242), Err(Errno::PERM));
                give(tree.as_fd(), 4242).unwrap();
            });
        });
        let of = |path: &str| fs::metadata(volume.path().join(path)).unwrap();
        assert_ne!(of("").gid(), 4242);
        give(tree.as_fd(), 4242).unwrap();
        give(tree.as_fd(), 4242).unwrap();
        assert_eq!((of("").gid(), of("").mode() & DIRECTORY), (4242, DIRECTORY));
        assert_ne!(of("others").gid(), 4242, "an export is not walked");
    }
}
