//! Copies of mounts whose file owners are shifted by a user namespace's ranges (mount_setattr(2)).
//!
//! In such a copy a file of the node's user 0 belongs to the pod's root, and what the pod's root writes is the node's
//! user 0 on disk: the pod's ids appear nowhere. A copy is prepared while it is attached nowhere, then attached.
#![allow(unsafe_code)] // mount_setattr has no wrapper.

use rustix::{
    fd::{AsRawFd, BorrowedFd, OwnedFd},
    fs::CWD,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
        open_tree, unmount,
    },
};
use std::{fs, io, path::Path};

/// A copy of the mount at `source`, with the mounts below it if `recursive`, attached nowhere.
pub fn copy(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, source, flags).map_err(|error| describe(source, "copy the mount of", error.into()))
}

/// Shifts the owners in a [`copy`] of `source` (for the message) by the ranges of `users`. Mounts below it stay as
/// they are: the file system of each would have to allow it.
pub fn shift(copy: BorrowedFd<'_>, users: BorrowedFd<'_>, source: &Path) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    // SAFETY: an empty path names `copy` itself, and the kernel reads `attributes`, whose size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            copy.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EINVAL) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "{} cannot be used with a user namespace: its file system allows no ID-mapped mounts",
                source.display()
            ),
        ));
    }
    Err(describe(source, "map the owners of", error))
}

/// Attaches a [`copy`] at `place`.
pub fn attach(copy: BorrowedFd<'_>, place: &Path) -> io::Result<()> {
    let attached = move_mount(copy, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    attached.map_err(|error| describe(place, "mount on", error.into()))
}

/// Unmounts what is at `place`, with all below it; nothing there is fine.
pub fn detach(place: &Path) {
    // Else the mounts below would go from the place they were copied from, too.
    while mount_change(place, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).is_ok()
        && unmount(place, UnmountFlags::DETACH).is_ok()
    {}
}

/// [`detach`]es every place in `directory` and removes it; none is fine.
pub fn detach_all(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let place = entry.path();
        detach(&place);
        // A mount point that is empty now: whatever it still holds is not removed.
        let _ = fs::remove_dir(&place).or_else(|_| fs::remove_file(&place));
    }
    let _ = fs::remove_dir(directory);
}

fn describe(path: &Path, doing: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {doing} {}: {error}", path.display()))
}
