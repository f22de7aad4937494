//! Files that a group may use: what the kubelet does for `fsGroup`, for drivers with VOLUME_MOUNT_GROUP done by them.
//!
//! As with the kubelet's policy OnRootMismatch: if the volume's root is the group's and right, so is what is below. The
//! root is changed last, so a walk that was cut short is made again. Links are not followed, mounts not crossed.

use crate::error::{During, Fault};
use rustix::{
    fd::OwnedFd,
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, chmodat, chownat, fchmod, fchown, fstat, openat, statat,
    },
};

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
    if seen.st_gid == group && seen.st_mode & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    tracing::info!(group, "giving a volume's files to a group");
    let group = Gid::from_raw(group);
    walk(&root, seen.st_dev, group).during(|| "give a volume's files to a group".to_owned())?;
    fchown(&root, None, Some(group))
        .and_then(|()| fchmod(&root, Mode::from_raw_mode(seen.st_mode & 0o7777 | DIRECTORY)))
        .during(|| "give a volume's root to a group".to_owned())
}

fn walk(directory: &OwnedFd, device: u64, group: Gid) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let seen = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if seen.st_dev != device {
            continue;
        }
        let kind = FileType::from_raw_mode(seen.st_mode);
        if kind.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            walk(&openat(directory, name, flags, Mode::empty())?, device, group)?;
        }
        chownat(directory, name, None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        // A link has no mode of its own; chmodat would follow it.
        if kind.is_dir() || kind.is_file() {
            let add = if kind.is_dir() { DIRECTORY } else { FILE };
            chmodat(directory, name, Mode::from_raw_mode(seen.st_mode & 0o7777 | add), AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    #[test]
    fn files_and_directories_are_the_groups_but_not_what_links_name() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let (volume, other) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        fs::create_dir(volume.path().join("d")).unwrap();
        fs::write(volume.path().join("d/f"), "").unwrap();
        symlink(other.path(), volume.path().join("link")).unwrap();
        give(fs::File::open(volume.path()).unwrap().into(), 4242).unwrap();
        let of = |path: &str| fs::metadata(volume.path().join(path)).unwrap();
        assert_eq!((of("").gid(), of("d").gid(), of("d/f").gid()), (4242, 4242, 4242));
        assert_eq!(of("d").permissions().mode() & DIRECTORY, DIRECTORY);
        assert_eq!(of("d/f").permissions().mode() & FILE, FILE);
        let outside = other.as_file().metadata().unwrap();
        assert_ne!(outside.gid(), 4242);
        // Right already: not walked again.
        fs::write(volume.path().join("d/later"), "").unwrap();
        std::os::unix::fs::chown(volume.path().join("d/later"), None, Some(0)).unwrap();
        give(fs::File::open(volume.path()).unwrap().into(), 4242).unwrap();
        assert_eq!(of("d/later").gid(), 0);
    }
}
