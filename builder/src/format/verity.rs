//! dm-verity: a hash tree over a read-only partition.
//!
//! Every 4096-byte block of the data is hashed; the hashes, 128 to a block, are hashed again, and so on until
//! one hash is left, the *root hash*. Who trusts the root hash can check any block by reading one path of the
//! tree. The hash partition holds a superblock and then the levels, the top one first. This is format 1 with
//! SHA-256, as `veritysetup format` writes it and the kernel's `verity` target reads it
//! (`Documentation/admin-guide/device-mapper/verity.rst`; the superblock is `struct verity_sb` of cryptsetup).

use super::{
    extent::ReadAt,
    pipeline::{all_cores, in_order},
};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    io::{self, Write},
    str::FromStr,
};
use uuid::Uuid;

/// Data and hash blocks are both this long.
pub const BLOCK_SIZE: usize = 4096;
/// Bytes of data a worker hashes at a time.
const CHUNK: usize = 1024 * 1024;
const DIGEST: usize = 32;
const DIGESTS_PER_BLOCK: usize = BLOCK_SIZE / DIGEST;
const MAGIC: [u8; 8] = *b"verity\0\0";
const SUPERBLOCK: usize = 512;

/// The hash that vouches for a whole partition. Text form: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash(pub [u8; 32]);

impl RootHash {
    /// UUID of the data partition by the Discoverable Partitions Specification: the first 128 bits.
    #[must_use]
    pub fn data_partition_uuid(&self) -> Uuid {
        self.half(0)
    }

    /// UUID of the hash partition by the Discoverable Partitions Specification: the last 128 bits.
    #[must_use]
    pub fn hash_partition_uuid(&self) -> Uuid {
        self.half(16)
    }

    fn half(&self, start: usize) -> Uuid {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[start..start + 16]);
        Uuid::from_bytes(bytes)
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a root hash of 64 hex digits")]
pub struct InvalidRootHash(String);

impl FromStr for RootHash {
    type Err = InvalidRootHash;

    fn from_str(text: &str) -> Result<Self, InvalidRootHash> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidRootHash(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

/// What is not in the data: the parameters of a hash tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Hashed before every block; at most 256 bytes.
    pub salt: Vec<u8>,
    /// UUID in the superblock.
    pub uuid: Uuid,
}

/// The hash tree could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data is no row of blocks.
    #[error(
        "dm-verity needs data in whole blocks of {BLOCK_SIZE} bytes and at least one; there are {0} bytes"
    )]
    NotBlocks(u64),
    /// The salt does not fit.
    #[error("a dm-verity salt has at most 256 bytes; this one has {0}")]
    SaltTooLong(usize),
    /// The data could not be read.
    #[error("cannot read the data to hash: {0}")]
    Read(io::Error),
    /// The tree could not be written.
    #[error("cannot write the hash tree: {0}")]
    Write(io::Error),
}

/// Length in bytes of the hash partition's contents for so many bytes of data.
#[must_use]
pub fn hash_length(data_length: u64) -> u64 {
    let mut blocks = 1;
    let mut level = data_length.div_ceil(BLOCK_SIZE as u64);
    while level > 1 {
        level = level.div_ceil(DIGESTS_PER_BLOCK as u64);
        blocks += level;
    }
    blocks * BLOCK_SIZE as u64
}

/// Hashes `data` on all cores and writes superblock and tree.
///
/// # Errors
/// [`Error`].
pub fn write(data: &dyn ReadAt, parameters: &Parameters, out: &mut dyn Write) -> Result<RootHash, Error> {
    let length = data.size();
    if length == 0 || !length.is_multiple_of(BLOCK_SIZE as u64) {
        return Err(Error::NotBlocks(length));
    }
    if parameters.salt.len() > 256 {
        return Err(Error::SaltTooLong(parameters.salt.len()));
    }
    let superblock = Superblock { data_blocks: length / BLOCK_SIZE as u64, parameters: parameters.clone() };
    let tree = Tree::of(data, length, &parameters.salt).map_err(Error::Read)?;
    let mut write = || {
        out.write_all(&superblock.encode())?;
        tree.levels.iter().rev().try_for_each(|level| out.write_all(level))
    };
    write().map_err(Error::Write)?;
    Ok(tree.root)
}

/// All levels, the lowest first, each padded with zeros to whole blocks.
struct Tree {
    levels: Vec<Vec<u8>>,
    root: RootHash,
}

impl Tree {
    fn of(data: &dyn ReadAt, length: u64, salt: &[u8]) -> io::Result<Self> {
        // The salt is hashed once; each block starts from a copy of that state.
        let salted = Sha256::new_with_prefix(salt);
        let chunks = length.div_ceil(CHUNK as u64) as usize;
        let mut digests = Vec::with_capacity((length / BLOCK_SIZE as u64) as usize * DIGEST);
        in_order(
            chunks,
            all_cores(),
            32,
            |chunk| {
                let start = chunk as u64 * CHUNK as u64;
                let mut bytes = vec![0; (length - start).min(CHUNK as u64) as usize];
                data.read_exact_at(&mut bytes, start)?;
                Ok(hash_blocks(&salted, &bytes))
            },
            |_, found: Vec<u8>| {
                digests.extend_from_slice(&found);
                Ok::<_, io::Error>(())
            },
        )?;
        let mut levels = Vec::new();
        while digests.len() > DIGEST {
            digests.resize(digests.len().next_multiple_of(BLOCK_SIZE), 0);
            let above = hash_blocks(&salted, &digests);
            levels.push(digests);
            digests = above;
        }
        let mut root = [0; DIGEST];
        root.copy_from_slice(&digests);
        Ok(Self { levels, root: RootHash(root) })
    }
}

fn hash_blocks(salted: &Sha256, bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(BLOCK_SIZE).flat_map(|block| salted.clone().chain_update(block).finalize()).collect()
}

/// The superblock of a hash partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// How many blocks of data the tree covers.
    pub data_blocks: u64,
    /// Salt and UUID.
    pub parameters: Parameters,
}

impl Superblock {
    /// One block.
    fn encode(&self) -> Vec<u8> {
        let Self { data_blocks, parameters: Parameters { salt, uuid } } = self;
        let mut bytes = Vec::with_capacity(BLOCK_SIZE);
        bytes.extend(MAGIC);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(uuid.as_bytes());
        bytes.extend(b"sha256");
        bytes.resize(64, 0);
        bytes.extend((BLOCK_SIZE as u32).to_le_bytes());
        bytes.extend((BLOCK_SIZE as u32).to_le_bytes());
        bytes.extend(data_blocks.to_le_bytes());
        bytes.extend((salt.len() as u16).to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend_from_slice(salt);
        bytes.resize(BLOCK_SIZE, 0);
        bytes
    }

    /// Reads the superblock at the start of a hash partition.
    ///
    /// # Errors
    /// [`VerifyError::Superblock`] when it is not one this module writes, [`VerifyError::Read`].
    pub fn read(hashes: &dyn ReadAt) -> Result<Self, VerifyError> {
        let wrong = |what: String| Err(VerifyError::Superblock(what));
        if hashes.size() < BLOCK_SIZE as u64 {
            return wrong(format!("{} bytes hold none", hashes.size()));
        }
        let mut bytes = [0; SUPERBLOCK];
        hashes.read_exact_at(&mut bytes, 0).map_err(VerifyError::Read)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC {
            return wrong("its magic is missing".to_owned());
        }
        if (word(8), word(12)) != (1, 1) {
            return wrong(format!("version {} with hash type {}; only 1 and 1 are known", word(8), word(12)));
        }
        if &bytes[32..39] != b"sha256\0" {
            return wrong("the hash is not sha256".to_owned());
        }
        if word(64) as usize != BLOCK_SIZE || word(68) as usize != BLOCK_SIZE {
            return wrong(format!(
                "blocks of {} and {} bytes; only {BLOCK_SIZE} is known",
                word(64),
                word(68)
            ));
        }
        let data_blocks = u64::from(word(72)) | u64::from(word(76)) << 32;
        let salt = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        if salt > 256 {
            return wrong(format!("a salt of {salt} bytes"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            data_blocks,
            parameters: Parameters { salt: bytes[88..88 + salt].to_vec(), uuid: Uuid::from_bytes(uuid) },
        })
    }
}

/// Data, tree and root hash do not belong together, or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No superblock, or one of another form.
    #[error("no sound dm-verity superblock: {0}")]
    Superblock(String),
    /// The tree is for more data than there is.
    #[error("the hash tree covers {covered} bytes, but the partitions are too small for that")]
    TooSmall {
        /// Bytes of data the superblock speaks of.
        covered: u64,
    },
    /// A block of the data is not what the tree says.
    #[error("data block {block} (bytes {} to {}) does not match its hash", block * 4096, (block + 1) * 4096 - 1)]
    Data {
        /// Its number; the first one when several differ.
        block: u64,
    },
    /// A block of the tree itself is wrong.
    #[error("the hash tree's level {level} does not match the level below it")]
    Tree {
        /// 0 is the level that holds the data blocks' hashes.
        level: usize,
    },
    /// Data and tree agree with each other, but not with the root hash.
    #[error("the root hash is {found}, not {expected}")]
    Root {
        /// Computed from the data.
        found: RootHash,
        /// Asked for.
        expected: RootHash,
    },
    /// Reading failed.
    #[error("cannot read the partition: {0}")]
    Read(io::Error),
}

/// Recomputes the tree from `data` and compares every hash with `hashes`, and the top with `expected`.
///
/// # Errors
/// [`VerifyError`]: the first thing that is wrong, from the data upwards.
pub fn verify(data: &dyn ReadAt, hashes: &dyn ReadAt, expected: RootHash) -> Result<(), VerifyError> {
    let superblock = Superblock::read(hashes)?;
    let covered = superblock.data_blocks.saturating_mul(BLOCK_SIZE as u64);
    if covered == 0 || covered > data.size() || hash_length(covered) > hashes.size() {
        return Err(VerifyError::TooSmall { covered });
    }
    let tree = Tree::of(data, covered, &superblock.parameters.salt).map_err(VerifyError::Read)?;
    // The levels lie in the partition with the top first; a difference is best told at the lowest one.
    let mut end = hash_length(covered);
    for (level, computed) in tree.levels.iter().enumerate() {
        end -= computed.len() as u64;
        let mut stored = vec![0; computed.len()];
        hashes.read_exact_at(&mut stored, end).map_err(VerifyError::Read)?;
        if stored == *computed {
            continue;
        }
        let differing = stored.chunks(DIGEST).zip(computed.chunks(DIGEST)).position(|(a, b)| a != b);
        return Err(match (level, differing) {
            (0, Some(block)) if (block as u64) < superblock.data_blocks => {
                VerifyError::Data { block: block as u64 }
            }
            _ => VerifyError::Tree { level },
        });
    }
    if tree.root == expected { Ok(()) } else { Err(VerifyError::Root { found: tree.root, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const UUID: &str = "6f3c1d1e-2a84-4f62-9d59-0123456789ab";

    fn parameters() -> Parameters {
        Parameters { salt: (0..32).collect(), uuid: UUID.parse().unwrap() }
    }

    fn data(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK_SIZE / 4)
            .flat_map(|n| (n as u32).wrapping_mul(2_654_435_761).to_le_bytes())
            .collect()
    }

    fn format(data: &[u8]) -> (Vec<u8>, RootHash) {
        let mut hashes = Vec::new();
        let root = write(&data, &parameters(), &mut hashes).unwrap();
        assert_eq!(hashes.len() as u64, hash_length(data.len() as u64));
        (hashes, root)
    }

    #[test]
    fn the_field_s_tool_writes_the_same_bytes_and_verifies_ours() {
        let folder = tempfile::tempdir().unwrap();
        let [data_path, theirs, ours] = ["data", "theirs", "ours"].map(|name| folder.path().join(name));
        for blocks in [1, 2, 128, 129, 300, 128 * 128 + 1] {
            let data = data(blocks);
            std::fs::write(&data_path, &data).unwrap();
            let (hashes, root) = format(&data);
            std::fs::write(&ours, &hashes).unwrap();
            let output = Command::new("veritysetup")
                .args(["format", "--salt", &hex::encode(parameters().salt), "--uuid", UUID])
                .args([&data_path, &theirs])
                .output();
            let Ok(output) = output else {
                println!("skipped: no veritysetup here");
                return;
            };
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(&root.to_string()), "{blocks} blocks: {text} has not {root}");
            assert!(std::fs::read(&theirs).unwrap() == hashes, "{blocks} blocks give another hash tree");
            let checked = Command::new("veritysetup")
                .arg("verify")
                .args([&data_path, &ours])
                .arg(root.to_string())
                .status()
                .unwrap();
            assert!(checked.success());
        }
    }

    #[test]
    fn what_was_changed_is_told() {
        let good = data(1000);
        let (hashes, root) = format(&good);
        verify(&good, &hashes, root).unwrap();

        let mut bad = good.clone();
        bad[700 * BLOCK_SIZE + 17] ^= 1;
        assert!(matches!(verify(&bad, &hashes, root), Err(VerifyError::Data { block: 700 })));

        let mut bad = hashes.clone();
        bad[BLOCK_SIZE + 3] ^= 1;
        assert!(matches!(verify(&good, &bad, root), Err(VerifyError::Tree { level: 1 })));

        let other = RootHash([7; 32]);
        assert!(
            matches!(verify(&good, &hashes, other), Err(VerifyError::Root { found, .. }) if found == root)
        );
        assert!(matches!(verify(&good[..4096].to_vec(), &hashes, root), Err(VerifyError::TooSmall { .. })));
        assert!(matches!(verify(&good, &hashes[..8192].to_vec(), root), Err(VerifyError::TooSmall { .. })));
        assert!(matches!(verify(&good, &hashes[..100].to_vec(), root), Err(VerifyError::Superblock(_))));
        assert!(matches!(verify(&good, &good, root), Err(VerifyError::Superblock(_))));
    }

    #[test]
    fn every_byte_of_the_superblock_may_be_wrong() {
        let good = data(3);
        let (hashes, root) = format(&good);
        for at in 0..SUPERBLOCK {
            for flip in [1, 0x80, 0xff] {
                let mut bad = hashes.clone();
                bad[at] ^= flip;
                let _ = verify(&good, &bad, root);
            }
        }
    }

    #[test]
    fn data_must_be_blocks_and_the_salt_must_fit() {
        let mut out = Vec::new();
        assert!(matches!(write(&vec![0; 4097], &parameters(), &mut out), Err(Error::NotBlocks(4097))));
        assert!(matches!(write(&vec![], &parameters(), &mut out), Err(Error::NotBlocks(0))));
        let long = Parameters { salt: vec![0; 257], ..parameters() };
        assert!(matches!(write(&vec![0; 4096], &long, &mut out), Err(Error::SaltTooLong(257))));
        assert!(out.is_empty());
    }

    #[test]
    fn the_root_hash_names_its_partitions() {
        let text = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
        let root: RootHash = text.parse().unwrap();
        assert_eq!(root.to_string(), text);
        assert_eq!(root.data_partition_uuid().to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(root.hash_partition_uuid().to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        assert!("0011".parse::<RootHash>().is_err());
        assert!(format!("{text}00").parse::<RootHash>().is_err());
    }
}
