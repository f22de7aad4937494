//! Reading a table and judging both its copies.

use super::{Attributes, ENTRIES, ENTRY, HEADER, Partition, PartitionType, SECTOR, SIGNATURE, Table};
use crate::format::extent::ReadAt;
use std::{fmt, io};
use uuid::Uuid;

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// Behind the protective MBR.
    Primary,
    /// At the disk's end.
    Backup,
}

impl fmt::Display for Copy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        })
    }
}

/// Something wrong with a table that could still be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// One copy is unusable.
    #[error("the {copy} partition table is damaged: {reason}")]
    Damaged {
        /// Which.
        copy: Copy,
        /// What is wrong with it.
        reason: String,
    },
    /// Both copies are sound but not the same.
    #[error("the primary and the backup partition table differ")]
    Differ,
    /// The first sector does not protect the table.
    #[error("the protective MBR is missing")]
    NoProtectiveMbr,
}

/// A table and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// From the primary copy, or from the backup when the primary is damaged.
    pub table: Table,
    /// Empty for a sound disk.
    pub faults: Vec<Fault>,
}

/// There is no partition table.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Neither copy is usable.
    #[error("no partition table: primary: {primary}; backup: {backup}")]
    None {
        /// What is wrong with the first copy.
        primary: String,
        /// What is wrong with the second copy.
        backup: String,
    },
    /// The first copy's header is sound and speaks of a longer disk.
    #[error("it is cut off: {size} bytes of {length} are there")]
    CutOff {
        /// Bytes there are.
        size: u64,
        /// Bytes the disk should have.
        length: u64,
    },
    /// Reading failed.
    #[error("cannot read the partition table: {0}")]
    Read(#[from] io::Error),
}

/// Reads both copies and compares them.
///
/// # Errors
/// [`ReadError`] when neither is usable.
pub fn read(disk: &dyn ReadAt) -> Result<Read, ReadError> {
    let sectors = disk.size() / SECTOR;
    if sectors < 3 {
        let reason = format!("{} bytes are too few", disk.size());
        return Err(ReadError::None { primary: reason.clone(), backup: reason });
    }
    let mut faults = Vec::new();
    let mut mbr = [0; SECTOR as usize];
    disk.read_exact_at(&mut mbr, 0)?;
    if mbr[510..] != [0x55, 0xaa] || mbr[450] != 0xee {
        faults.push(Fault::NoProtectiveMbr);
    }
    let primary = read_copy(disk, 1)?;
    let backup = read_copy(disk, sectors - 1)?;
    let damaged = |copy, reason| Fault::Damaged { copy, reason };
    let table = match (primary, backup) {
        (Ok(primary), Ok(backup)) => {
            if primary != backup {
                faults.push(Fault::Differ);
            }
            primary
        }
        (Ok(primary), Err(reason)) => {
            faults.push(damaged(Copy::Backup, reason));
            primary
        }
        (Err(reason), Ok(backup)) => {
            faults.push(damaged(Copy::Primary, reason));
            backup
        }
        (Err(primary), Err(backup)) => {
            return Err(match recorded_length(disk)? {
                Some(length) if length > disk.size() => ReadError::CutOff { size: disk.size(), length },
                _ => ReadError::None { primary, backup },
            });
        }
    };
    Ok(Read { table, faults })
}

/// The disk's length by the primary header, which names the backup's sector: the last one.
fn recorded_length(disk: &dyn ReadAt) -> io::Result<Option<u64>> {
    let header = read_header(disk, 1)?.ok();
    let last = header.map(|header| u64::from_le_bytes(field(&header, 32)));
    Ok(last.and_then(|last| last.checked_add(1)?.checked_mul(SECTOR)))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The sector of one header, signature and checksum in order; the inner error says what is wrong with it.
fn read_header(disk: &dyn ReadAt, own: u64) -> io::Result<Result<[u8; SECTOR as usize], String>> {
    let mut header = [0; SECTOR as usize];
    disk.read_exact_at(&mut header, own * SECTOR)?;
    let word = |at| u32::from_le_bytes(field(&header, at));
    if header[..8] != SIGNATURE {
        return Ok(Err("its signature is missing".to_owned()));
    }
    let size = word(12) as usize;
    if !(HEADER..=SECTOR as usize).contains(&size) {
        return Ok(Err(format!("a header of {size} bytes")));
    }
    let mut covered = header[..size].to_vec();
    covered[16..20].fill(0);
    if crc32fast::hash(&covered) != word(16) {
        return Ok(Err("its header's checksum is wrong".to_owned()));
    }
    Ok(Ok(header))
}

/// One copy; the inner error says what is wrong with it.
fn read_copy(disk: &dyn ReadAt, own: u64) -> io::Result<Result<Table, String>> {
    let sectors = disk.size() / SECTOR;
    let header = match read_header(disk, own)? {
        Ok(header) => header,
        Err(reason) => return Ok(Err(reason)),
    };
    let word = |at| u32::from_le_bytes(field(&header, at));
    let long = |at| u64::from_le_bytes(field(&header, at));
    if long(24) != own {
        return Ok(Err(format!("it says it is in sector {}, but is in {own}", long(24))));
    }
    let (count, entry_size) = (word(80) as usize, word(84) as usize);
    if count > 4 * ENTRIES || !(ENTRY..=4096).contains(&entry_size) {
        return Ok(Err(format!("{count} entries of {entry_size} bytes")));
    }
    let mut entries = vec![0; count * entry_size];
    let place = long(72)
        .checked_mul(SECTOR)
        .filter(|at| at.checked_add(entries.len() as u64).is_some_and(|end| end <= disk.size()));
    let Some(place) = place else {
        return Ok(Err("its entries are outside the disk".to_owned()));
    };
    disk.read_exact_at(&mut entries, place)?;
    if crc32fast::hash(&entries) != word(88) {
        return Ok(Err("its entries' checksum is wrong".to_owned()));
    }
    let mut partitions = Vec::new();
    for entry in entries.chunks_exact(entry_size.max(1)) {
        let kind = Uuid::from_bytes_le(field(entry, 0));
        if kind.is_nil() {
            continue;
        }
        let (first, last) = (u64::from_le_bytes(field(entry, 32)), u64::from_le_bytes(field(entry, 40)));
        let units: Vec<u16> = entry[56..ENTRY]
            .chunks_exact(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        let label = String::from_utf16_lossy(&units);
        if first > last || last >= sectors {
            return Ok(Err(format!(
                "partition `{label}` is in sectors {first} to {last} of a disk with {sectors}"
            )));
        }
        partitions.push(Partition {
            kind: PartitionType::from_uuid(kind),
            uuid: Uuid::from_bytes_le(field(entry, 16)),
            offset: first * SECTOR,
            length: (last - first + 1) * SECTOR,
            attributes: Attributes(u64::from_le_bytes(field(entry, 48))),
            label,
        });
    }
    Ok(Ok(Table { disk: Uuid::from_bytes_le(field(&header, 56)), length: disk.size(), partitions }))
}
