//! Copies of images: shared blocks where the file system can, else the bytes that are there.

use crate::error::{During, Fault};
use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};
use std::{
    fs::File,
    io,
    path::Path,
    time::{Duration, Instant},
};

/// How a copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    /// Its blocks are the original's until one of them changes.
    Shared,
    /// It has blocks of its own.
    Whole,
}

/// Bytes copied before progress is looked at.
const STEP: usize = 16 << 20;
/// How often progress is told.
const TELL: Duration = Duration::from_secs(10);

/// Makes `new`, which must be empty, share the blocks of `old`; `false` if the file system cannot.
///
/// # Errors
/// If the disk fails.
pub(super) fn share(old: &File, new: &File) -> io::Result<bool> {
    match ioctl_ficlone(new, old) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes `to` a copy of `from`, and flushes it. Holes stay holes.
///
/// # Errors
/// If `to` is there already, or the disk fails or is full.
pub(super) fn copy(from: &Path, to: &Path) -> Result<Copied, Fault> {
    let what = || format!("copy {} to {}", from.display(), to.display());
    let old = File::open(from).during(what)?;
    let new = File::options().read(true).write(true).create_new(true).open(to).during(what)?;
    let copied = if share(&old, &new).during(what)? {
        Copied::Shared
    } else {
        copy_data(&old, &new, &mut Progress::new(from)).during(what)?;
        Copied::Whole
    };
    new.sync_all().during(what)?;
    Ok(copied)
}

/// Copies what is not a hole.
pub(super) fn copy_data(old: &File, new: &File, progress: &mut Progress) -> io::Result<()> {
    let size = old.metadata()?.len();
    new.set_len(size)?;
    let mut at = 0;
    while at < size {
        let data = match seek(old, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found?,
        };
        let hole = seek(old, SeekFrom::Hole(data))?;
        at = data;
        while at < hole {
            let length = usize::try_from(hole - at).unwrap_or(STEP).min(STEP);
            let (mut from, mut to) = (at, at);
            let done = copy_file_range(old, Some(&mut from), new, Some(&mut to), length)?;
            if done == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter meanwhile"));
            }
            at += done as u64;
            progress.add(done as u64);
        }
    }
    Ok(())
}

/// Tells in the log how far a long copy is.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    bytes: u64,
    told: Instant,
}

impl Progress {
    pub(super) fn new(what: &Path) -> Self {
        Self { what: what.display().to_string(), bytes: 0, told: Instant::now() }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            tracing::info!(from = %self.what, bytes = self.bytes, "copying");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileExt, MetadataExt},
    };

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(&[7; 100_000], 33 << 20).unwrap();
        file.sync_all().unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "holes are kept");
        assert!(copy(&from, &to).is_err(), "nothing is overwritten");
    }
}
