//! The lock file: TOML, one table a package, so that a change shows as what it is in a diff.

use super::LockError;
use crate::source::deb::Area;
use cairn_contract::digest::Sha256Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The form of [`Lock`].
pub(super) const VERSION: u32 = 1;

const HEADER: &str =
    "# Written by `cairn`; not meant to be edited. Commit it: it makes the image what it is.\n\n";

/// A lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Form of this document: 1.
    pub version: u32,
    /// Debian release.
    pub suite: String,
    /// Debian's name of the architecture.
    pub architecture: String,
    /// Every timestamp in the image, seconds since 1970: the date of the newest Release document.
    pub source_date_epoch: u64,
    /// Digest of the wishes that were resolved, [`super::Wishes::digest`].
    pub wishes: Sha256Digest,
    /// Debian packages, by name.
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
    /// Files by URL.
    #[serde(default, rename = "url", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<LockedUrl>,
    /// Container images.
    #[serde(default, rename = "image", skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<LockedImage>,
}

/// One Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Binary package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Source package.
    pub source: String,
    /// Which of the mirror's archives has it.
    #[serde(default = "super::main_archive", skip_serializing_if = "is_main")]
    pub archive: Area,
    /// Path below the archive's URI.
    pub filename: String,
    /// Bytes of the .deb.
    pub size: u64,
    /// SHA-256 of the .deb.
    pub digest: Sha256Digest,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_main(area: &Area) -> bool {
    *area == Area::Main
}

/// One file by URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedUrl {
    /// Where it is.
    pub url: String,
    /// Its SHA-256.
    pub digest: Sha256Digest,
}

/// One container image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// Full reference.
    pub name: String,
    /// Digest of its manifest.
    pub manifest: Sha256Digest,
}

impl Lock {
    /// Reads a lock file; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no lock.
    pub fn load(path: &Path) -> Result<Option<Self>, LockError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LockError::Io { path: path.to_owned(), source }),
        };
        let malformed = |why: String| LockError::Malformed { path: path.to_owned(), why };
        let lock: Self = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if lock.version != VERSION {
            return Err(malformed(format!("version {} of the lock is not known", lock.version)));
        }
        let escapes = |name: &str| name.starts_with('/') || name.split('/').any(|part| part == "..");
        match lock.packages.iter().find(|package| escapes(&package.filename)) {
            Some(package) => Err(malformed(format!("`{}` leads out of the archive", package.filename))),
            None => Ok(Some(lock)),
        }
    }

    /// The text of the lock file.
    ///
    /// # Errors
    /// A number is beyond what TOML can hold.
    pub fn to_toml(&self) -> Result<String, LockError> {
        let text = toml::to_string(self)
            .map_err(|error| LockError::Malformed { path: PathBuf::new(), why: error.to_string() })?;
        Ok(format!("{HEADER}{text}"))
    }

    /// Digest of the lock file's text.
    ///
    /// # Errors
    /// As [`Self::to_toml`].
    pub fn digest(&self) -> Result<Sha256Digest, LockError> {
        Ok(Sha256Digest::new(Sha256::digest(self.to_toml()?).into()))
    }

    /// Writes the lock file, all or nothing.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), LockError> {
        let text = self.to_toml()?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
        written.map_err(|source| {
            // What is left of a failed write is of no use, and its own failure of no interest.
            let _ = fs::remove_file(&beside);
            LockError::Io { path: path.to_owned(), source }
        })
    }
}
