//! Lock files, flock(2): the kernel releases them however their owner ends.
//!
//! That may take a moment, as may a child's way from fork to exec, so a daemon that replaces a killed one waits a
//! little. Nothing that is executed inherits a lock. A lock file is root's alone, since whoever can open it can lock
//! it; and it stays, since who locks a file that is being removed has locked nothing.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

/// How long, in all, a daemon waits for the one it replaces.
const ATTEMPTS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// Opens a lock file, which need not be there.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Locks it, or says that it still has it; `false` when another has.
pub(crate) fn take(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Asks until something is had, for two seconds; `false` when it is not.
pub(crate) async fn patiently(mut had: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    for _ in 0..ATTEMPTS {
        if had()? {
            return Ok(true);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(false)
}
