//! File systems on devices and images: recognised, made, checked, grown, frozen.
//!
//! The rule that keeps data safe is in [`make`]: a file system is made only where nothing but zeros is.

mod check;
mod content;
mod freeze;
mod unfinished;

pub use check::check;
pub(crate) use content::blank;
pub use content::{Content, is_smaller_than_its_device, look};
pub use freeze::Frozen;
pub use unfinished::Unfinished;

use crate::{
    capacity::MIB,
    error::{During, Fault},
};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// A file system that the driver makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4; also mounts ext2 and ext3.
    Ext4,
    /// XFS.
    Xfs,
}

impl FsType {
    /// By its name in requests.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs].into_iter().find(|known| known.name() == name)
    }

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Bytes of the smallest one worth making. mkfs.xfs refuses less than 300 MiB.
    pub fn smallest(self) -> u64 {
        match self {
            Self::Ext4 => 16 * MIB,
            Self::Xfs => 300 * MIB,
        }
    }
}

/// Makes a file system on a device or image that holds nothing.
///
/// # Errors
/// [`Fault::Precondition`] if it holds anything, with what; [`Fault::Io`] if mkfs is missing or fails.
pub fn make(device: &Path, fs_type: FsType) -> Result<(), Fault> {
    match look(device)? {
        Content::Blank => {}
        content => {
            return Err(Fault::Precondition(format!(
                "{} holds {content}: it is not formatted. Wipe it first if that is of no use (wipefs -a)",
                device.display()
            )));
        }
    }
    let mut command = match fs_type {
        // -F: an image is no device. Nothing is lost, we have looked.
        FsType::Ext4 => {
            let mut command = Command::new("mkfs.ext4");
            command.args(["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]);
            command
        }
        FsType::Xfs => {
            let mut command = Command::new("mkfs.xfs");
            command.args(["-q", "-K", "-m", "reflink=1"]);
            command
        }
    };
    run(command.arg(device))
}

/// Grows a mounted file system to the size of its device.
///
/// # Errors
/// If the program is missing or fails.
pub fn grow(device: &Path, fs_type: FsType, mounted: &Path) -> Result<(), Fault> {
    match fs_type {
        FsType::Ext4 => run(Command::new("resize2fs").arg(device)),
        FsType::Xfs => run(Command::new("xfs_growfs").arg("-d").arg(mounted)),
    }
}

/// The file system that a path is on, if it is one of ours.
///
/// # Errors
/// If there is no such path.
pub fn of(path: &Path) -> Result<Option<FsType>, Fault> {
    let held = rustix::fs::statfs(path).during(|| format!("look at {}", path.display()))?;
    // linux/magic.h
    Ok(match held.f_type {
        0xef53 => Some(FsType::Ext4),
        0x5846_5342 => Some(FsType::Xfs),
        _ => None,
    })
}

/// Runs a program of the system to its end.
///
/// # Errors
/// [`Fault::Io`], with what it said, if it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<(), Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .during(|| format!("{name} cannot be started (is its package installed?)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    Err(Fault::Io { what: format!("{name}: {}", output.status), source: std::io::Error::other(said) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn only_nothing_is_formatted() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(FsType::Ext4.smallest()).unwrap();
        assert_eq!(look(&image).unwrap(), Content::Blank);
        make(&image, FsType::Ext4).unwrap();
        assert_eq!(look(&image).unwrap(), Content::FileSystem(FsType::Ext4));
        for again in [FsType::Ext4, FsType::Xfs] {
            let refused = make(&image, again).unwrap_err().to_string();
            assert!(refused.contains("holds an ext4 file system"), "{refused}");
        }
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let error = run(Command::new("sh").args(["-c", "echo too bad >&2; exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "sh: exit status: 3: too bad");
        assert!(run(&mut Command::new("/no/such")).unwrap_err().to_string().contains("installed?"));
    }
}
