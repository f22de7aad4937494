//! Owner, mode, extended attributes and time stamps of what was unpacked.

use super::{
    Context, UnpackError,
    tar::{Entry, Kind},
    tree::Place,
};
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid},
    io::Errno,
};

/// Makes a device or a FIFO.
pub(super) fn special(
    place: &Place,
    entry: &Entry,
    kind: FileType,
    major: u32,
    minor: u32,
) -> Result<(), UnpackError> {
    let context = Context(entry);
    fs::mknodat(place.dir(), &place.name, kind, Mode::RUSR | Mode::WUSR, fs::makedev(major, minor))
        .map_err(context.failed("make a device or FIFO"))?;
    attributes(place, entry)
}

/// Owner, mode, extended attributes and time stamp of what was just made at `place`, without following it.
pub(super) fn attributes(place: &Place, entry: &Entry) -> Result<(), UnpackError> {
    let context = Context(entry);
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fs::chownat(place.dir(), &place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(context.failed("set the owner"))?;
    if !matches!(entry.kind, Kind::Symlink(_)) {
        // Nobody else writes here, so what was made is still no symbolic link that `chmod` could follow.
        fs::chmodat(place.dir(), &place.name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(context.failed("set the mode"))?;
    }
    for (name, value) in wanted_xattrs(entry) {
        tolerate(name, &entry.kind, place.set_xattr(name, value))
            .map_err(context.failed("set an extended attribute"))?;
    }
    fs::utimensat(place.dir(), &place.name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(context.failed("set the time stamp"))
}

/// The archive's attributes without those that steer overlayfs: an image must not redirect its own lookups.
pub(super) fn wanted_xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    entry
        .xattrs
        .iter()
        .filter(|(name, _)| !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay."))
        .map(|(name, value)| (&name[..], &value[..]))
}

/// An attribute that this file system or kind of file does not take is left out, except file capabilities: without
/// them a program would fail in a way nobody could explain.
pub(super) fn tolerate(name: &[u8], kind: &Kind, result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::INVAL) if name != b"security.capability" => Ok(()),
        // user.* exists on files and directories only.
        Err(Errno::PERM) if name.starts_with(b"user.") && !matches!(kind, Kind::File | Kind::Directory) => {
            Ok(())
        }
        result => result,
    }
}

/// For both times of a file.
pub(super) fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
