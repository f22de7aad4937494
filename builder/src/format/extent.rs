//! Bytes that can be read at any offset: files, parts of files, and memory.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

/// Something of known length that can be read at any offset, by many threads at once.
pub trait ReadAt: Sync {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when that reaches past the end; otherwise the read's own failure.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

fn past_the_end(offset: u64, length: usize, size: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("{length} bytes at offset {offset} reach past the end, which is at {size}"),
    )
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or_else(|| past_the_end(offset, buffer.len(), self.size()))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

impl ReadAt for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        <[u8]>::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

/// A contiguous part of an open file; cheap to clone.
#[derive(Debug, Clone)]
pub struct Extent {
    file: Arc<File>,
    offset: u64,
    length: u64,
}

impl Extent {
    /// The whole of the file or block device at `path`, as long as it is now.
    ///
    /// # Errors
    /// Whatever opening the file or asking for its length fails with.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        // A block device's metadata does not tell its length; its end does.
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Self { file: Arc::new(file), offset: 0, length })
    }

    /// `length` bytes from `offset` on; `None` when the extent does not hold them all.
    #[must_use]
    pub fn part(&self, offset: u64, length: u64) -> Option<Self> {
        let end = offset.checked_add(length)?;
        (end <= self.length).then(|| Self {
            file: Arc::clone(&self.file),
            offset: self.offset + offset,
            length,
        })
    }
}

impl ReadAt for Extent {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buffer.len() as u64) {
            Some(end) if end <= self.length => self.file.read_exact_at(buffer, self.offset + offset),
            _ => Err(past_the_end(offset, buffer.len(), self.length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn parts_nest_and_never_reach_outside() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let inner = Extent::open(file.path()).unwrap().part(2, 6).unwrap().part(1, 4).unwrap();
        let mut four = [0; 4];
        inner.read_exact_at(&mut four, 0).unwrap();
        assert_eq!(&four, b"3456");
        assert_eq!(inner.read_exact_at(&mut four, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(inner.part(1, 4).is_none());
        assert!(inner.part(u64::MAX, 2).is_none());
    }

    #[test]
    fn memory_refuses_reads_past_its_end() {
        let bytes = vec![1, 2, 3];
        let mut two = [0; 2];
        bytes.read_exact_at(&mut two, 1).unwrap();
        assert_eq!(two, [2, 3]);
        assert!(bytes.read_exact_at(&mut two, 2).is_err());
        assert!(bytes.read_exact_at(&mut two, u64::MAX).is_err());
    }
}
