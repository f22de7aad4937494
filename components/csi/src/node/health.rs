//! A mounted volume's health as the kernel tells it: whether it can be read, may still be written to, and what its file system
//! has noticed.

use crate::backend::Condition;
use rustix::{
    fs::{Dir, Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, major, minor, open},
    io::Errno,
};
use std::{fs, path::Path};

/// Looks at the file system mounted at `mounted`; `read_only` is what was asked for. It reads the root directory, so not where
/// that may wait for a server.
pub(super) fn look(mounted: &Path, read_only: bool) -> Condition {
    look_with(mounted, read_only, Path::new("/sys"))
}

fn look_with(mounted: &Path, read_only: bool, sys: &Path) -> Condition {
    match seen(mounted, sys) {
        Ok(Seen { errors: Some(errors), .. }) if errors > 0 => Condition::Abnormal(format!(
            "its file system has found {errors} errors in itself: run e2fsck on it when nothing uses it"
        )),
        Ok(Seen { read_only: true, .. }) if !read_only => Condition::Abnormal(
            "its file system has become read-only, as after an error of the disk: see the kernel's log"
                .to_owned(),
        ),
        Ok(_) => Condition::Normal,
        // EUCLEAN: it is damaged.
        Err(error @ (Errno::IO | Errno::UCLEAN | Errno::NXIO | Errno::NODEV | Errno::SHUTDOWN)) => {
            Condition::Abnormal(format!("it cannot be read: {error}; see the kernel's log"))
        }
        // That says nothing of the disk.
        Err(_) => Condition::Normal,
    }
}

struct Seen {
    read_only: bool,
    /// What ext4 has counted.
    errors: Option<u64>,
}

fn seen(mounted: &Path, sys: &Path) -> rustix::io::Result<Seen> {
    let root = open(mounted, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let held = fstatvfs(&root)?;
    if let Some(entry) = Dir::read_from(&root)?.next() {
        entry?;
    }
    let device = fstat(&root)?.st_dev;
    Ok(Seen { read_only: held.f_flag.contains(StatVfsMountFlags::RDONLY), errors: errors(device, sys) })
}

/// Errors that ext4 has counted on a device (Documentation/ABI/testing/sysfs-fs-ext4, `errors_count`); `None`: it is not on one.
fn errors(device: u64, sys: &Path) -> Option<u64> {
    let number = format!("dev/block/{}:{}", major(device), minor(device));
    let block = fs::canonicalize(sys.join(number)).ok()?;
    let count = fs::read_to_string(sys.join("fs/ext4").join(block.file_name()?).join("errors_count")).ok()?;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn what_ext4_counts_is_told() {
        let (sys, mounted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let look = || look_with(mounted.path(), false, sys.path());
        assert_eq!(look(), Condition::Normal, "on no ext4");
        let device = fs::metadata(mounted.path()).unwrap().dev();
        let at = |path: &str| sys.path().join(path);
        for directory in ["dev/block", "devices/vdz", "fs/ext4/vdz"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        let number = format!("dev/block/{}:{}", major(device), minor(device));
        symlink(at("devices/vdz"), at(&number)).unwrap();
        fs::write(at("fs/ext4/vdz/errors_count"), "0\n").unwrap();
        assert_eq!(look(), Condition::Normal);
        fs::write(at("fs/ext4/vdz/errors_count"), "3\n").unwrap();
        assert!(matches!(look(), Condition::Abnormal(text) if text.contains("3 errors")));
    }
}
