//! Reading the contents a tree points at, in pieces and from many threads.

use crate::tree::Content;
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// How many files are kept open. Trees come from few large archives and many small files: the archives should
/// stay open, and the process's limit of descriptors (1024 by default) must be out of sight.
const OPEN_FILES: usize = 128;

/// How much of a content is held at once when it is copied.
const COPY_BUFFER: usize = 256 * 1024;

/// A file that a tree's content lies in could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct ReadError {
    /// The file; empty for contents in memory.
    pub path: PathBuf,
    /// What the system said. Unexpected end: the file is shorter than when the tree was made.
    pub source: io::Error,
}

/// Copying failed on one of its two sides.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The content could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The output could not be written.
    #[error(transparent)]
    Write(io::Error),
}

/// Files opened on first use and shared by all readers.
#[derive(Debug, Default)]
pub struct OpenFiles {
    files: Mutex<HashMap<Arc<PathBuf>, Arc<File>>>,
}

impl OpenFiles {
    fn get(&self, path: &Arc<PathBuf>) -> io::Result<Arc<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path) {
            return Ok(Arc::clone(file));
        }
        if files.len() >= OPEN_FILES {
            files.clear();
        }
        let file = Arc::new(File::open(path.as_path())?);
        files.insert(Arc::clone(path), Arc::clone(&file));
        Ok(file)
    }

    /// Fills `buffer` with the content's bytes from `offset` on.
    ///
    /// # Errors
    /// [`ReadError`], also when the content has fewer bytes.
    pub fn read_exact(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let end = offset.checked_add(buffer.len() as u64);
        let too_short =
            || io::Error::new(io::ErrorKind::UnexpectedEof, "the content is shorter than was said");
        match content {
            Content::Bytes(bytes) => {
                use super::extent::ReadAt;
                bytes
                    .read_exact_at(buffer, offset)
                    .map_err(|source| ReadError { path: PathBuf::new(), source })
            }
            Content::Range { path, offset: start, length } => {
                let mut read = || {
                    if end.is_none_or(|end| end > *length) {
                        return Err(too_short());
                    }
                    let position = start.checked_add(offset).ok_or_else(too_short)?;
                    self.get(path)?.read_exact_at(buffer, position)
                };
                read().map_err(|source| ReadError { path: path.to_path_buf(), source })
            }
        }
    }

    /// Writes the whole content to `out`.
    ///
    /// # Errors
    /// [`CopyError`] says which side failed.
    pub fn copy(&self, content: &Content, out: &mut dyn Write) -> Result<(), CopyError> {
        if let Content::Bytes(bytes) = content {
            return out.write_all(bytes).map_err(CopyError::Write);
        }
        let length = content.len();
        let mut buffer = vec![0; COPY_BUFFER];
        let mut done = 0;
        while done < length {
            let piece = usize::try_from(length - done).unwrap_or(COPY_BUFFER).min(COPY_BUFFER);
            self.read_exact(content, done, &mut buffer[..piece])?;
            out.write_all(&buffer[..piece]).map_err(CopyError::Write)?;
            done += piece as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_copied_and_a_shrunken_file_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 1_000_000]).unwrap();
        let path = Arc::new(file.path().to_path_buf());
        let files = OpenFiles::default();
        let content = Content::Range { path: Arc::clone(&path), offset: 10, length: 999_990 };
        let mut out = Vec::new();
        files.copy(&content, &mut out).unwrap();
        assert_eq!(out, vec![7; 999_990]);

        file.as_file().set_len(500).unwrap();
        let error = files.copy(&content, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
    }

    #[test]
    fn more_files_than_are_kept_open_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let files = OpenFiles::default();
        for number in 0..OPEN_FILES + 10 {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, number.to_string()).unwrap();
            let length = number.to_string().len() as u64;
            let mut out = Vec::new();
            files.copy(&Content::Range { path: Arc::new(path), offset: 0, length }, &mut out).unwrap();
            assert_eq!(out, number.to_string().into_bytes());
        }
        assert!(files.files.lock().unwrap().len() <= OPEN_FILES);
    }
}
