//! What a device or image holds.

use super::FsType;
use crate::{
    capacity::MIB,
    error::{During, Fault},
};
use rustix::fs::OFlags;
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing: a file that nobody wrote to, or zeros wherever a file system, a partition table or a volume manager
    /// would have left its mark.
    Blank,
    /// A file system that can be mounted.
    FileSystem(FsType),
    /// Something else.
    Other(&'static str),
}

const UNKNOWN: &str = "data of an unknown kind";
const LUKS: &str = "a LUKS header";
const HALF_XFS: &str = "an XFS file system that mkfs.xfs did not finish";

impl Content {
    /// Whether a mkfs of ours that was cut short may have left it: ext4 gets its mark last, XFS gets its own first, with another
    /// that it is not done.
    pub(super) fn may_be_unfinished(&self) -> bool {
        matches!(self, Self::Other(UNKNOWN | HALF_XFS))
    }

    /// Whether cryptsetup may have left it while it made a header: it fills the place of the key slots with noise first.
    pub(super) fn may_be_a_header(&self) -> bool {
        matches!(self, Self::Other(UNKNOWN | LUKS))
    }
}

impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => formatter.write_str("nothing"),
            Self::FileSystem(FsType::Ext4) => formatter.write_str("an ext4 file system"),
            Self::FileSystem(FsType::Xfs) => formatter.write_str("an XFS file system"),
            Self::Other(what) => formatter.write_str(what),
        }
    }
}

/// What must be zero at the beginning of a blank device: all known marks but backups are in it (btrfs is the farthest,
/// at 64 KiB; ZFS labels end at 512 KiB).
const HEAD: u64 = 4 * MIB;
/// And at its end: backup partition tables, RAID and ZFS labels.
const TAIL: u64 = MIB;

/// What is read at once; all marks are in the first. What the heap has grown by it keeps, and a kernel with large pages gives it
/// more than it asked for: 4 MiB at once left an idle driver with 10 MiB.
const PIECE: usize = 128 << 10;

/// Marks: offset, bytes, what it is. Only what can be mounted is told apart, and what makes a better message.
const MARKS: &[(usize, &[u8], Content)] = &[
    (0, b"XFSB", Content::FileSystem(FsType::Xfs)),
    (0x438, &[0x53, 0xef], Content::FileSystem(FsType::Ext4)),
    (0, b"LUKS\xba\xbe", Content::Other(LUKS)),
    (512, b"EFI PART", Content::Other("a partition table")),
    (510, &[0x55, 0xaa], Content::Other("a partition table or boot sector")),
    (512, b"LABELONE", Content::Other("an LVM physical volume")),
    (0x1_0040, b"_BHRfS_M", Content::Other("a btrfs file system")),
    (4086, b"SWAPSPACE2", Content::Other("swap space")),
];

/// Looks at a device or image.
///
/// # Errors
/// If it cannot be read.
pub fn look(device: &Path) -> Result<Content, Fault> {
    read(device).during(|| format!("read {}", device.display()))
}

/// Zeros where [`look`] looks.
///
/// # Errors
/// If the device cannot be written, as one that another has for itself.
pub(crate) fn blank(device: &Path) -> Result<(), Fault> {
    write_zeros(device).during(|| format!("make {} blank", device.display()))
}

fn write_zeros(device: &Path) -> std::io::Result<()> {
    // Of a device: nobody else has it for himself.
    let mut file =
        OpenOptions::new().write(true).custom_flags(OFlags::EXCL.bits().cast_signed()).open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let zeros = vec![0; PIECE];
    for (start, length) in [(0, HEAD.min(size)), (size.saturating_sub(TAIL), TAIL.min(size))] {
        file.seek(SeekFrom::Start(start))?;
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            file.write_all(&zeros[..piece])?;
            left -= piece as u64;
        }
    }
    file.sync_all()
}

/// Where XFS says that mkfs.xfs is not done (fs/xfs/libxfs/xfs_format.h, `sb_inprogress`).
const XFS_IN_PROGRESS: usize = 126;

/// What a file system may leave of its device: ext4 does not use an end that is too short for a group of blocks.
const SLACK: u64 = 4 * MIB;

/// Whether a file system could have more of its device, by its superblock (ext4: kernel Documentation/filesystems/ext4,
/// super block; XFS: fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`).
///
/// # Errors
/// If the device cannot be read.
pub fn is_smaller_than_its_device(device: &Path, fs_type: FsType) -> Result<bool, Fault> {
    let measure = || {
        let mut file = File::open(device)?;
        let mut head = [0; 2048];
        file.read_exact(&mut head)?;
        Ok::<_, std::io::Error>((bytes_of(&head, fs_type), file.seek(SeekFrom::End(0))?))
    };
    let (used, size) = measure().during(|| format!("read {}", device.display()))?;
    Ok(used.saturating_add(SLACK) <= size)
}

/// Bytes that a file system takes, by its first two kibibytes.
fn bytes_of(head: &[u8; 2048], fs_type: FsType) -> u64 {
    let little = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let big = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    match fs_type {
        FsType::Ext4 => {
            const SUPER: usize = 1024;
            let wide = little(SUPER + 0x60) & 0x80 != 0;
            let high = if wide { u64::from(little(SUPER + 0x150)) << 32 } else { 0 };
            let blocks = high | u64::from(little(SUPER + 4));
            blocks.saturating_mul(1024 << little(SUPER + 0x18).min(6))
        }
        FsType::Xfs => {
            let blocks = u64::from(big(8)) << 32 | u64::from(big(12));
            blocks.saturating_mul(u64::from(big(4)))
        }
    }
}

fn read(device: &Path) -> std::io::Result<Content> {
    let mut file = File::open(device)?;
    if !file.metadata()?.file_type().is_block_device() {
        // A file that has no data anywhere was never written to.
        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)) {
            Err(rustix::io::Errno::NXIO) => return Ok(Content::Blank),
            _ => file.seek(SeekFrom::Start(0))?,
        };
    }
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut head = Vec::with_capacity(PIECE);
    (&file).take(PIECE as u64).read_to_end(&mut head)?;
    let mark = MARKS.iter().find(|(at, mark, _)| head.get(*at..at + mark.len()) == Some(*mark));
    if let Some((_, _, content)) = mark {
        let is_half = *content == Content::FileSystem(FsType::Xfs) && head.get(XFS_IN_PROGRESS) != Some(&0);
        return Ok(if is_half { Content::Other(HALF_XFS) } else { content.clone() });
    }
    let (start, end) = (HEAD.min(size), size.saturating_sub(TAIL));
    let blank = size > 0 && is_zero(&file, 0, start)? && is_zero(&file, end, size)?;
    Ok(if blank { Content::Blank } else { Content::Other(UNKNOWN) })
}

fn is_zero(file: &File, mut from: u64, to: u64) -> std::io::Result<bool> {
    let mut piece = vec![0; PIECE];
    while from < to {
        let length = usize::try_from(to - from).map_or(PIECE, |left| left.min(PIECE));
        file.read_exact_at(&mut piece[..length], from)?;
        if piece[..length].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        from += length as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_unknown_data_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let size = 16 * MIB;
        let mut half = [0; 127];
        half[..4].copy_from_slice(b"XFSB");
        half[XFS_IN_PROGRESS] = 1;
        for (at, bytes, expected) in [
            (0, &b"XFSB"[..], "an XFS file system"),
            (0, &half, "an XFS file system that mkfs.xfs did not finish"),
            (0x438, &[0x53, 0xef], "an ext4 file system"),
            (512, b"EFI PART", "a partition table"),
            (300_000, b"x", "data of an unknown kind"),
            (size - 5, b"x", "data of an unknown kind"),
            (0, &[0], "nothing"),
        ] {
            let file = File::create(&path).unwrap();
            file.set_len(size).unwrap();
            file.write_at(bytes, at).unwrap();
            assert_eq!(look(&path).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn both_ends_become_blank_and_the_middle_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let noise = vec![0x5a; usize::try_from(3 * HEAD).unwrap()];
        std::fs::write(file.path(), &noise).unwrap();
        blank(file.path()).unwrap();
        assert_eq!(look(file.path()).unwrap(), Content::Blank);
        let held = std::fs::read(file.path()).unwrap();
        assert_eq!((held.len(), held[noise.len() / 2]), (noise.len(), 0x5a));
        // A device smaller than what is looked at.
        std::fs::write(file.path(), [0x5a; 100]).unwrap();
        blank(file.path()).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), [0; 100]);
    }

    #[test]
    fn a_larger_device_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        for fs_type in [FsType::Ext4, FsType::Xfs] {
            let file = File::create(&path).unwrap();
            file.set_len(fs_type.smallest()).unwrap();
            super::super::make(&path, fs_type).unwrap();
            assert!(!is_smaller_than_its_device(&path, fs_type).unwrap(), "{fs_type:?}");
            file.set_len(fs_type.smallest() + 8 * MIB).unwrap();
            assert!(is_smaller_than_its_device(&path, fs_type).unwrap(), "{fs_type:?}");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_empty_file_is_no_blank_device() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        File::create(&path).unwrap();
        assert!(look(&directory.path().join("none")).is_err());
        // Nothing can be made on it, and mkfs says so.
        assert!(super::super::make(&path, FsType::Ext4).is_err());
    }
}
