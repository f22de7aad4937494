//! Reading a GUID partition table (UEFI specification 2.10, section 5.3), no more of it than finding a
//! partition by its UUID takes.
//!
//! Every checksum is checked, and numbers that a broken table could use to make a reader allocate or seek
//! wildly are bounded. The caller does the reading: header from LBA 1, or from the last LBA when the primary
//! one is damaged, then [`Header::entries_span`] for where the entries are.

use std::fmt;

/// Smallest size of an entry, and of the header block that is looked at.
const MIN_ENTRY: u32 = 128;
const MIN_HEADER: usize = 92;
/// A table has 128 entries of 128 bytes; 1 MiB is far beyond any real one.
const MAX_ENTRIES_BYTES: u64 = 1 << 20;

/// A UUID, bytes in the order of its text form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid([u8; 16]);

/// A checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    entries_lba: u64,
    entry_count: u32,
    entry_size: u32,
    entries_crc: u32,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the partition as the kernel counts, from 1.
    pub number: u32,
    /// What the partition is for, by the Discoverable Partitions Specification.
    pub kind: Uuid,
    /// The partition's own UUID (`PARTUUID`).
    pub uuid: Uuid,
    /// First block.
    pub first_lba: u64,
    /// Last block, inclusive.
    pub last_lba: u64,
}

/// Bytes that are not a usable table.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GptError {
    /// The block is shorter than a header.
    #[error("the header block has only {0} bytes")]
    Short(usize),
    /// No `EFI PART`: most likely there is no GPT at all.
    #[error("no GPT signature")]
    NoSignature,
    /// Header length, entry size or entry count out of bounds, or the header is a copy from elsewhere.
    #[error("the GPT header's {0} makes no sense")]
    BadField(&'static str),
    /// The header's CRC is wrong.
    #[error("the GPT header is damaged (CRC)")]
    HeaderCrc,
    /// The entries' CRC is wrong, or there are too few bytes of them.
    #[error("the GPT entries are damaged (CRC)")]
    EntriesCrc,
}

impl Uuid {
    /// From bytes in text order.
    pub const fn from_text_order(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From bytes as GPT stores them: the first three groups little-endian.
    pub const fn from_disk_order(b: [u8; 16]) -> Self {
        Self([
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
            b[15],
        ])
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Header {
    /// Reads the header in `block`, which was read from LBA `lba`.
    pub fn parse(block: &[u8], lba: u64) -> Result<Self, GptError> {
        if block.len() < MIN_HEADER {
            return Err(GptError::Short(block.len()));
        }
        if &block[..8] != b"EFI PART" {
            return Err(GptError::NoSignature);
        }
        let length = u32_at(block, 12) as usize;
        if !(MIN_HEADER..=block.len()).contains(&length) {
            return Err(GptError::BadField("length"));
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&block[..16]);
        hasher.update(&[0; 4]);
        hasher.update(&block[20..length]);
        if hasher.finalize() != u32_at(block, 16) {
            return Err(GptError::HeaderCrc);
        }
        if u64_at(block, 24) != lba {
            return Err(GptError::BadField("own address"));
        }
        let header = Self {
            entries_lba: u64_at(block, 72),
            entry_count: u32_at(block, 80),
            entry_size: u32_at(block, 84),
            entries_crc: u32_at(block, 88),
        };
        if header.entry_size < MIN_ENTRY || !header.entry_size.is_power_of_two() {
            return Err(GptError::BadField("entry size"));
        }
        if header.entries_bytes() > MAX_ENTRIES_BYTES {
            return Err(GptError::BadField("number of entries"));
        }
        if header.entries_lba < 2 {
            return Err(GptError::BadField("entries' address"));
        }
        Ok(header)
    }

    /// Where the entries are: first LBA, and length in bytes (at most 1 MiB).
    pub fn entries_span(&self) -> (u64, usize) {
        (self.entries_lba, self.entries_bytes() as usize)
    }

    fn entries_bytes(&self) -> u64 {
        u64::from(self.entry_count) * u64::from(self.entry_size)
    }

    /// Reads the used entries out of the bytes at [`Self::entries_span`].
    pub fn entries(&self, bytes: &[u8]) -> Result<Vec<Entry>, GptError> {
        let bytes = bytes.get(..self.entries_span().1).ok_or(GptError::EntriesCrc)?;
        if crc32fast::hash(bytes) != self.entries_crc {
            return Err(GptError::EntriesCrc);
        }
        Ok((1..)
            .zip(bytes.chunks_exact(self.entry_size as usize))
            .filter(|(_, raw)| raw[..16] != [0; 16])
            .map(|(number, raw)| Entry {
                number,
                kind: Uuid::from_disk_order(std::array::from_fn(|i| raw[i])),
                uuid: Uuid::from_disk_order(std::array::from_fn(|i| raw[16 + i])),
                first_lba: u64_at(raw, 32),
                last_lba: u64_at(raw, 40),
            })
            .filter(|entry| entry.first_lba <= entry.last_lba)
            .collect())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: [u8; 16] =
        [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

    fn seal(block: &mut [u8]) {
        block[16..20].fill(0);
        let crc = crc32fast::hash(&block[..92]);
        block[16..20].copy_from_slice(&crc.to_le_bytes());
    }

    /// A table with one partition, the third.
    fn table(lba: u64) -> (Vec<u8>, Vec<u8>) {
        let mut entries = vec![0; 128 * 128];
        entries[256..272].fill(7);
        entries[272..288].copy_from_slice(&UUID);
        entries[288..296].copy_from_slice(&2048u64.to_le_bytes());
        entries[296..304].copy_from_slice(&4095u64.to_le_bytes());
        let mut block = vec![0; 512];
        block[..8].copy_from_slice(b"EFI PART");
        block[8..12].copy_from_slice(&0x10000u32.to_le_bytes());
        block[12..16].copy_from_slice(&92u32.to_le_bytes());
        block[24..32].copy_from_slice(&lba.to_le_bytes());
        block[72..80].copy_from_slice(&2u64.to_le_bytes());
        block[80..84].copy_from_slice(&128u32.to_le_bytes());
        block[84..88].copy_from_slice(&128u32.to_le_bytes());
        let crc = crc32fast::hash(&entries);
        block[88..92].copy_from_slice(&crc.to_le_bytes());
        seal(&mut block);
        (block, entries)
    }

    #[test]
    fn finds_the_partition() {
        let (block, entries) = table(1);
        let header = Header::parse(&block, 1).unwrap();
        assert_eq!(header.entries_span(), (2, 16384));
        let found = header.entries(&entries).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].number, found[0].first_lba, found[0].last_lba), (3, 2048, 4095));
        assert_eq!(found[0].kind, Uuid::from_text_order([7; 16]));
        assert_eq!(found[0].uuid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn every_kind_of_damage_has_its_name() {
        let (good, entries) = table(1);
        assert_eq!(Header::parse(&good[..91], 1), Err(GptError::Short(91)));
        assert_eq!(Header::parse(&good, 9), Err(GptError::BadField("own address")));
        assert_eq!(Header::parse(&[0; 512], 1), Err(GptError::NoSignature));

        let changed = |at: usize, value: u32| {
            let mut block = good.clone();
            block[at..at + 4].copy_from_slice(&value.to_le_bytes());
            seal(&mut block);
            Header::parse(&block, 1)
        };
        assert_eq!(changed(12, 91), Err(GptError::BadField("length")));
        assert_eq!(changed(12, 513), Err(GptError::BadField("length")));
        assert_eq!(changed(84, 64), Err(GptError::BadField("entry size")));
        assert_eq!(changed(84, 200), Err(GptError::BadField("entry size")));
        assert_eq!(changed(80, u32::MAX), Err(GptError::BadField("number of entries")));
        assert_eq!(changed(72, 1), Err(GptError::BadField("entries' address")));

        let header = Header::parse(&good, 1).unwrap();
        assert_eq!(header.entries(&entries[1..]), Err(GptError::EntriesCrc));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (good, entries) = table(1);
        for at in 0..92 {
            let mut block = good.clone();
            block[at] ^= 0x40;
            assert!(Header::parse(&block, 1).is_err(), "byte {at}");
        }
        let header = Header::parse(&good, 1).unwrap();
        for at in (0..entries.len()).step_by(97) {
            let mut damaged = entries.clone();
            damaged[at] ^= 1;
            assert_eq!(header.entries(&damaged), Err(GptError::EntriesCrc));
        }
    }

    proptest! {
        /// Any header with a right checksum, whatever its fields: no panic, and bounded spans.
        #[test]
        fn arbitrary_sealed_headers_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 512), size in 92u32..600, small: bool) {
            let mut block = bytes;
            block[..8].copy_from_slice(b"EFI PART");
            block[12..16].copy_from_slice(&size.to_le_bytes());
            block[24..32].copy_from_slice(&1u64.to_le_bytes());
            if small {
                block[80..88].copy_from_slice(&[4, 0, 0, 0, 128, 0, 0, 0]);
            }
            let length = (size as usize).min(512);
            block[16..20].fill(0);
            let crc = crc32fast::hash(&block[..length]);
            block[16..20].copy_from_slice(&crc.to_le_bytes());
            if let Ok(header) = Header::parse(&block, 1) {
                prop_assert!(header.entries_span().1 <= 1 << 20);
                let _ = header.entries(&block);
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Header::parse(&bytes, 1).is_err());
        }
    }
}
