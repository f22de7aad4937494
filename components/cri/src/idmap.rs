//! Copies of mounts whose file owners are shifted by a user namespace's ranges (mount_setattr(2)).
//!
//! In such a copy a file of the node's user 0 belongs to the pod's root, and what the pod's root writes is the node's
//! user 0 on disk: the pod's ids appear nowhere. A copy is prepared while it is attached nowhere, then attached.

use cairn_daemon::mount_attr::{self, Change};
use rustix::{
    fd::{BorrowedFd, OwnedFd},
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
    let Err(error) = mount_attr::change(copy, Change { users: Some(users), ..Change::default() }) else {
        return Ok(());
    };
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
