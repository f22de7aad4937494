//! Copy-on-write disks: empty qcow2 files over a base that nobody writes to.
//!
//! Written here rather than by `qemu-img`, which is in a package of its own: an overlay with nothing in it is a
//! header and three tables. A test that needs a damaged disk gets an overlay with the damaged clusters in it,
//! so the base stays as it was and need not be copied.
//!
//! Format: QEMU's `docs/interop/qcow2.txt`, version 3. All numbers are big-endian.

use crate::error::Fault;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::Path,
};

/// 64 KiB clusters, QEMU's own default.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries in one L2 table: a cluster of 8-byte entries.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// `QFI\xfb`.
const MAGIC: u32 = 0x5146_49fb;
/// Length of the fixed header of version 3 without the optional compression-type field.
const HEADER_LENGTH: u32 = 104;
/// Header extension: format of the backing file. Without it QEMU probes the base's first bytes, which a guest
/// could choose.
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// L1 and L2 entries: the cluster's reference count is exactly one.
const COPIED: u64 = 1 << 63;
/// Reference counts are 2^4 = 16 bits wide, so one cluster of them covers 2 GiB of file.
const REFCOUNT_ORDER: u32 = 4;

/// Makes `path` an overlay of the raw file `base`, `size` bytes large as the guest sees it.
///
/// `flips` are byte offsets of the base at which the lowest bit reads inverted.
pub fn create(path: &Path, base: &Path, size: u64, flips: &[u64]) -> Result<(), Fault> {
    let base_path = base.canonicalize().map_err(Fault::io(format!("find {}", base.display())))?;
    let damaged =
        damaged_clusters(&base_path, flips).map_err(Fault::io(format!("read {}", base.display())))?;
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        write_overlay(&mut file, base_path.as_os_str().as_bytes(), size, &damaged)
    };
    write().map_err(Fault::io(format!("write {}", path.display())))
}

/// The base's clusters that hold a flipped byte, by cluster number.
fn damaged_clusters(base: &Path, flips: &[u64]) -> io::Result<BTreeMap<u64, Vec<u8>>> {
    let file = File::open(base)?;
    let mut clusters = BTreeMap::new();
    for offset in flips {
        let number = offset / CLUSTER;
        let cluster = match clusters.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(read_cluster(&file, number)?),
        };
        cluster[(offset % CLUSTER) as usize] ^= 1;
    }
    Ok(clusters)
}

/// One cluster, padded with zeros past the end of the file.
fn read_cluster(file: &File, number: u64) -> io::Result<Vec<u8>> {
    let mut cluster = vec![0; CLUSTER as usize];
    let mut filled = 0;
    while filled < cluster.len() {
        match file.read_at(&mut cluster[filled..], number * CLUSTER + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(cluster)
}

/// Clusters of the file, in order: header, refcount table, one refcount block, L1 table, L2 tables, data.
fn write_overlay(
    out: &mut (impl Write + Seek),
    backing: &[u8],
    size: u64,
    data: &BTreeMap<u64, Vec<u8>>,
) -> io::Result<()> {
    let l1_entries = size.div_ceil(CLUSTER * L2_ENTRIES);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let l1_at = 3 * CLUSTER;
    let mut tables: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for number in data.keys() {
        tables.entry(number / L2_ENTRIES).or_default().push(*number);
    }
    let l2_at = l1_at + l1_clusters * CLUSTER;
    let data_at = l2_at + tables.len() as u64 * CLUSTER;
    let clusters = data_at / CLUSTER + data.len() as u64;
    if clusters > CLUSTER / 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an overlay cannot start with more than 2 GiB of its own",
        ));
    }

    out.write_all(&header(backing, size, l1_entries, l1_at)?)?;
    out.seek(SeekFrom::Start(CLUSTER))?;
    out.write_all(&(2 * CLUSTER).to_be_bytes())?;
    out.seek(SeekFrom::Start(2 * CLUSTER))?;
    for _ in 0..clusters {
        out.write_all(&1u16.to_be_bytes())?;
    }
    let mut next_data = data_at;
    for (position, (table, numbers)) in (0u64..).zip(&tables) {
        let at = l2_at + position * CLUSTER;
        out.seek(SeekFrom::Start(l1_at + table * 8))?;
        out.write_all(&(at | COPIED).to_be_bytes())?;
        for number in numbers {
            out.seek(SeekFrom::Start(at + number % L2_ENTRIES * 8))?;
            out.write_all(&(next_data | COPIED).to_be_bytes())?;
            out.seek(SeekFrom::Start(next_data))?;
            out.write_all(&data[number])?;
            next_data += CLUSTER;
        }
    }
    // The last cluster in full, so that every offset in the tables is inside the file.
    if data.is_empty() {
        out.seek(SeekFrom::Start(clusters * CLUSTER - 1))?;
        out.write_all(&[0])?;
    }
    out.flush()
}

fn header(backing: &[u8], size: u64, l1_entries: u64, l1_at: u64) -> io::Result<Vec<u8>> {
    // Extensions: backing format "raw" padded to 8 bytes, then the end marker; the name follows.
    let name_at = HEADER_LENGTH + 16 + 8;
    let too_long =
        || io::Error::new(io::ErrorKind::InvalidInput, "the path of the base is longer than 1023 bytes");
    let name_length =
        u32::try_from(backing.len()).ok().filter(|length| *length <= 1023).ok_or_else(too_long)?;
    let mut header = Vec::new();
    let u32s = |header: &mut Vec<u8>, values: &[u32]| {
        for value in values {
            header.extend(value.to_be_bytes());
        }
    };
    u32s(&mut header, &[MAGIC, 3]);
    header.extend(u64::from(name_at).to_be_bytes());
    u32s(&mut header, &[name_length, CLUSTER_BITS]);
    header.extend(size.to_be_bytes());
    let l1_size = u32::try_from(l1_entries).map_err(|_| io::Error::other("the disk is too large"))?;
    u32s(&mut header, &[0, l1_size]); // no encryption
    header.extend(l1_at.to_be_bytes());
    header.extend(CLUSTER.to_be_bytes()); // refcount table
    u32s(&mut header, &[1, 0]); // one cluster of it; no snapshots
    header.extend([0u64; 4].map(u64::to_be_bytes).concat()); // snapshots; incompatible, compatible, autoclear bits
    u32s(&mut header, &[REFCOUNT_ORDER, HEADER_LENGTH]);
    u32s(&mut header, &[EXTENSION_BACKING_FORMAT, 3]);
    header.extend(b"raw\0\0\0\0\0");
    u32s(&mut header, &[0, 0]);
    header.extend(backing);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize) -> u64 {
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn flipped_bytes_live_in_the_overlay_and_the_base_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base.raw");
        let content: Vec<u8> = (0..3 * CLUSTER).map(|n| (n % 251) as u8).collect();
        std::fs::write(&base, &content).unwrap();
        let path = directory.path().join("overlay.qcow2");
        create(&path, &base, 4 << 30, &[CLUSTER + 5, CLUSTER + 6]).unwrap();
        assert_eq!(std::fs::read(&base).unwrap(), content);

        let overlay = std::fs::read(&path).unwrap();
        let l1 = number(&overlay, 40) as usize;
        let l2 = (number(&overlay, l1) & !COPIED) as usize;
        assert_eq!(number(&overlay, l2), 0, "cluster 0 comes from the base");
        let at = (number(&overlay, l2 + 8) & !COPIED) as usize;
        let mut wanted = content[CLUSTER as usize..2 * CLUSTER as usize].to_vec();
        wanted[5] ^= 1;
        wanted[6] ^= 1;
        assert_eq!(overlay[at..at + CLUSTER as usize], wanted);
        assert_eq!(overlay.len() as u64, at as u64 + CLUSTER);
        let name = number(&overlay, 8) as usize;
        assert!(overlay[name..].starts_with(base.canonicalize().unwrap().as_os_str().as_bytes()));
    }

    #[test]
    fn an_empty_overlay_is_as_large_as_its_tables() {
        let mut out = io::Cursor::new(Vec::new());
        write_overlay(&mut out, b"/base", 8 << 30, &BTreeMap::new()).unwrap();
        assert_eq!(out.into_inner().len() as u64, 4 * CLUSTER);
    }
}
