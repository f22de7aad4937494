//! GUID partition tables (UEFI 2.10, chapter 5), with 512-byte sectors.
//!
//! A disk has a protective MBR in its first sector, then the primary header and 128 entries, the partitions, and
//! at its very end the same entries and the backup header. Types follow the Discoverable Partitions
//! Specification, so that systemd, its repart and dissect tools and our initrd find their way.

mod reader;
mod writer;

pub use reader::{Copy, Fault, Read, ReadError, read};
pub use writer::{Error, write};

use uuid::{Uuid, uuid};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Partitions start at multiples of this many bytes.
pub const ALIGNMENT: u64 = 1024 * 1024;
/// Entries in the table.
const ENTRIES: usize = 128;
/// Bytes of an entry.
const ENTRY: usize = 128;
/// Sectors the entries take.
const ENTRY_SECTORS: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;
/// Bytes of a header that its checksum covers.
const HEADER: usize = 92;
const SIGNATURE: [u8; 8] = *b"EFI PART";
const REVISION: u32 = 0x0001_0000;
/// UTF-16 units in a label.
const LABEL_UNITS: usize = 36;

/// What a partition is for, by the Discoverable Partitions Specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartitionType {
    /// EFI system partition.
    Esp,
    /// Root file system for x86-64.
    RootX86_64,
    /// dm-verity hashes of a root file system for x86-64.
    RootVerityX86_64,
    /// Variable data, `/var`. systemd mounts it only if its UUID is derived from the machine's id.
    Var,
    /// Any Linux data.
    LinuxGeneric,
    /// Something else.
    Other(Uuid),
}

impl PartitionType {
    const KNOWN: [(Self, Uuid); 5] = [
        (Self::Esp, uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")),
        (Self::RootX86_64, uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")),
        (Self::RootVerityX86_64, uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")),
        (Self::Var, uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d")),
        (Self::LinuxGeneric, uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4")),
    ];

    /// The GUID on disk.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        match self {
            Self::Other(uuid) => uuid,
            // Every variant but `Other` is in the list.
            known => {
                Self::KNOWN.iter().find(|(kind, _)| *kind == known).map_or(Uuid::nil(), |(_, uuid)| *uuid)
            }
        }
    }

    /// The type a GUID stands for.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self::KNOWN.iter().find(|(_, known)| *known == uuid).map_or(Self::Other(uuid), |(kind, _)| *kind)
    }
}

/// Attribute bits of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Attributes(pub u64);

impl Attributes {
    /// The platform needs it.
    pub const REQUIRED: Self = Self(1);
    /// Discoverable Partitions: grow the file system to the partition's size at mount.
    pub const GROW_FILE_SYSTEM: Self = Self(1 << 59);
    /// Discoverable Partitions: mount read-only.
    pub const READ_ONLY: Self = Self(1 << 60);
    /// Discoverable Partitions: do not mount automatically.
    pub const NO_AUTO: Self = Self(1 << 63);

    /// Both sets of bits.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for.
    pub kind: PartitionType,
    /// Its own GUID.
    pub uuid: Uuid,
    /// First byte on the disk, a multiple of [`SECTOR`].
    pub offset: u64,
    /// Length in bytes, a multiple of [`SECTOR`].
    pub length: u64,
    /// Flags.
    pub attributes: Attributes,
    /// Label of at most 36 UTF-16 units.
    pub label: String,
}

/// A partition that still has no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What it is for.
    pub kind: PartitionType,
    /// Its own GUID.
    pub uuid: Uuid,
    /// Least length in bytes; rounded up to [`ALIGNMENT`].
    pub length: u64,
    /// Flags.
    pub attributes: Attributes,
    /// Label of at most 36 UTF-16 units.
    pub label: String,
}

/// A disk's partitioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's GUID.
    pub disk: Uuid,
    /// The disk's length in bytes.
    pub length: u64,
    /// The partitions, in the table's order.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// Places partitions one behind the other, aligned, on the smallest disk that holds them.
    #[must_use]
    pub fn arrange(disk: Uuid, wanted: Vec<Wanted>) -> Self {
        let mut end = ALIGNMENT;
        let partitions = wanted
            .into_iter()
            .map(|Wanted { kind, uuid, length, attributes, label }| {
                let length = length.max(1).next_multiple_of(ALIGNMENT);
                let offset = end;
                end += length;
                Partition { kind, uuid, offset, length, attributes, label }
            })
            .collect();
        // The backup table wants 33 sectors; a whole alignment keeps the disk's length round.
        Self { disk, length: end + ALIGNMENT, partitions }
    }
}

/// First and last sector partitions may use.
fn usable(sectors: u64) -> Option<(u64, u64)> {
    let first = 2 + ENTRY_SECTORS;
    let last = sectors.checked_sub(2 + ENTRY_SECTORS)?;
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests;
