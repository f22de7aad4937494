//! Files that a group may use: what the kubelet does for `fsGroup`, for drivers with VOLUME_MOUNT_GROUP done by them.
//!
//! As with the kubelet's policy OnRootMismatch: if the volume's root is the group's and right, so is what is below. The
//! root is changed last, so a walk that was cut short is made again. Links are not followed, mounts not crossed.
//!
//! Pods may have the volume already, and exchange what was looked at for something else. So everything is opened first and
//! only what is open is looked at and changed: never a name twice.

use crate::{
    error::{During, Fault},
    walk::Walk,
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, chmod, chownat, fstat, openat},
    io::{self, Errno},
};
use std::ffi::CStr;

/// What directories get for their group: reading, writing, passing, and the group for what is made in them.
const DIRECTORY: u32 = 0o2770;
/// What files get.
const FILE: u32 = 0o660;

/// Gives the directory that `root` is open on, and all below it, to a group.
///
/// # Errors
/// If the disk fails or is read-only.
pub fn give(root: OwnedFd, group: u32) -> Result<(), Fault> {
    let seen = fstat(&root).during(|| "look at a volume's root".to_owned())?;
    if is_given(&seen, group) {
        return Ok(());
    }
    tracing::info!(group, "giving a volume's files to a group");
    all_below(root, seen.st_dev, Gid::from_raw(group))
        .during(|| "give a volume's files to a group".to_owned())
}

/// Gives a directory to a group, and nothing of what is in it. The descriptor may be of a place only (O_PATH).
///
/// # Errors
/// The file system's.
pub(crate) fn give_alone(directory: BorrowedFd<'_>, group: u32) -> io::Result<()> {
    let seen = fstat(directory)?;
    if is_given(&seen, group) { Ok(()) } else { change(directory, &seen, Gid::from_raw(group), DIRECTORY) }
}

fn is_given(directory: &Stat, group: u32) -> bool {
    directory.st_gid == group && directory.st_mode & DIRECTORY == DIRECTORY
}

fn all_below(root: OwnedFd, device: u64, group: Gid) -> io::Result<()> {
    let mut walk = Walk::new(root)?;
    loop {
        while let Some(name) = walk.next()? {
            match walk.enter(&name) {
                Ok(_) => {}
                // No directory; a link is LOOP to some file systems.
                Err(Errno::NOTDIR | Errno::LOOP) => give_file(walk.here()?, &name, device, group)?,
                // Something is mounted on it, or it is gone.
                Err(Errno::XDEV | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        change(walk.here()?, &fstat(walk.here()?)?, group, DIRECTORY)?;
        if !walk.leave()? {
            return Ok(());
        }
    }
}

/// Anything but a directory: also what blocks or does something when it is opened, so it is opened as a place (O_PATH) only.
fn give_file(directory: BorrowedFd<'_>, name: &CStr, device: u64, group: Gid) -> io::Result<()> {
    let file = match openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    give_opened(file.as_fd(), device, group)
}

fn give_opened(file: BorrowedFd<'_>, device: u64, group: Gid) -> io::Result<()> {
    let seen = fstat(file)?;
    if seen.st_dev != device {
        return Ok(());
    }
    if FileType::from_raw_mode(seen.st_mode).is_file() {
        change(file, &seen, group, FILE)
    } else {
        change_group(file, group)
    }
}

/// Changes what is open, which looks as `seen`: its group, and what that may do.
fn change(file: BorrowedFd<'_>, seen: &Stat, group: Gid, add: u32) -> io::Result<()> {
    change_group(file, group)?;
    // fchmod(2) does not take the descriptor of a place; its name in /proc leads to what it is open on, and nowhere else.
    chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(seen.st_mode & 0o7777 | add))
}

fn change_group(file: BorrowedFd<'_>, group: Gid) -> io::Result<()> {
    chownat(file, c"", None, Some(group), AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::{
        fs::{self, File},
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    fn has_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            println!("skipped: needs root");
        }
        root
    }

    fn give_all(root: &Path) {
        give(File::open(root).unwrap().into(), 4242).unwrap();
    }

    #[test]
    fn files_and_directories_are_the_groups_but_not_what_links_name() {
        if !has_root() {
            return;
        }
        let (volume, other) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        fs::create_dir(volume.path().join("d")).unwrap();
        fs::write(volume.path().join("d/f"), "").unwrap();
        symlink(other.path(), volume.path().join("link")).unwrap();
        symlink(other.path().parent().unwrap(), volume.path().join("link to a directory")).unwrap();
        // Whoever opened it would wait for a writer.
        rustix::fs::mknodat(CWD, volume.path().join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        give_all(volume.path());
        let of = |path: &str| fs::symlink_metadata(volume.path().join(path)).unwrap();
        for path in ["", "d", "d/f", "link", "fifo"] {
            assert_eq!(of(path).gid(), 4242, "{path}");
        }
        assert_eq!(of("d").permissions().mode() & DIRECTORY, DIRECTORY);
        assert_eq!(of("d/f").permissions().mode() & FILE, FILE);
        assert_eq!(of("fifo").permissions().mode() & 0o7777, 0o600);
        let outside = other.as_file().metadata().unwrap();
        assert_ne!(outside.gid(), 4242);
        // Right already: not walked again.
        fs::write(volume.path().join("d/later"), "").unwrap();
        std::os::unix::fs::chown(volume.path().join("d/later"), None, Some(0)).unwrap();
        give_all(volume.path());
        assert_eq!(of("d/later").gid(), 0);
    }

    /// What a pod puts in the place of a file after that was looked at: here, right after it was opened.
    #[test]
    fn what_takes_a_files_place_is_not_changed() {
        if !has_root() {
            return;
        }
        let (volume, other) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let (file, link) = (volume.path().join("file"), volume.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink(other.path(), &link).unwrap();
        let before = other.as_file().metadata().unwrap();
        let opened = rustix::fs::open(&file, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        renameat_with(CWD, &file, CWD, &link, RenameFlags::EXCHANGE).unwrap();
        give_opened(opened.as_fd(), before.dev(), Gid::from_raw(4242)).unwrap();
        let after = other.as_file().metadata().unwrap();
        assert_eq!((after.mode(), after.gid()), (before.mode(), before.gid()));
        let given = fs::metadata(&link).unwrap();
        assert_eq!((given.gid(), given.mode() & FILE), (4242, FILE), "the file itself, wherever it is");
    }

    #[test]
    fn a_pod_that_swaps_files_for_links_gets_nothing() {
        if !has_root() {
            return;
        }
        let (volume, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = other.path().join("outside");
        fs::write(&outside, "").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
        let (one, two) = (volume.path().join("one"), volume.path().join("two"));
        fs::write(&one, "").unwrap();
        symlink(&outside, &two).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..3000 {
                std::os::unix::fs::chown(volume.path(), None, Some(0)).unwrap();
                give_all(volume.path());
            }
            ended.store(true, Ordering::Relaxed);
        });
        let seen = fs::metadata(&outside).unwrap();
        assert_eq!((seen.mode() & 0o7777, seen.gid()), (0o600, 0));
    }

    #[test]
    fn deep_trees_are_given_too() {
        if !has_root() {
            return;
        }
        let volume = crate::walk::ground();
        // More than a process may have open.
        crate::walk::nest(volume.path(), 5000);
        give_all(volume.path());
        assert_eq!(fs::metadata(volume.path().join("d/".repeat(500))).unwrap().gid(), 4242);
        crate::walk::remove(File::open(volume.path()).unwrap(), "d").unwrap();
    }
}
