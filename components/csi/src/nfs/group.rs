//! `fsGroup` on an export: its root is given to the group, if the server lets us.
//!
//! What is below is not walked, as it is on a device ([`crate::fs_group`]): an export is others', too, and may be of any size.
//! The root gets the bit by which what is made in it is the group's as well. Most servers take the node's root for nobody
//! (`root_squash`) and refuse even that; whose the files are is then the server's to say, and the pod's to find out, as with
//! the kubelet's own way, which only logs what it could not change.

use crate::{
    error::{During, Fault},
    fs_group,
};
use rustix::{fd::BorrowedFd, io::Errno};

/// Gives the root of a mount to a group. That it may not be given is said in the log, and is no error.
///
/// # Errors
/// If the server fails.
pub(super) fn give(tree: BorrowedFd<'_>, group: u32) -> Result<(), Fault> {
    match fs_group::give_alone(tree, group) {
        Err(error @ (Errno::PERM | Errno::ACCESS | Errno::ROFS)) => {
            tracing::warn!(group, "the NFS server does not let its files be given to fsGroup: {error}");
            Ok(())
        }
        given => given.during(|| "give an export's root to a group".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        fd::AsFd,
        fs::{Mode, OFlags, open},
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
        // As a server sees the node's root.
        thread::scope(|scope| {
            scope.spawn(|| {
                rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
                assert_eq!(fs_group::give_alone(tree.as_fd(), 4242), Err(Errno::PERM));
                give(tree.as_fd(), 4242).unwrap();
            });
        });
        let of = |path: &str| fs::metadata(volume.path().join(path)).unwrap();
        assert_ne!(of("").gid(), 4242);
        give(tree.as_fd(), 4242).unwrap();
        give(tree.as_fd(), 4242).unwrap();
        assert_eq!((of("").gid(), of("").mode() & 0o2770), (4242, 0o2770));
        assert_ne!(of("others").gid(), 4242, "an export is not walked");
    }
}
