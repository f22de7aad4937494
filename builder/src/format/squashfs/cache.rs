//! Compressed blocks kept from build to build.
//!
//! Compression is nearly all of a build's CPU time, and a rebuild after a small change compresses the same
//! blocks again. [`CachedZstd`] keeps every block it compressed in one append-only *pack* file, keyed by the
//! SHA-256 of compressor version, level and uncompressed block, so that only new blocks cost time.
//!
//! A pack is a header and records, each a fixed header (key, length, checksum of the payload, checksum of the
//! header) and the payload. A crash can only leave a damaged end: opening walks the headers and cuts the file at
//! the first one that is not whole. Payloads are checked when they are used, so a damaged one costs time, never
//! a wrong image. One process at a time appends; another one that finds the pack locked reads it and keeps
//! its own new blocks to itself.

use super::compress::{BlockCompressor, Zstd};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

const PACK_MAGIC: &[u8; 8] = b"cairnzs1";
const RECORD_HEADER: usize = 32 + 4 + 4 + 4;
/// No block's frame is longer than the largest block.
const LONGEST_PAYLOAD: u32 = 1 << 20;

type Key = [u8; 32];

/// The pack file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the compression cache {}: {source}", path.display())]
pub struct CacheError {
    /// The pack.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Where a payload is; length 0 stands for "does not shrink".
#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: u64,
    length: u32,
    checksum: u32,
}

#[derive(Debug)]
struct Pack {
    index: HashMap<Key, Slot>,
    /// End of the last whole record, where the next one goes.
    end: u64,
    /// Keys asked for since the pack was opened.
    used: HashSet<Key>,
    /// No more appending: someone else holds the lock, or a write failed (a full disk must not fail the build).
    read_only: bool,
}

/// [`Zstd`] with a pack of finished blocks in front.
#[derive(Debug)]
pub struct CachedZstd {
    zstd: Zstd,
    path: PathBuf,
    file: File,
    pack: Mutex<Pack>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl CachedZstd {
    /// Opens the pack at `path`, or makes an empty one. Its directory must exist.
    ///
    /// # Errors
    /// [`CacheError`] when the file cannot be opened, read or written. Damage is no error: what is behind it is
    /// dropped.
    pub fn open(path: &Path, level: i32) -> Result<Self, CacheError> {
        let open = || {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let read_only = match file.try_lock() {
                Ok(()) => false,
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Error(error)) => return Err(error),
            };
            let (index, end) = scan(&mut file)?;
            if !read_only {
                file.set_len(end)?;
                if end == 0 {
                    file.write_all_at(PACK_MAGIC, 0)?;
                }
            }
            let end = end.max(PACK_MAGIC.len() as u64);
            Ok((file, Pack { index, end, used: HashSet::new(), read_only }))
        };
        let (file, pack) = open().map_err(|source| CacheError { path: path.to_owned(), source })?;
        Ok(Self {
            zstd: Zstd { level },
            path: path.to_owned(),
            file,
            pack: Mutex::new(pack),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// Blocks found in the pack, and blocks that had to be compressed.
    #[must_use]
    pub fn statistics(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Ends a build. When more than `keep` bytes of the pack were not asked for since it was opened, it is
    /// rewritten, by a temporary file and a rename, with only those that were.
    ///
    /// # Errors
    /// [`CacheError`] when the smaller pack cannot be written; the old one is then still there.
    pub fn finish(self, keep: u64) -> Result<(), CacheError> {
        let Self { path, file, pack, .. } = self;
        let pack = pack.into_inner().unwrap_or_else(PoisonError::into_inner);
        let record = |slot: &Slot| RECORD_HEADER as u64 + u64::from(slot.length);
        let unused: u64 = pack
            .index
            .iter()
            .filter(|(key, _)| !pack.used.contains(*key))
            .map(|(_, slot)| record(slot))
            .sum();
        if pack.read_only || unused <= keep {
            return Ok(());
        }
        let mut kept: Vec<_> = pack.index.iter().filter(|(key, _)| pack.used.contains(*key)).collect();
        kept.sort_by_key(|(_, slot)| slot.offset);
        let temporary = path.with_extension("new");
        let rewrite = || {
            let mut out = io::BufWriter::new(File::create(&temporary)?);
            out.write_all(PACK_MAGIC)?;
            for (key, slot) in kept {
                let mut payload = vec![0; slot.length as usize];
                file.read_exact_at(&mut payload, slot.offset)?;
                out.write_all(&record_header(key, slot.length, slot.checksum))?;
                out.write_all(&payload)?;
            }
            out.flush()?;
            fs::rename(&temporary, &path)
        };
        rewrite().map_err(|source| {
            // Best effort: the message about the first failure matters more than a leftover.
            let _ = fs::remove_file(&temporary);
            CacheError { path, source }
        })
    }

    fn pack(&self) -> MutexGuard<'_, Pack> {
        self.pack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self, key: &Key) -> Option<Option<Vec<u8>>> {
        let slot = {
            let mut pack = self.pack();
            pack.used.insert(*key);
            *pack.index.get(key)?
        };
        if slot.length == 0 {
            return Some(None);
        }
        let mut payload = vec![0; slot.length as usize];
        self.file.read_exact_at(&mut payload, slot.offset).ok()?;
        (crc32fast::hash(&payload) == slot.checksum).then_some(Some(payload))
    }

    fn store(&self, key: &Key, payload: &[u8]) {
        let (length, checksum) = (payload.len() as u32, crc32fast::hash(payload));
        let mut record = record_header(key, length, checksum).to_vec();
        record.extend_from_slice(payload);
        let mut pack = self.pack();
        if pack.read_only {
            return;
        }
        let end = pack.end;
        if self.file.write_all_at(&record, end).is_err() {
            pack.read_only = true;
            return;
        }
        pack.index.insert(*key, Slot { offset: end + RECORD_HEADER as u64, length, checksum });
        pack.end = end + record.len() as u64;
    }
}

impl BlockCompressor for CachedZstd {
    fn level(&self) -> i32 {
        self.zstd.level
    }

    fn compress(&self, block: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let key = key(self.zstd.level, block);
        if let Some(found) = self.look_up(&key) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(found);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let compressed = self.zstd.compress(block)?;
        self.store(&key, compressed.as_deref().unwrap_or_default());
        Ok(compressed)
    }
}

fn key(level: i32, block: &[u8]) -> Key {
    let mut hash = Sha256::new();
    hash.update(zstd::zstd_safe::version_number().to_le_bytes());
    hash.update(level.to_le_bytes());
    hash.update(block);
    hash.finalize().into()
}

fn record_header(key: &Key, length: u32, checksum: u32) -> [u8; RECORD_HEADER] {
    let mut header = [0; RECORD_HEADER];
    header[..32].copy_from_slice(key);
    header[32..36].copy_from_slice(&length.to_le_bytes());
    header[36..40].copy_from_slice(&checksum.to_le_bytes());
    let own = crc32fast::hash(&header[..40]);
    header[40..].copy_from_slice(&own.to_le_bytes());
    header
}

/// Walks the record headers. Returns what was found and where the last whole record ends; 0 for a file that is
/// no pack.
fn scan(file: &mut File) -> io::Result<(HashMap<Key, Slot>, u64)> {
    let length = file.metadata()?.len();
    let mut index = HashMap::new();
    let mut reader = io::BufReader::with_capacity(4096, file);
    reader.seek(SeekFrom::Start(0))?;
    let mut magic = [0; PACK_MAGIC.len()];
    if length < PACK_MAGIC.len() as u64 {
        return Ok((index, 0));
    }
    reader.read_exact(&mut magic)?;
    if magic != *PACK_MAGIC {
        return Ok((index, 0));
    }
    let mut end = PACK_MAGIC.len() as u64;
    while length - end >= RECORD_HEADER as u64 {
        let mut header = [0; RECORD_HEADER];
        reader.read_exact(&mut header)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (payload, checksum, own) = (word(32), word(36), word(40));
        let offset = end + RECORD_HEADER as u64;
        let next = offset + u64::from(payload);
        if own != crc32fast::hash(&header[..40]) || payload > LONGEST_PAYLOAD || next > length {
            break;
        }
        let mut key = [0; 32];
        key.copy_from_slice(&header[..32]);
        index.insert(key, Slot { offset, length: payload, checksum });
        reader.seek_relative(i64::from(payload))?;
        end = next;
    }
    Ok((index, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<Vec<u8>> {
        (0..20u8).map(|n| [n, n ^ 0x55, 3].repeat(2000)).collect()
    }

    fn fill(path: &Path) {
        let cache = CachedZstd::open(path, 5).unwrap();
        for block in blocks() {
            cache.compress(&block).unwrap();
        }
        cache.compress(b"tiny").unwrap();
        assert_eq!(cache.statistics(), (0, 21));
    }

    #[test]
    fn blocks_come_back_as_they_were_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        fill(&path);
        let cache = CachedZstd::open(&path, 5).unwrap();
        for block in blocks() {
            assert_eq!(cache.compress(&block).unwrap(), Zstd { level: 5 }.compress(&block).unwrap());
        }
        assert_eq!(cache.compress(b"tiny").unwrap(), None);
        assert_eq!(cache.statistics(), (21, 0));
        drop(cache);
        let other_level = CachedZstd::open(&path, 6).unwrap();
        other_level.compress(&blocks()[0]).unwrap();
        assert_eq!(other_level.statistics(), (0, 1));
    }

    #[test]
    fn a_torn_end_is_cut_off_and_the_rest_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        fill(&path);
        let length = fs::metadata(&path).unwrap().len();
        // 44 bytes: the header of the last record, which has no payload.
        File::options().write(true).open(&path).unwrap().set_len(length - 45).unwrap();
        let cache = CachedZstd::open(&path, 5).unwrap();
        for block in blocks() {
            assert_eq!(cache.compress(&block).unwrap(), Zstd { level: 5 }.compress(&block).unwrap());
        }
        assert_eq!(cache.statistics(), (19, 1));
        drop(cache);
        let again = CachedZstd::open(&path, 5).unwrap();
        blocks().iter().for_each(|block| drop(again.compress(block).unwrap()));
        assert_eq!(again.statistics(), (20, 0));
    }

    #[test]
    fn a_damaged_payload_is_compressed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        fill(&path);
        let at = PACK_MAGIC.len() as u64 + RECORD_HEADER as u64 + 5;
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let cache = CachedZstd::open(&path, 5).unwrap();
        assert_eq!(cache.compress(&blocks()[0]).unwrap(), Zstd { level: 5 }.compress(&blocks()[0]).unwrap());
        assert_eq!(cache.statistics(), (0, 1));
    }

    #[test]
    fn garbage_is_replaced_and_a_locked_pack_is_only_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        fs::write(&path, b"this is no pack at all").unwrap();
        fill(&path);
        let first = CachedZstd::open(&path, 5).unwrap();
        let length = fs::metadata(&path).unwrap().len();
        let second = CachedZstd::open(&path, 5).unwrap();
        second.compress(&[1; 5000]).unwrap();
        second.compress(&blocks()[3]).unwrap();
        assert_eq!(second.statistics(), (1, 1));
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
        drop(first);
    }

    #[test]
    fn finishing_drops_what_was_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        fill(&path);
        let cache = CachedZstd::open(&path, 5).unwrap();
        cache.compress(&blocks()[7]).unwrap();
        cache.finish(u64::MAX).unwrap();
        let cache = CachedZstd::open(&path, 5).unwrap();
        cache.compress(&blocks()[7]).unwrap();
        cache.finish(0).unwrap();
        let cache = CachedZstd::open(&path, 5).unwrap();
        for number in [7, 8] {
            cache.compress(&blocks()[number]).unwrap();
        }
        assert_eq!(cache.statistics(), (1, 1));
    }
}
