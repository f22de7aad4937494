//! A file system whose making was cut short.
//!
//! What mkfs has written by then looks like anybody's data, and is left alone as that is. But where the same disk has been with this
//! node all the time since it was found blank, it is ours: the kernel numbers disks as they come, and gives no number twice
//! in a boot (`diskseq`, Documentation/ABI/testing/sysfs-block). So a record of both, kept as long as the boot, tells.

use super::content::{Content, blank, look};
use crate::error::Fault;
use rustix::fs::{major, minor, stat};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A disk on which a file system is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    device: PathBuf,
    /// The kernel's number for it.
    sequence: u64,
}

impl Unfinished {
    /// Of a disk; `None` if the kernel does not number it.
    pub fn on(device: &Path) -> Option<Self> {
        let number = stat(device).ok()?.st_rdev;
        let path = format!("/sys/dev/block/{}:{}/diskseq", major(number), minor(number));
        let sequence = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Some(Self { device: device.to_owned(), sequence })
    }

    /// Makes the disk blank again, if it is the same and what is on it can be of a file system that is not finished. Whether
    /// nothing unfinished is on it now.
    ///
    /// # Errors
    /// If it cannot be read or written, as while mkfs still has it.
    pub fn clear(&self) -> Result<bool, Fault> {
        if !self.is_here() {
            return Ok(false);
        }
        match look(&self.device)? {
            Content::Blank | Content::FileSystem(_) => Ok(true),
            content if content.may_be_unfinished() => blank(&self.device).map(|()| true),
            Content::Other(_) => Ok(false),
        }
    }

    /// The same for an encrypted volume's header: also one that is whole, as nothing was made behind it yet.
    ///
    /// # Errors
    /// If it cannot be read or written, as while cryptsetup still has it.
    pub fn clear_header(&self) -> Result<bool, Fault> {
        if !self.is_here() {
            return Ok(false);
        }
        match look(&self.device)? {
            Content::Blank => Ok(true),
            content if content.may_be_a_header() => blank(&self.device).map(|()| true),
            Content::FileSystem(_) | Content::Other(_) => Ok(false),
        }
    }

    /// Whether its name is the same disk's still.
    fn is_here(&self) -> bool {
        Self::on(&self.device).as_ref() == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{capacity::MIB, loopback};
    use std::{fs::File, os::unix::fs::FileExt};

    #[test]
    fn only_the_same_disk_is_cleared() {
        assert_eq!(Unfinished::on(Path::new("/no/such")), None);
        assert_eq!(Unfinished::on(Path::new("/dev/null")), None);
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: needs root and loop devices");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(16 * MIB).unwrap();
        let device = loopback::attach(&image, false).unwrap();
        let making = Unfinished::on(&device).unwrap();
        let write = |bytes: &[u8], at| {
            let device = fs::OpenOptions::new().write(true).open(&device).unwrap();
            device.write_all_at(bytes, at).unwrap();
            device.sync_all().unwrap();
        };
        assert!(making.clear().unwrap(), "mkfs had not begun");
        write(b"half a file system", 3 * MIB);
        assert!(making.clear().unwrap());
        assert_eq!(look(&device).unwrap(), Content::Blank);
        let mut half = [0; 512];
        half[..4].copy_from_slice(b"XFSB");
        half[126] = 1;
        write(&half, 0);
        assert!(making.clear().unwrap());
        assert_eq!(look(&device).unwrap(), Content::Blank);
        write(b"EFI PART", 512);
        assert!(!making.clear().unwrap(), "no mkfs of ours writes that");
        assert_eq!(look(&device).unwrap().to_string(), "a partition table");
        assert!(!making.clear_header().unwrap(), "nor cryptsetup");
        // Noise for key slots without a header, and a header.
        for (bytes, at) in [(&b"noise"[..], MIB), (b"LUKS\xba\xbe", 0)] {
            write(&[0; 512], 512);
            write(bytes, at);
            assert!(making.clear_header().unwrap());
            assert_eq!(look(&device).unwrap(), Content::Blank);
        }
        // Somebody has it.
        write(&[0; 512], 512);
        write(b"half a file system", 3 * MIB);
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::EXCL;
        let held = rustix::fs::open(&device, flags, rustix::fs::Mode::empty()).unwrap();
        assert!(making.clear().is_err());
        drop(held);
        // The name is another disk's now.
        loopback::detach(&image).unwrap();
        let again = loopback::attach(&image, false).unwrap();
        let other = Unfinished { device: again.clone(), ..making };
        assert!(!other.clear().unwrap());
        assert_eq!(look(&again).unwrap().to_string(), "data of an unknown kind");
        loopback::detach(&image).unwrap();
    }
}
