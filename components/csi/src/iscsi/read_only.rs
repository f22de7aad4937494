//! Disks that cannot be written to from this node (`BLKROSET`, linux/fs.h; blockdev(8)).
//!
//! A file system that is mounted read-only is still written to: its journal is replayed if it was not unmounted. For nodes that read
//! one unit at the same time each would do that below the others. On a disk that is read-only the kernel refuses instead.
#![allow(unsafe_code)] // The ioctl has no wrapper.

use crate::error::{During, Fault};
use rustix::{
    fs::{Mode, OFlags, open},
    ioctl::{Setter, ioctl, opcode},
};
use std::{ffi::c_int, path::Path};

const ROSET: rustix::ioctl::Opcode = opcode::none(0x12, 93);

/// Makes a device read-only, or writable again, for as long as the kernel has it.
///
/// # Errors
/// The kernel's.
pub(super) fn set(device: &Path, read_only: bool) -> Result<(), Fault> {
    let set = || {
        let opened = open(device, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: BLKROSET reads an int through its argument, which lives as long as the call.
        unsafe { ioctl(&opened, Setter::<ROSET, c_int>::new(c_int::from(read_only))) }
    };
    let what = if read_only { "read-only" } else { "writable" };
    set().during(|| format!("make {} {what}", device.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        filesystem::{self, FsType},
        loopback,
        mount::{self, MountOptions, OptionSet},
    };
    use std::fs;

    #[test]
    fn no_journal_is_replayed_on_it() {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: needs root and loop devices");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        for fs_type in [FsType::Ext4, FsType::Xfs] {
            let (image, cut) = (directory.path().join("image"), directory.path().join(fs_type.name()));
            fs::File::create(&image).unwrap().set_len(fs_type.smallest()).unwrap();
            filesystem::make(&image, fs_type).unwrap();
            let plain = MountOptions::default();
            let device = loopback::attach(&image, false).unwrap();
            let tree = mount::of_device(&device, fs_type, &plain, false).unwrap();
            // What is in the log of a node that fell over.
            let file = rustix::fs::openat(
                &tree,
                "file",
                OFlags::CREATE | OFlags::WRONLY,
                Mode::from_raw_mode(0o600),
            );
            rustix::fs::fsync(file.unwrap()).unwrap();
            rustix::fs::fsync(fs::File::open(&device).unwrap()).unwrap();
            fs::copy(&image, &cut).unwrap();
            drop(tree);
            loopback::detach(&image).unwrap();

            let device = loopback::attach(&cut, false).unwrap();
            set(&device, true).unwrap();
            let before = fs::read(&cut).unwrap();
            let refused = mount::of_device(&device, fs_type, &plain, true).unwrap_err();
            assert!(
                matches!(&refused, Fault::Precondition(text) if text.contains("norecovery")),
                "{refused}"
            );
            let as_it_is = MountOptions::parse(&["norecovery".to_owned()], OptionSet::FILE_SYSTEM).unwrap();
            drop(mount::of_device(&device, fs_type, &as_it_is, true).unwrap());
            assert!(fs::read(&cut).unwrap() == before, "{} was written to", fs_type.name());
            set(&device, false).unwrap();
            drop(mount::of_device(&device, fs_type, &plain, true).unwrap());
            assert!(fs::read(&cut).unwrap() != before, "there was nothing to replay");
            loopback::detach(&cut).unwrap();
        }
    }
}
