//! A daemon's directories, and that they are its own.

use crate::lock;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// Why a directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon has it.
    #[error("another {program} uses {}: stop it, or give this one a `{key}` of its own", directory.display())]
    Taken {
        /// This program's name.
        program: &'static str,
        /// The directory.
        directory: PathBuf,
        /// The key of the configuration that names it.
        key: &'static str,
    },
    /// A directory or the lock file cannot be made or locked.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// Directories that are one daemon's for as long as this lives.
#[derive(Debug)]
pub struct State {
    _locks: Vec<File>,
}

impl State {
    /// Makes the directory of what survives a reboot and that of what does not, and keeps a second daemon from either.
    ///
    /// # Errors
    /// If another daemon keeps one of them for two seconds, or something cannot be made.
    pub async fn claim(program: &'static str, state: &Path, run: &Path) -> Result<Self, StateError> {
        for directory in [state, run] {
            fs::create_dir_all(directory).map_err(|error| StateError::Io(directory.to_owned(), error))?;
        }
        let mut locks = vec![take(program, state, "state").await?];
        let real = |directory: &Path| {
            directory.canonicalize().map_err(|error| StateError::Io(directory.to_owned(), error))
        };
        // Both may be one directory.
        if real(state)? != real(run)? {
            locks.push(take(program, run, "run").await?);
        }
        Ok(Self { _locks: locks })
    }
}

async fn take(program: &'static str, directory: &Path, key: &'static str) -> Result<File, StateError> {
    let path = directory.join("lock");
    let failed = |error| StateError::Io(path.clone(), error);
    let file = lock::open(&path).map_err(failed)?;
    match lock::patiently(|| lock::take(&file)).await.map_err(failed)? {
        true => Ok(file),
        false => Err(StateError::Taken { program, directory: directory.to_owned(), key }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_directory_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let held = State::claim("cairn-x", &at("lib/x"), &at("run/x")).await.unwrap();
        for (state, run, taken, key) in
            [("lib/x", "run/y", "lib/x", "state"), ("lib/y", "run/x", "run/x", "run")]
        {
            let refused = State::claim("cairn-x", &at(state), &at(run)).await.unwrap_err().to_string();
            let taken = at(taken).display().to_string();
            let text =
                format!("another cairn-x uses {taken}: stop it, or give this one a `{key}` of its own");
            assert_eq!(refused, text);
        }
        drop(held);
        State::claim("cairn-x", &at("lib/x"), &at("run/x")).await.unwrap();
        let one = State::claim("cairn-x", &at("one"), &at("one")).await.unwrap();
        assert!(State::claim("cairn-x", &at("two"), &at("one")).await.is_err());
        drop(one);
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
