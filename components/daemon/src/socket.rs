//! A daemon's places: the state directory that is its own, the sockets it listens on, and the signals that end it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

/// How long, in all, a daemon waits for the one it replaces.
const LOCK_ATTEMPTS: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why a state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("another {program} uses {state}: stop it, or give this one a `state` of its own")]
    Taken {
        /// This program's name.
        program: &'static str,
        /// The directory.
        state: PathBuf,
    },
    /// The lock file cannot be made or locked.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// Keeps a second daemon from the same state. The kernel releases it however this one ends; that may take a moment,
/// so a daemon that replaces a killed one waits a little.
///
/// # Errors
/// If another daemon keeps it for two seconds, or the file cannot be made.
pub async fn lock(program: &'static str, state: &Path) -> Result<fs::File, LockError> {
    let path = state.join("lock");
    let file = fs::File::create(&path).map_err(|error| LockError::Io(path.clone(), error))?;
    for _ in 0..LOCK_ATTEMPTS {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_PAUSE).await,
            Err(error) => return Err(LockError::Io(path, error.into())),
        }
    }
    Err(LockError::Taken { program, state: state.to_path_buf() })
}

/// A socket, root's alone from its first moment: it is bound under another name in a directory that is root's,
/// and renamed once its mode is right. That name begins with a dot, which the kubelet overlooks in its plugin directories.
///
/// # Errors
/// If its directory cannot be made, or it cannot be bound there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// Ends at SIGTERM or SIGINT.
pub async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_directory_has_one_owner() {
        let state = tempfile::tempdir().unwrap();
        let held = lock("cairn-x", state.path()).await.unwrap();
        let refused = lock("cairn-x", state.path()).await.unwrap_err().to_string();
        assert!(refused.starts_with("another cairn-x uses "), "{refused}");
        drop(held);
        lock("cairn-x", state.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/x.sock");
        let _first = listen(&path).unwrap();
        let _second = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path().join("run")).unwrap().count(), 1);
    }
}
