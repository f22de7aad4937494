//! The disk: partitions in the order of DESIGN §3, written into one sparse file.
//!
//! Slot A holds this version; slot B is empty and as large. The state partition is not here: the node makes it at
//! first boot in what is left of its disk.

use super::identity;
use crate::format::{
    extent::{Extent, ReadAt},
    fat,
    gpt::{self, Attributes, PartitionType, Table, Wanted},
    verity::RootHash,
};
use crate::tree::Content;
use cairn_contract::{
    digest::Sha256Digest,
    manifest::{Partition, PartitionRole},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What a disk is made of.
#[derive(Debug)]
pub struct DiskParts<'a> {
    /// Profile name.
    pub profile: &'a str,
    /// Image version.
    pub version: &'a str,
    /// Every timestamp, seconds since 1970.
    pub timestamp: u64,
    /// ESP length in bytes.
    pub esp_size: u64,
    /// Root slot length in bytes.
    pub slot_size: u64,
    /// Verity slot length in bytes.
    pub verity_size: u64,
    /// systemd-boot.
    pub boot_loader: Content,
    /// The UKI.
    pub uki: &'a Path,
    /// The squashfs image.
    pub root: &'a Path,
    /// The hash tree.
    pub verity: &'a Path,
    /// Its root.
    pub root_hash: RootHash,
}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Something is larger than the place the profile gives it.
    #[error(
        "{what} has {actual} bytes and `{key}` gives it {allowed}; raise `{key}` in the profile or leave something out"
    )]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its length.
        actual: u64,
        /// The place.
        allowed: u64,
        /// Profile key.
        key: &'static str,
    },
    /// The FAT volume cannot be made.
    #[error("ESP: {0}")]
    Fat(#[from] fat::Error),
    /// The partition table cannot be made.
    #[error("partition table: {0}")]
    Gpt(#[from] gpt::Error),
    /// Reading an input or writing the image failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The boot loader's configuration: the newest good entry starts at once, nobody is asked, nothing is edited.
const LOADER_CONF: &str = "timeout 0\nconsole-mode keep\neditor no\nauto-entries no\nauto-firmware no\n";

/// Writes the raw image to `path` and says which partitions it has.
///
/// # Errors
/// [`DiskError`].
pub fn write(parts: &DiskParts<'_>, path: &Path) -> Result<Vec<Partition>, DiskError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| DiskError::Io { path, source }
    };
    let root = Extent::open(parts.root).map_err(at(parts.root))?;
    let verity = Extent::open(parts.verity).map_err(at(parts.verity))?;
    let uki_length = std::fs::metadata(parts.uki).map_err(at(parts.uki))?.len();
    fits("the root file system", root.size(), parts.slot_size, "disk.slot_size")?;
    fits("the hash tree", verity.size(), parts.verity_size, "disk.verity_size")?;
    // An update writes its UKI beside the running one.
    fits("the boot partition with two UKIs", 2 * uki_length, parts.esp_size, "disk.esp_size")?;
    let table = arrange(parts);

    let mut disk =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map_err(at(path))?;
    disk.set_len(table.length).map_err(at(path))?;
    gpt::write(&table, &mut disk)?;
    let mut partitions = Vec::new();
    for (place, role) in table.partitions.iter().zip(ROLES) {
        match role {
            PartitionRole::Esp => {
                let volume = esp(parts, place.length, uki_length, place.offset);
                let mut window = Window { file: &disk, start: place.offset, position: 0 };
                fat::write(&volume, &mut window)?;
            }
            PartitionRole::RootA => copy_sparse(&root, &disk, place.offset).map_err(at(path))?,
            PartitionRole::VerityA => copy_sparse(&verity, &disk, place.offset).map_err(at(path))?,
            _ => {}
        }
    }
    disk.sync_all().map_err(at(path))?;
    let whole = Extent::open(path).map_err(at(path))?;
    for (place, role) in table.partitions.iter().zip(ROLES) {
        let digest = match (role, whole.part(place.offset, place.length)) {
            (PartitionRole::Esp | PartitionRole::RootA | PartitionRole::VerityA, Some(part)) => {
                Some(digest(&part).map_err(at(path))?)
            }
            _ => None,
        };
        partitions.push(Partition {
            role,
            label: place.label.clone(),
            type_uuid: place.kind.uuid().to_string(),
            uuid: place.uuid.to_string(),
            offset: place.offset,
            size: place.length,
            digest,
        });
    }
    Ok(partitions)
}

fn fits(what: &'static str, actual: u64, allowed: u64, key: &'static str) -> Result<(), DiskError> {
    if actual > allowed { Err(DiskError::TooLarge { what, actual, allowed, key }) } else { Ok(()) }
}

const ROLES: [PartitionRole; 5] = [
    PartitionRole::Esp,
    PartitionRole::RootA,
    PartitionRole::VerityA,
    PartitionRole::RootB,
    PartitionRole::VerityB,
];

fn arrange(parts: &DiskParts<'_>) -> Table {
    let id = |role| identity::uuid(parts.profile, parts.version, role);
    let label = format!("cairn_{}", parts.version);
    let slot = Attributes::READ_ONLY;
    let wanted = |kind, uuid, length, attributes, label: &str| Wanted {
        kind,
        uuid,
        length,
        attributes,
        label: label.into(),
    };
    use PartitionType::{Esp, RootVerityX86_64 as Verity, RootX86_64 as Root};
    Table::arrange(
        id("disk"),
        vec![
            wanted(Esp, id("esp"), parts.esp_size, Attributes::default(), "esp"),
            wanted(Root, parts.root_hash.data_partition_uuid(), parts.slot_size, slot, &label),
            wanted(Verity, parts.root_hash.hash_partition_uuid(), parts.verity_size, slot, &label),
            wanted(Root, id("root-b"), parts.slot_size, slot, "_empty"),
            wanted(Verity, id("verity-b"), parts.verity_size, slot, "_empty"),
        ],
    )
}

fn esp(parts: &DiskParts<'_>, length: u64, uki_length: u64, offset: u64) -> fat::Volume {
    let uki = Content::Range { path: Arc::new(parts.uki.to_owned()), offset: 0, length: uki_length };
    let file = |path: &str, content| fat::File { path: path.to_owned(), content };
    fat::Volume {
        length,
        id: identity::volume_id(parts.profile, parts.version),
        label: "CAIRN-ESP".to_owned(),
        timestamp: parts.timestamp,
        hidden_sectors: u32::try_from(offset / gpt::SECTOR).unwrap_or(0),
        files: vec![
            file("EFI/BOOT/BOOTX64.EFI", parts.boot_loader.clone()),
            file("EFI/systemd/systemd-bootx64.efi", parts.boot_loader.clone()),
            // Three tries to prove itself: systemd-boot counts down, the node blesses (DESIGN §3, §4).
            file(&format!("EFI/Linux/cairn_{}+3.efi", parts.version), uki),
            file("loader/loader.conf", Content::Bytes(LOADER_CONF.as_bytes().into())),
            file("loader/entries.srel", Content::Bytes(b"type1\n".as_slice().into())),
        ],
    }
}

/// Copies, leaving holes where the source has only zeros.
fn copy_sparse(from: &Extent, disk: &File, offset: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < from.size() {
        let length = buffer.len().min(usize::try_from(from.size() - done).unwrap_or(usize::MAX));
        let piece = &mut buffer[..length];
        from.read_exact_at(piece, done)?;
        for (index, block) in piece.chunks(4096).enumerate() {
            if block.iter().any(|b| *b != 0) {
                disk.write_all_at(block, offset + done + index as u64 * 4096)?;
            }
        }
        done += length as u64;
    }
    Ok(())
}

/// SHA-256 of a whole extent.
///
/// # Errors
/// Reading failed.
pub fn digest(extent: &Extent) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < extent.size() {
        let length = buffer.len().min(usize::try_from(extent.size() - done).unwrap_or(usize::MAX));
        extent.read_exact_at(&mut buffer[..length], done)?;
        hasher.update(&buffer[..length]);
        done += length as u64;
    }
    Ok(Sha256Digest::new(hasher.finalize().into()))
}

/// Length and allocated bytes of a file.
///
/// # Errors
/// The file cannot be looked at.
pub fn sizes(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.len(), metadata.blocks() * 512))
}

/// A part of the disk as a file of its own, which skips what is zero: the file is new, so holes read as zeros.
struct Window<'a> {
    file: &'a File,
    start: u64,
    position: u64,
}

impl Write for Window<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (index, block) in bytes.chunks(4096).enumerate() {
            if block.iter().any(|b| *b != 0) {
                self.file.write_all_at(block, self.start + self.position + index as u64 * 4096)?;
            }
        }
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let moved = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.position = moved.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
