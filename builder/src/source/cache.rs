//! The content-addressed cache: what was downloaded once is never downloaded again.
//!
//! ```text
//! blobs/sha256/<hex>     a download, verified; the name is its SHA-256
//! tar/<hex>.tar          the decompressed archive that was in the blob <hex>
//! ```
//!
//! A file under its final name is complete. While it is made it has `.part` appended, and an exclusive lock that
//! ends with the process, so that builds at the same time wait for each other instead of doing the same twice,
//! and a part that an interrupted build left is taken up again.

use cairn_contract::digest::Sha256Digest;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The machine's storage failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No space, or no quota.
    #[error("the disk is full: cannot write {path}; free some space, or name another place with --cache")]
    Full {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Neither variable that would name the cache directory is set.
    #[error("no cache directory: neither XDG_CACHE_HOME nor HOME is set to an absolute path")]
    NoHome,
}

impl StorageError {
    /// For `map_err`: which file an I/O error was about.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// The cache directory.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Uses `root`, an absolute path, and makes it when it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(root: PathBuf) -> Result<Self, StorageError> {
        for directory in ["blobs/sha256", "tar"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(StorageError::at(&path))?;
        }
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `$XDG_CACHE_HOME/cairn`, or `~/.cache/cairn`.
    ///
    /// # Errors
    /// Neither variable holds an absolute path.
    pub fn default_root() -> Result<PathBuf, StorageError> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|base| base.join("cairn"))
            .ok_or(StorageError::NoHome)
    }

    /// Where the blob with this digest is, once it is here.
    pub fn blob(&self, digest: &Sha256Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Where the decompressed archive out of the blob with this digest is, once it was unpacked.
    pub fn tar(&self, digest: &Sha256Digest) -> PathBuf {
        self.root.join("tar").join(format!("{}.tar", digest.hex()))
    }

    /// Puts bytes in, under their digest.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha256Digest, StorageError> {
        use sha2::Digest as _;
        let digest = Sha256Digest::new(sha2::Sha256::digest(bytes).into());
        let path = self.blob(&digest);
        if let Claim::Mine(mut part) = Part::claim(&path)? {
            part.restart()?;
            part.file.write_all(bytes).map_err(StorageError::at(&path))?;
            part.finish()?;
        }
        Ok(digest)
    }
}

/// The answer to a wish to make a file.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Somebody already made it.
    Ready,
    /// Make it.
    Mine(Part),
}

/// A file being made, locked; what an earlier attempt wrote is still in it.
#[derive(Debug)]
pub(crate) struct Part {
    /// Open for reading and writing, at its beginning.
    pub(crate) file: File,
    part: PathBuf,
    path: PathBuf,
}

impl Part {
    /// Claims `path`, waiting for another process that makes the same file.
    pub(crate) fn claim(path: &Path) -> Result<Claim, StorageError> {
        Self::lock(path, true).map(|claim| claim.unwrap_or(Claim::Ready))
    }

    /// As [`Self::claim`], but `None` when another process or thread is making it now.
    pub(crate) fn try_claim(path: &Path) -> Result<Option<Claim>, StorageError> {
        Self::lock(path, false)
    }

    fn lock(path: &Path, wait: bool) -> Result<Option<Claim>, StorageError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        loop {
            if path.exists() {
                return Ok(Some(Claim::Ready));
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&part)
                .map_err(StorageError::at(&part))?;
            if wait {
                file.lock().map_err(StorageError::at(&part))?;
            } else {
                match file.try_lock() {
                    Ok(()) => {}
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(error)) => return Err(StorageError::at(&part)(error)),
                }
            }
            // Its maker may have renamed or removed the file between our open and our lock.
            let ours = file.metadata().map_err(StorageError::at(&part))?;
            if fs::metadata(&part).is_ok_and(|now| now.ino() == ours.ino() && now.dev() == ours.dev()) {
                return Ok(Some(Claim::Mine(Self { file, part, path: path.to_owned() })));
            }
        }
    }

    /// Forgets what was written.
    pub(crate) fn restart(&mut self) -> Result<(), StorageError> {
        use std::io::Seek as _;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(StorageError::at(&self.part))
    }

    /// For `map_err` of writes into it.
    pub(crate) fn fault(&self, error: io::Error) -> StorageError {
        StorageError::at(&self.part)(error)
    }

    /// Gives the file its final name, its bytes on the disk first.
    pub(crate) fn finish(self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::at(&self.part))?;
        self.rename()
    }

    /// As [`Self::finish`] for what can be made again without the network and whose readers notice truncation.
    pub(crate) fn rename(self) -> Result<(), StorageError> {
        fs::rename(&self.part, &self.path).map_err(StorageError::at(&self.path))
    }

    /// Gives up and removes it.
    pub(crate) fn discard(self) {
        // Nothing is lost when this fails: the next claim starts from what is there.
        let _ = fs::remove_file(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_a_part_survives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let Claim::Mine(mut first) = Part::claim(&path).unwrap() else { panic!("nothing is there yet") };
        first.file.write_all(b"half").unwrap();
        assert!(Part::try_claim(&path).unwrap().is_none(), "it is being made");
        drop(first);

        let Claim::Mine(second) = Part::claim(&path).unwrap() else { panic!("it was not finished") };
        assert_eq!(second.file.metadata().unwrap().len(), 4, "the part is kept for resuming");
        assert!(!path.exists());
        second.finish().unwrap();
        assert!(matches!(Part::claim(&path).unwrap(), Claim::Ready));
        assert_eq!(fs::read(&path).unwrap(), b"half");
    }

    #[test]
    fn a_waiter_does_not_write_into_a_finished_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let Claim::Mine(mut first) = Part::claim(&path).unwrap() else { panic!("nothing is there yet") };
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || matches!(Part::claim(&path).unwrap(), Claim::Ready)
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        first.file.write_all(b"whole").unwrap();
        first.finish().unwrap();
        assert!(waiter.join().unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn a_full_disk_is_named_so() {
        let full = Path::new("/dev/full");
        let error = fs::write(full, b"x").unwrap_err();
        assert!(StorageError::at(full)(error).to_string().starts_with("the disk is full"));
    }
}
