//! Writing both copies of a table.

use super::{ENTRIES, ENTRY, ENTRY_SECTORS, HEADER, LABEL_UNITS, REVISION, SECTOR, SIGNATURE, Table, usable};
use std::io::{self, Seek, SeekFrom, Write};
use uuid::Uuid;

/// The table cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The partitions contradict the disk or each other.
    #[error("impossible partition table: {0}")]
    Impossible(String),
    /// Writing failed.
    #[error("cannot write the partition table: {0}")]
    Write(#[from] io::Error),
}

/// Writes the protective MBR, the primary table and, at the disk's end, the backup table. Nothing between is
/// touched. Byte 0 of `out` is the disk's first byte.
///
/// # Errors
/// [`Error::Impossible`] before anything is written; [`Error::Write`].
pub fn write(table: &Table, out: &mut (impl Write + Seek)) -> Result<(), Error> {
    check(table).map_err(Error::Impossible)?;
    let sectors = table.length / SECTOR;
    let entries = encode_entries(table);
    let checksum = crc32fast::hash(&entries);
    let last = sectors - 1;
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&protective_mbr(sectors))?;
    out.write_all(&encode_header(table.disk, 1, last, 2, sectors, checksum))?;
    out.write_all(&entries)?;
    out.seek(SeekFrom::Start((last - ENTRY_SECTORS) * SECTOR))?;
    out.write_all(&entries)?;
    out.write_all(&encode_header(table.disk, last, 1, last - ENTRY_SECTORS, sectors, checksum))?;
    out.flush()?;
    Ok(())
}

fn check(table: &Table) -> Result<(), String> {
    if !table.length.is_multiple_of(SECTOR) {
        return Err(format!("a disk of {} bytes is no row of sectors", table.length));
    }
    let (first, last) = usable(table.length / SECTOR)
        .ok_or_else(|| format!("a disk of {} bytes is too small", table.length))?;
    if table.partitions.len() > ENTRIES {
        return Err(format!("{} partitions; the table has room for {ENTRIES}", table.partitions.len()));
    }
    let mut by_place: Vec<_> = table.partitions.iter().collect();
    by_place.sort_by_key(|partition| partition.offset);
    let mut free = first * SECTOR;
    for partition in by_place {
        let label = &partition.label;
        if !partition.offset.is_multiple_of(SECTOR) || !partition.length.is_multiple_of(SECTOR) {
            return Err(format!("partition `{label}` is not in whole sectors"));
        }
        if partition.length == 0 {
            return Err(format!("partition `{label}` is empty"));
        }
        if partition.offset < free {
            return Err(format!(
                "partition `{label}` starts at {} where byte {free} is the first free",
                partition.offset
            ));
        }
        free = partition.offset.saturating_add(partition.length);
        if free > (last + 1) * SECTOR {
            return Err(format!("partition `{label}` ends at {free}, past the last usable byte"));
        }
        if label.encode_utf16().count() > LABEL_UNITS {
            return Err(format!("label `{label}` is longer than {LABEL_UNITS} UTF-16 units"));
        }
    }
    for (index, partition) in table.partitions.iter().enumerate() {
        if partition.uuid.is_nil()
            || table.partitions[..index].iter().any(|other| other.uuid == partition.uuid)
        {
            return Err(format!("partition `{}` has no UUID of its own", partition.label));
        }
    }
    Ok(())
}

fn protective_mbr(sectors: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR as usize];
    // Status, first CHS, type EE, last CHS (beyond what CHS can say), first sector, number of sectors.
    mbr[446..454].copy_from_slice(&[0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&u32::try_from(sectors - 1).unwrap_or(u32::MAX).to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn encode_header(
    disk: Uuid,
    own: u64,
    other: u64,
    entries: u64,
    sectors: u64,
    entries_checksum: u32,
) -> Vec<u8> {
    let (first, last) = usable(sectors).unwrap_or_default();
    let mut header = Vec::with_capacity(SECTOR as usize);
    header.extend(SIGNATURE);
    header.extend(REVISION.to_le_bytes());
    header.extend((HEADER as u32).to_le_bytes());
    header.extend([0; 8]);
    for sector in [own, other, first, last] {
        header.extend(sector.to_le_bytes());
    }
    header.extend(disk.to_bytes_le());
    header.extend(entries.to_le_bytes());
    header.extend((ENTRIES as u32).to_le_bytes());
    header.extend((ENTRY as u32).to_le_bytes());
    header.extend(entries_checksum.to_le_bytes());
    let checksum = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    header.resize(SECTOR as usize, 0);
    header
}

fn encode_entries(table: &Table) -> Vec<u8> {
    let mut entries = Vec::with_capacity(ENTRIES * ENTRY);
    for partition in &table.partitions {
        let start = entries.len();
        entries.extend(partition.kind.uuid().to_bytes_le());
        entries.extend(partition.uuid.to_bytes_le());
        entries.extend((partition.offset / SECTOR).to_le_bytes());
        entries.extend(((partition.offset + partition.length) / SECTOR - 1).to_le_bytes());
        entries.extend(partition.attributes.0.to_le_bytes());
        entries.extend(partition.label.encode_utf16().flat_map(u16::to_le_bytes));
        entries.resize(start + ENTRY, 0);
    }
    entries.resize(ENTRIES * ENTRY, 0);
    entries
}
