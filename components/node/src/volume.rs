//! Labelled volumes: which block device carries a machine config, without udev.
//!
//! `cairn-node config` runs before udev has made /dev/disk/by-label, and waiting for that would cost every
//! node seconds; reading a few sectors of each block device does not.

use cairn_initrd::gpt::{Header, Uuid};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How much of a volume [`identify`] wants to see.
pub const PROBE_BYTES: usize = 36 * 1024;

/// GPT type of an EFI system partition, c12a7328-f81f-11d2-ba4b-00a0c93ec93b.
const ESP: Uuid = Uuid::from_text_order([
    0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
]);

/// File systems a config can be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// FAT12, FAT16, FAT32.
    Fat,
    /// ISO 9660.
    Iso,
    /// ext2 to ext4.
    Ext,
}

/// A volume with a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its file system.
    pub kind: Kind,
    /// Label without padding.
    pub label: String,
}

impl Kind {
    /// Name for `mount(2)`.
    pub fn file_system(self) -> &'static str {
        match self {
            Self::Fat => "vfat",
            Self::Iso => "iso9660",
            Self::Ext => "ext4",
        }
    }
}

/// Recognises a volume by its first [`PROBE_BYTES`] (fewer if it is smaller).
pub fn identify(start: &[u8]) -> Option<Volume> {
    let label = |at: usize, length: usize| -> Option<String> {
        let text = String::from_utf8_lossy(start.get(at..at + length)?).into_owned();
        Some(text.trim_end_matches([' ', '\0']).to_owned())
    };
    let has = |at: usize, magic: &[u8]| start.get(at..at + magic.len()) == Some(magic);
    if has(32769, b"CD001") {
        return Some(Volume { kind: Kind::Iso, label: label(32808, 32)? });
    }
    if has(1080, &[0x53, 0xef]) {
        return Some(Volume { kind: Kind::Ext, label: label(1144, 16)? });
    }
    if has(510, &[0x55, 0xaa]) && has(82, b"FAT32") {
        return Some(Volume { kind: Kind::Fat, label: label(71, 11)? });
    }
    if has(510, &[0x55, 0xaa]) && has(54, b"FAT1") {
        return Some(Volume { kind: Kind::Fat, label: label(43, 11)? });
    }
    None
}

/// Block devices with a volume on them, by name.
pub fn scan() -> Vec<(PathBuf, Volume)> {
    let mut found: Vec<_> = block_devices()
        .into_iter()
        .filter_map(|name| {
            let node = Path::new("/dev").join(name);
            let file = File::open(&node).ok()?;
            let mut start = vec![0; PROBE_BYTES];
            let length = file.read_at(&mut start, 0).ok()?;
            Some((node, identify(&start[..length])?))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The EFI system partitions of all disks.
pub fn efi_partitions() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for disk in block_devices() {
        let Some(numbers) =
            File::open(Path::new("/dev").join(&disk)).ok().and_then(|file| esp_numbers(&file, &disk))
        else {
            continue;
        };
        let directory = Path::new("/sys/class/block").join(&disk);
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let number = crate::machine_facts::first_line(&entry.path().join("partition")).parse::<u32>();
            if number.is_ok_and(|number| numbers.contains(&number)) {
                found.push(Path::new("/dev").join(entry.file_name()));
            }
        }
    }
    found.sort();
    found
}

fn esp_numbers(file: &File, disk: &str) -> Option<Vec<u32>> {
    let path = Path::new("/sys/class/block").join(disk).join("queue/logical_block_size");
    let block: u64 = crate::machine_facts::first_line(&path).parse().ok()?;
    let mut bytes = vec![0; usize::try_from(block).ok()?];
    file.read_exact_at(&mut bytes, block).ok()?;
    let header = Header::parse(&bytes, 1).ok()?;
    let (start, length) = header.entries_span();
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start.checked_mul(block)?).ok()?;
    let entries = header.entries(&bytes).ok()?;
    Some(entries.into_iter().filter(|entry| entry.kind == ESP).map(|entry| entry.number).collect())
}

fn block_devices() -> Vec<String> {
    let names = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let skipped = ["loop", "ram", "zram", "dm-", "nbd", "fd"];
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !skipped.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; PROBE_BYTES];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    #[test]
    fn volumes_are_told_apart() {
        for (parts, kind, label) in [
            (vec![(32769, &b"CD001"[..]), (32808, b"CIDATA      ")], Kind::Iso, "CIDATA"),
            (vec![(1080, &[0x53, 0xef][..]), (1144, b"CAIRN\0")], Kind::Ext, "CAIRN"),
            (vec![(510, &[0x55, 0xaa][..]), (82, b"FAT32   "), (71, b"CAIRN      ")], Kind::Fat, "CAIRN"),
            (vec![(510, &[0x55, 0xaa][..]), (54, b"FAT12   "), (43, b"cidata     ")], Kind::Fat, "cidata"),
        ] {
            assert_eq!(identify(&image(&parts)), Some(Volume { kind, label: label.into() }));
        }
    }

    #[test]
    fn short_or_foreign_bytes_are_no_volume() {
        assert_eq!(identify(&[]), None);
        assert_eq!(identify(&image(&[(510, &[0x55, 0xaa])])), None);
        let whole = image(&[(32769, b"CD001")]);
        assert_eq!(identify(&whole[..32780]), None);
    }
}
