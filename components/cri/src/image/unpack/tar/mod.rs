//! A streaming reader of tar archives as container tools write them: ustar, GNU long names, PAX headers.
//!
//! Written here, and not taken from a library, because a layer is hostile until its digest is verified, which is
//! after its last byte: extension headers have a size limit, numbers that overflow are errors, and what
//! would be guessed at (sparse files, unknown types) is refused.

mod header;
mod pax;

use header::Header;
use pax::{Extension, MAX_GLOBAL, apply_pax, global_too_long, too_long};
use std::io::{self, Read};

const BLOCK: usize = 512;
/// Extension headers are held in memory. Real ones have some hundred bytes; xattrs may have 64 KiB each.
const MAX_EXTENSION: u64 = 1 << 20;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream below failed or ended early.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a tar archive, or damaged.
    #[error("damaged archive: {0}")]
    Malformed(&'static str),
    /// Legal, but no container tool writes it.
    #[error("the archive has {0}, which layers do not have")]
    Unsupported(String),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// One entry's header. Paths are raw bytes, as they stand in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission bits, set-id and sticky bits included.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// Name and value.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entry after entry; between two calls of [`TarReader::next`], `Read` gives the entry's content.
pub(super) struct TarReader<R> {
    inner: R,
    remaining: u64,
    padding: u64,
    global: Extension,
}

impl<R: Read> TarReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, remaining: 0, padding: 0, global: Extension::default() }
    }

    /// The stream below, wherever it stands.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, skipping what is left of this one. `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extension = self.global.clone();
        // All extension headers of one entry together: each by itself may be small, and come a million times.
        let mut room = MAX_EXTENSION;
        loop {
            self.skip(self.remaining.checked_add(self.padding).ok_or(TarError::Malformed("size overflow"))?)?;
            (self.remaining, self.padding) = (0, 0);
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header(&block);
            let size = header.number(124..136)?;
            if matches!(header.0[156], b'x' | b'g' | b'L' | b'K') {
                room = room.checked_sub(size).ok_or_else(too_long)?;
            }
            match header.0[156] {
                b'x' => {
                    let records = self.extension(size)?;
                    apply_pax(&mut extension, &records)?;
                }
                b'g' => {
                    let records = self.extension(size)?;
                    apply_pax(&mut self.global, &records)?;
                    if self.global.weight() > MAX_GLOBAL {
                        return Err(global_too_long());
                    }
                    apply_pax(&mut extension, &records)?;
                }
                b'L' => extension.path = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => extension.link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => {
                    let entry = header.entry(extension, size)?;
                    self.remaining = entry.size;
                    self.padding = padding(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// One header block, checked. `None` for the zero block that ends an archive, or a clean end of the stream.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Malformed("it ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |signed: bool| -> i64 {
            block
                .iter()
                .enumerate()
                .map(|(index, byte)| match (index, signed) {
                    (148..156, _) => i64::from(b' '),
                    (_, true) => i64::from(byte.cast_signed()),
                    (_, false) => i64::from(*byte),
                })
                .sum()
        };
        let expected = i64::try_from(Header(&block).number(148..156)?).unwrap_or(-1);
        // Some old tools summed signed bytes.
        if expected != sum(false) && expected != sum(true) {
            return Err(TarError::Malformed("a header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut content = Vec::new();
        (&mut self.inner).take(size).read_to_end(&mut content)?;
        if content.len() as u64 != size {
            return Err(TarError::Malformed("it ends within an extension header"));
        }
        self.skip(padding(size))?;
        Ok(content)
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        if io::copy(&mut (&mut self.inner).take(count), &mut io::sink())? != count {
            return Err(TarError::Malformed("it ends within a file"));
        }
        Ok(())
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a file"));
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = TarReader::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next()? {
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            entries.push((entry, content));
        }
        Ok(entries)
    }

    fn file(path: &str, content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(3_000_000_000);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, content).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn what_another_writer_wrote_is_read() {
        let long = format!("{}/file", "directory/".repeat(30).trim_end_matches('/'));
        for path in ["a", &long] {
            let entries = read_all(&file(path, b"content")).unwrap();
            let (entry, content) = &entries[0];
            assert_eq!(entry.path, path.as_bytes());
            assert_eq!((entry.mode, entry.uid, entry.gid), (0o4755, 7, 3_000_000_000));
            assert_eq!((entry.mtime, &content[..]), ((1_700_000_000, 0), &b"content"[..]));
        }
    }

    #[test]
    fn pax_records_override_the_header() {
        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([
                ("SCHILY.xattr.user.a", &b"value\n\0\xff"[..]),
                ("mtime", b"-1.25"),
                ("uid", b"100000"),
                ("path", b"other/name"),
            ])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        builder.append_data(&mut header, "x", &b"ab"[..]).unwrap();
        let (entry, content) = read_all(&builder.into_inner().unwrap()).unwrap().remove(0);
        assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"value\n\0\xff".to_vec())]);
        assert_eq!((entry.mtime, entry.uid), ((-2, 750_000_000), 100_000));
        assert_eq!((&entry.path[..], &content[..]), (&b"other/name"[..], &b"ab"[..]));
    }

    #[test]
    fn damage_is_found() {
        let good = file("a", &[b'x'; 1000]);
        for cut in [1, 511, 512 + 3, 1024 + 100] {
            assert!(read_all(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut flipped = good.clone();
        flipped[5] ^= 1;
        assert!(matches!(read_all(&flipped), Err(TarError::Malformed(_))));
        assert!(read_all(&[b'x'; 512]).is_err());
        assert!(read_all(b"").unwrap().is_empty());
    }

    #[test]
    fn extension_bombs_and_sparse_files_are_refused() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(1 << 30);
        header.set_cksum();
        let endless = header.as_bytes().chain(io::repeat(b'x'));
        assert!(matches!(TarReader::new(endless).next(), Err(TarError::Unsupported(_))));
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(0);
        header.set_cksum();
        assert!(matches!(read_all(header.as_bytes()), Err(TarError::Unsupported(_))));
    }

    #[test]
    fn many_small_extension_headers_are_a_bomb_too() {
        for (kind, between) in [(b'x', false), (b'g', false), (b'g', true)] {
            let mut archive = Vec::new();
            for number in 0..40 {
                let record = |length: usize| {
                    format!("{length} SCHILY.xattr.user.{number:02}={}\n", "x".repeat(60_000))
                };
                let text = record(record(60_000).len());
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(tar::EntryType::new(kind));
                header.set_size(text.len() as u64);
                header.set_cksum();
                archive.extend_from_slice(header.as_bytes());
                archive.extend_from_slice(text.as_bytes());
                archive.resize(archive.len().next_multiple_of(512), 0);
                if between {
                    archive.extend_from_slice(&file("f", b"")[..512]);
                }
            }
            archive.extend(file("f", b""));
            let result = read_all(&archive);
            assert!(matches!(result, Err(TarError::Unsupported(_))), "{kind} {between}: {result:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut block in proptest::collection::vec(any::<u8>(), 512..1600), kind in any::<u8>()) {
            block[156] = kind;
            let sum: u32 = block[..512].iter().enumerate()
                .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            block[124..136].copy_from_slice(b"00000000100\0");
            let _ = read_all(&block);
        }
    }
}
