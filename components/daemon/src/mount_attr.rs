//! Attributes of a mount, changed before anyone can see it: mount_setattr(2).
#![allow(unsafe_code)] // It has no wrapper.

use rustix::fd::{AsRawFd, BorrowedFd};
use std::io;

/// What is changed. Zeros change nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'users> {
    /// `MOUNT_ATTR_*` bits that are switched on.
    pub set: u64,
    /// `MOUNT_ATTR_*` bits that are switched off.
    pub clear: u64,
    /// User namespace whose ranges shift the files' owners.
    pub users: Option<BorrowedFd<'users>>,
}

/// Changes the mount that `mount` is the root of: one made by open_tree(2) or fsmount(2), attached nowhere yet.
///
/// # Errors
/// The kernel's; EINVAL if its file system allows no shifted owners.
pub fn change(mount: BorrowedFd<'_>, change: Change<'_>) -> io::Result<()> {
    let (shift, users) = match change.users {
        Some(users) => (libc::MOUNT_ATTR_IDMAP, users.as_raw_fd() as u64),
        None => (0, 0),
    };
    let attributes = libc::mount_attr {
        attr_set: change.set | shift,
        attr_clr: change.clear,
        propagation: 0,
        userns_fd: users,
    };
    // SAFETY: an empty path names `mount` itself, and the kernel reads `attributes`, whose size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
