//! Mounts, made out of sight and attached when they are right.
//!
//! A [`Tree`] is a mount that is attached nowhere: made from a device ([`of_device`]), or a copy of what is mounted
//! somewhere ([`copy`]). It gets its attributes while nobody sees it, and is then attached to a [`Place`], which a hostile
//! path cannot lead astray. There is no moment at which a read-only volume can be written to.

mod info;
mod options;
mod place;
mod silent;
mod unmounts;

pub use options::{MountOptions, OptionSet};
pub use place::{Place, Seen, Targets};

use crate::{
    error::{During, Fault},
    filesystem::FsType,
};
use cairn_daemon::mount_attr::{self, Change};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, open_tree,
    },
};
use std::path::Path;

/// A mount that is attached nowhere; it is gone when dropped.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl From<OwnedFd> for Tree {
    fn from(mount: OwnedFd) -> Self {
        Self(mount)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tree {
    /// Switches attributes on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn restrict(&self, attributes: MountAttrFlags) -> Result<(), Fault> {
        if attributes.is_empty() {
            return Ok(());
        }
        let set = u64::from(attributes.bits());
        // The kinds of access times are one field, not bits.
        let times = attributes
            .intersects(MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_STRICTATIME);
        let clear = if times { u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits()) } else { 0 };
        mount_attr::change(self.as_fd(), Change { set, clear, users: None })
            .during(|| "set a mount's attributes".to_owned())
    }
}

/// A copy of what is at `path`, a directory or a device's node: a bind mount.
///
/// # Errors
/// If there is nothing.
pub fn copy(path: &Path) -> Result<Tree, Fault> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).map(Tree).during(|| format!("copy the mount at {}", path.display()))
}

/// A copy of what `directory` is open on.
///
/// # Errors
/// The kernel's.
pub fn copy_of(directory: BorrowedFd<'_>) -> Result<Tree, Fault> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, "", flags).map(Tree).during(|| "copy a mount".to_owned())
}

/// The file system on a device. Device files in it are not devices.
///
/// # Errors
/// The kernel's, with its own words: a wrong option, a broken file system.
pub fn of_device(
    device: &Path,
    fs_type: FsType,
    options: &MountOptions,
    read_only: bool,
) -> Result<Tree, Fault> {
    let mut attributes = options.attributes() | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mut settings: Vec<(&str, Option<&str>)> = options.settings().collect();
    let has_settings = !settings.is_empty();
    if read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        settings.push(("ro", None));
    }
    if fs_type == FsType::Xfs {
        // A clone has its origin's identifier, and both may be mounted.
        settings.push(("nouuid", None));
    }
    let context = fsopen(fs_type.name(), FsOpenFlags::FSOPEN_CLOEXEC)
        .during(|| format!("this kernel has no {}", fs_type.name()))?;
    let made = (|| {
        fsconfig_set_string(&context, "source", device)?;
        for (key, value) in settings {
            match value {
                None => fsconfig_set_flag(&context, key)?,
                Some(value) => fsconfig_set_string(&context, key, value)?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    made.map(Tree).map_err(|error: Errno| {
        let what = format!("mount {} as {}{}", device.display(), fs_type.name(), explanation(&context));
        match error {
            // With a file system that is whole, it is an option that the kernel does not like.
            Errno::INVAL if has_settings => Fault::Invalid(format!("{what}: {error}")),
            Errno::ROFS if read_only => Fault::Precondition(format!(
                "{what}: it was not unmounted, and its journal cannot be replayed on a device that is read-only. Stage the \
                 volume once for one writer, or give the mount flag norecovery"
            )),
            error => Fault::Io { what, source: error.into() },
        }
    })
}

/// What the kernel said about a mount that failed, if anything: lines with `e `, `w ` or `i ` before them.
fn explanation(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut line = [0; 512];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let said = String::from_utf8_lossy(&line[..length]);
        text.push_str(": ");
        text.push_str(said.trim_end().get(2..).unwrap_or_default());
    }
    text
}
