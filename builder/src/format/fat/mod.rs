//! FAT32: the EFI system partition.
//!
//! A volume is a boot sector with its parameters, a sector of free-space hints, copies of both, two copies of the
//! *file allocation table* (for each cluster, the next one of its file), and clusters of data. Names beyond 8+3
//! capital letters are kept in extra directory entries in UTF-16 (VFAT long names). Source: Microsoft's "FAT32
//! File System Specification" 1.03, which UEFI refers to.
//!
//! A volume is FAT32 only by its number of clusters, at least 65525; the cluster size is chosen for that. Files
//! are laid out one behind the other, without gaps, directories first.

mod name;
mod reader;
mod writer;

pub use reader::{Entry, InvalidVolume, Reader};
pub use writer::{Error, File, MINIMUM_LENGTH, Volume, write};

/// Bytes in a sector. Firmware expects the disk's sector size, and 4096 is invisible to OVMF.
pub const SECTOR: usize = 512;
/// Sectors before the first allocation table.
const RESERVED_SECTORS: u16 = 32;
/// Sector of the free-space hints.
const HINTS_SECTOR: u16 = 1;
/// Sector of the boot sector's copy.
const BACKUP_SECTOR: u16 = 6;
/// Allocation tables.
const TABLES: u8 = 2;
/// Fewer clusters than this are FAT16.
const LEAST_CLUSTERS: u64 = 65525;
/// The first cluster's number.
const FIRST_CLUSTER: u32 = 2;
/// Bytes of a directory entry.
const ENTRY: usize = 32;
/// UTF-16 units in one long-name entry.
const UNITS_PER_ENTRY: usize = 13;
/// UTF-16 units in a name.
const LONGEST_NAME: usize = 255;
/// Bits of a table entry that count.
const CLUSTER_MASK: u32 = 0x0fff_ffff;
/// Table entries from here on end a chain.
const END_OF_CHAIN: u32 = 0x0fff_fff8;

/// Directory entry attributes.
mod attribute {
    pub(super) const VOLUME_LABEL: u8 = 0x08;
    pub(super) const DIRECTORY: u8 = 0x10;
    pub(super) const ARCHIVE: u8 = 0x20;
    /// Read-only, hidden, system and label together mark a part of a long name.
    pub(super) const LONG_NAME: u8 = 0x0f;
}

#[cfg(test)]
mod tests;
