//! A daemon's directories, and that its state is its own.

use crate::lock;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Why a state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon has it.
    #[error("another {program} uses {state}: stop it, or give this one a `state` of its own")]
    Taken {
        /// This program's name.
        program: &'static str,
        /// The directory.
        state: PathBuf,
    },
    /// A directory or the lock file cannot be made or locked.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// A state directory that is one daemon's for as long as this lives.
#[derive(Debug)]
pub struct State {
    _lock: File,
}

impl State {
    /// Makes the directory of what survives a reboot and that of what does not, and keeps a second daemon from the first.
    ///
    /// # Errors
    /// If another daemon keeps it for two seconds, or something cannot be made.
    pub async fn claim(program: &'static str, state: &Path, run: &Path) -> Result<Self, StateError> {
        for directory in [state, run] {
            fs::create_dir_all(directory).map_err(|error| StateError::Io(directory.to_owned(), error))?;
        }
        let path = state.join("lock");
        let failed = |error| StateError::Io(path.clone(), error);
        let file = lock::open(&path).map_err(failed)?;
        match lock::patiently(|| lock::take(&file)).await.map_err(failed)? {
            true => Ok(Self { _lock: file }),
            false => Err(StateError::Taken { program, state: state.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_directory_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let (state, run) = (directory.path().join("lib/x"), directory.path().join("run/x"));
        let held = State::claim("cairn-x", &state, &run).await.unwrap();
        let refused = State::claim("cairn-x", &state, &run).await.unwrap_err().to_string();
        assert!(refused.starts_with("another cairn-x uses "), "{refused}");
        drop(held);
        State::claim("cairn-x", &state, &run).await.unwrap();
        assert!(run.is_dir());
    }

    #[tokio::test]
    async fn errors_say_where() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = State::claim("cairn-x", &file, directory.path()).await.unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{}: ", file.display())), "{refused}");
    }
}
