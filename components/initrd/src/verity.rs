//! The dm-verity superblock and the table line made from it.
//!
//! The superblock (the format of `veritysetup`, `struct verity_sb` in cryptsetup's documentation of the
//! on-disk format) says how the tree was hashed. It is not signed, and need not be: with any other salt,
//! block size or length the tree does not lead to the root hash.

use crate::cmdline::RootHash;
use crate::gpt::Uuid;
use sha2::{Digest, Sha256};

/// Bytes of the superblock; it fills the first hash block.
pub const SUPERBLOCK_BYTES: usize = 512;
const SECTOR: u64 = 512;
const MAX_SALT: u16 = 256;

/// How a hash tree was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Name of the volume.
    pub uuid: Uuid,
    /// Bytes of a data block.
    pub data_block_size: u32,
    /// Bytes of a hash block.
    pub hash_block_size: u32,
    /// Number of data blocks.
    pub data_blocks: u64,
    /// Hashed before every block; may be empty.
    pub salt: Vec<u8>,
}

/// Bytes that are not a superblock this initrd supports, or that contradict the root hash.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerityError {
    /// Fewer than 512 bytes.
    #[error("the verity superblock is cut off")]
    Short,
    /// The magic is not there.
    #[error("there is no verity superblock: the hash partition is damaged or of another image")]
    NoSignature,
    /// A field has a value this initrd does not support or that makes no sense.
    #[error("the verity superblock's {field} is {found}, not {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// The data does not fit its partition.
    #[error("the verity superblock speaks of {needed} bytes of data, but the partition has {available}")]
    TooSmall {
        /// Bytes of data hashed.
        needed: u64,
        /// Bytes of the partition.
        available: u64,
    },
    /// The top of the tree is not what the command line promises.
    #[error(
        "the hash tree has root hash {found}, but roothash= says {expected}: the hash partition is damaged or was tampered with"
    )]
    RootMismatch {
        /// Hash of the topmost block.
        found: RootHash,
        /// From the command line.
        expected: RootHash,
    },
}

/// What the kernel does when a block does not match its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruption {
    /// Panic; with `kernel.panic` set that is a reboot with a cause on the console. Since Linux 5.9.
    Panic,
    /// Reboot at once. Since Linux 4.1.
    Restart,
}

impl Superblock {
    /// Reads the start of a hash partition.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerityError> {
        let bytes = bytes.get(..SUPERBLOCK_BYTES).ok_or(VerityError::Short)?;
        if &bytes[..8] != b"verity\0\0" {
            return Err(VerityError::NoSignature);
        }
        expect("version", u32_at(bytes, 8), "1", |version| version == 1)?;
        expect("hash type", u32_at(bytes, 12), "1", |kind| kind == 1)?;
        let name = &bytes[32..64];
        let name = &name[..name.iter().position(|&b| b == 0).unwrap_or(name.len())];
        if name != b"sha256" {
            let found = String::from_utf8_lossy(name).into_owned();
            return Err(VerityError::Field { field: "hash algorithm", found, expected: "sha256" });
        }
        let block = |size: u32| size.is_power_of_two() && (512..=1 << 16).contains(&size);
        let data_block_size =
            expect("data block size", u32_at(bytes, 64), "a power of two, 512 to 65536", block)?;
        let hash_block_size =
            expect("hash block size", u32_at(bytes, 68), "a power of two, 512 to 65536", block)?;
        let data_blocks = u64::from_le_bytes(std::array::from_fn(|i| bytes[72 + i]));
        let countable = |blocks| blocks > 0 && blocks <= i64::MAX as u64 / u64::from(data_block_size);
        expect("number of data blocks", data_blocks, "at least 1 and below 8 EiB in all", countable)?;
        let salt = u16::from_le_bytes([bytes[80], bytes[81]]);
        expect("salt length", salt, "at most 256", |length| length <= MAX_SALT)?;
        Ok(Self {
            uuid: Uuid::from_text_order(std::array::from_fn(|i| bytes[16 + i])),
            data_block_size,
            hash_block_size,
            data_blocks,
            salt: bytes[88..][..usize::from(salt)].to_vec(),
        })
    }

    /// Bytes of data the tree covers.
    pub fn data_bytes(&self) -> u64 {
        self.data_blocks * u64::from(self.data_block_size)
    }

    /// The same in sectors of 512 bytes, the device mapper's unit.
    pub fn data_sectors(&self) -> u64 {
        self.data_bytes() / SECTOR
    }

    /// Checks that the data fits into a partition of `available` bytes.
    pub fn check_size(&self, available: u64) -> Result<(), VerityError> {
        let needed = self.data_bytes();
        if needed > available { Err(VerityError::TooSmall { needed, available }) } else { Ok(()) }
    }

    /// Byte offset, in the hash partition, of the topmost hash block: the one after the superblock.
    pub fn top_block_offset(&self) -> u64 {
        u64::from(self.hash_block_size)
    }

    /// Compares the topmost hash block with the root hash. The kernel does it too, at the first read, and then
    /// panics or fails with no more than EIO; this check is there to say which partition is at fault.
    pub fn check_top_block(&self, block: &[u8], expected: RootHash) -> Result<(), VerityError> {
        // With a single data block there is no tree: the root hash is that block's.
        if self.data_blocks == 1 {
            return Ok(());
        }
        let digest = Sha256::new().chain_update(&self.salt).chain_update(block).finalize();
        let found = RootHash::new(digest.into());
        if found == expected { Ok(()) } else { Err(VerityError::RootMismatch { found, expected }) }
    }

    /// Parameters of the device-mapper target (kernel documentation, `admin-guide/device-mapper/verity`).
    /// Devices are `major:minor`. With `tasklet`, small reads whose hashes are cached are verified in the I/O
    /// completion itself instead of in a work queue (Linux 6.0).
    pub fn table(&self, data: &str, hash: &str, root: RootHash, then: OnCorruption, tasklet: bool) -> String {
        let salt = if self.salt.is_empty() { "-".to_owned() } else { hex::encode(&self.salt) };
        let (data_size, hash_size, blocks) = (self.data_block_size, self.hash_block_size, self.data_blocks);
        let then = match then {
            OnCorruption::Panic => "panic_on_corruption",
            OnCorruption::Restart => "restart_on_corruption",
        };
        let options = if tasklet { format!("2 {then} try_verify_in_tasklet") } else { format!("1 {then}") };
        format!("1 {data} {hash} {data_size} {hash_size} {blocks} 1 sha256 {root} {salt} {options}")
    }
}

fn expect<T: Copy + ToString>(
    field: &'static str,
    value: T,
    expected: &'static str,
    good: impl Fn(T) -> bool,
) -> Result<T, VerityError> {
    if good(value) {
        Ok(value)
    } else {
        Err(VerityError::Field { field, found: value.to_string(), expected })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> [u8; 512] {
        let mut bytes = [0; 512];
        bytes[..8].copy_from_slice(b"verity\0\0");
        bytes[8] = 1;
        bytes[12] = 1;
        bytes[16..32].fill(0xab);
        bytes[32..38].copy_from_slice(b"sha256");
        bytes[64..68].copy_from_slice(&4096u32.to_le_bytes());
        bytes[68..72].copy_from_slice(&4096u32.to_le_bytes());
        bytes[72..80].copy_from_slice(&1000u64.to_le_bytes());
        bytes[80] = 4;
        bytes[88..92].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        bytes
    }

    fn with(at: usize, value: &[u8]) -> Result<Superblock, VerityError> {
        let mut bytes = sample();
        bytes[at..at + value.len()].copy_from_slice(value);
        Superblock::parse(&bytes)
    }

    #[test]
    fn the_table_line_is_the_kernels() {
        let found = Superblock::parse(&sample()).unwrap();
        assert_eq!(found.uuid.to_string(), "abababab-abab-abab-abab-abababababab");
        assert_eq!((found.data_sectors(), found.top_block_offset()), (8000, 4096));
        let root = RootHash::new([0x11; 32]);
        assert_eq!(
            found.table("254:1", "254:2", root, OnCorruption::Panic, true),
            format!(
                "1 254:1 254:2 4096 4096 1000 1 sha256 {} deadbeef 2 panic_on_corruption try_verify_in_tasklet",
                "11".repeat(32)
            )
        );
        let saltless = with(80, &[0, 0]).unwrap();
        assert!(
            saltless
                .table("1:1", "1:2", root, OnCorruption::Restart, false)
                .ends_with(" - 1 restart_on_corruption")
        );
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(Superblock::parse(&sample()[..511]), Err(VerityError::Short));
        assert_eq!(with(0, b"V"), Err(VerityError::NoSignature));
        for (at, value, name) in [
            (8, &[2u8, 0][..], "version"),
            (12, &[0], "hash type"),
            (32, b"sha512", "hash algorithm"),
            (64, &[1], "data block size"),
            (68, &[0, 0, 2, 0], "hash block size"),
            (72, &[0; 8], "number of data blocks"),
            (72, &[0xff; 8], "number of data blocks"),
            (80, &[1, 1], "salt length"),
        ] {
            match with(at, value) {
                Err(VerityError::Field { field, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_partition_too_small_is_refused() {
        let found = Superblock::parse(&sample()).unwrap();
        assert_eq!(found.check_size(4_096_000), Ok(()));
        assert_eq!(
            found.check_size(4_095_999),
            Err(VerityError::TooSmall { needed: 4_096_000, available: 4_095_999 })
        );
    }

    #[test]
    fn one_flipped_bit_in_the_top_block_is_caught() {
        let found = Superblock::parse(&sample()).unwrap();
        let mut block = vec![7; 4096];
        let root = RootHash::new(
            Sha256::new().chain_update([0xde, 0xad, 0xbe, 0xef]).chain_update(&block).finalize().into(),
        );
        assert_eq!(found.check_top_block(&block, root), Ok(()));
        block[2000] ^= 1;
        assert!(matches!(found.check_top_block(&block, root), Err(VerityError::RootMismatch { .. })));
        let single = with(72, &[1, 0]).unwrap();
        assert_eq!(single.check_top_block(&block, root), Ok(()));
    }

    proptest! {
        #[test]
        fn arbitrary_superblocks_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..600), keep in 0usize..88) {
            let mut mixed = sample().to_vec();
            for (at, byte) in bytes.iter().enumerate().skip(keep).take(512usize.saturating_sub(keep)) {
                mixed[at] = *byte;
            }
            if let Ok(found) = Superblock::parse(&mixed) {
                prop_assert!(found.salt.len() <= 256);
                prop_assert!(found.data_sectors() > 0);
            }
            let _ = Superblock::parse(&bytes);
        }
    }
}
