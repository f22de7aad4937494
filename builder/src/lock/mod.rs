//! The lock: what a profile's wishes came down to, by digest. One profile and one lock make one image.
//!
//! A build uses the lock as it is. Packages are resolved anew only when the wishes changed (the lock holds a digest
//! of them), when the user asks for it, or when the mirror no longer has a locked file; each time it is said
//! aloud and the lock is rewritten. [`Policy::Locked`] refuses instead. [`settle`] is that whole procedure; its answer,
//! [`Locked`], is the proof that every package is in the cache.

mod document;

pub use document::{Lock, LockedImage, LockedPackage, LockedUrl};

use crate::source::{
    deb::{self, Area, DebError, Mirror, ResolveError},
    fetch::{Download, FetchError, Fetcher},
    progress::{Event, Progress},
};
use cairn_contract::digest::Sha256Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

/// What a profile wishes, as far as it must be resolved or pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wishes {
    /// Debian release: `trixie`.
    pub suite: String,
    /// Debian's name of the architecture: `amd64`.
    pub architecture: String,
    /// Packages.
    pub packages: BTreeSet<String>,
    /// Packages left out of the closure.
    pub excluded: BTreeSet<String>,
    /// Whether all essential packages are wanted too.
    pub essential: bool,
    /// Files by URL, with the digest the profile pins.
    pub urls: Vec<LockedUrl>,
    /// Container images, with the digest of their manifests.
    pub images: Vec<LockedImage>,
}

impl Wishes {
    /// Digest of what package resolution depends on: suite, packages, exclusions. URLs and images are pinned by the
    /// profile itself.
    pub fn digest(&self) -> Sha256Digest {
        // A form of its own, so that a new field elsewhere does not make every lock stale.
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(&self.suite);
        add(&self.architecture);
        add(if self.essential { "essential" } else { "" });
        for set in [&self.packages, &self.excluded] {
            add(&set.len().to_string());
            set.iter().for_each(|name| add(name));
        }
        Sha256Digest::new(hash.finalize().into())
    }
}

/// What to do when the lock does not settle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Use the lock; resolve what it does not settle, and rewrite it.
    Prefer,
    /// Use the lock or fail: `--locked`.
    Locked,
    /// Resolve everything anew: `lock update`.
    Update,
}

/// Why nothing is locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file is not a lock.
    #[error("{path}: {why}; remove it and build again to resolve anew")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file cannot be read or written.
    #[error("cannot use the lock {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// `--locked`, and the lock does not do.
    #[error(
        "{path} {why}, and --locked forbids to change it; build without --locked, and commit the new lock"
    )]
    Stale {
        /// The file.
        path: PathBuf,
        /// What is the matter: a predicate of the file.
        why: String,
    },
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] DebError),
    /// The wishes cannot be met.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A package cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// A lock whose packages are all in the cache, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    lock: Lock,
    changes: Vec<String>,
}

impl Locked {
    /// The lock.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// What is different from the lock that was there before, one line each for people.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// Digests of the packages, in the lock's order.
    pub fn package_digests(&self) -> Vec<Sha256Digest> {
        self.lock.packages.iter().map(|package| package.digest).collect()
    }
}

/// Brings lock, wishes and cache into agreement. `path` is the lock file.
///
/// # Errors
/// The policy forbids a change that is needed, the wishes cannot be met, or something cannot be had.
pub fn settle(
    path: &Path,
    wishes: &Wishes,
    policy: Policy,
    mirror: &Mirror,
    fetcher: &Fetcher,
    progress: &Progress<'_>,
) -> Result<Locked, LockError> {
    let held = Lock::load(path)?;
    let reason = match &held {
        None => Some("does not exist".to_owned()),
        Some(lock) => stale(lock, wishes),
    };
    let reason = match (policy, reason) {
        (Policy::Locked, Some(why)) => return Err(LockError::Stale { path: path.to_owned(), why }),
        (Policy::Update, _) => Some("is to be updated".to_owned()),
        (_, reason) => reason,
    };
    if let (Some(held), None) = (&held, &reason) {
        match fetch(held, mirror, fetcher, progress) {
            Ok(()) => {
                // What the profile pins itself is only copied.
                let lock = Lock { urls: wishes.urls.clone(), images: wishes.images.clone(), ..held.clone() };
                let changes = changes(Some(held), &lock);
                if lock != *held {
                    if policy == Policy::Locked {
                        let why = "does not have the profile's URLs and images".to_owned();
                        return Err(LockError::Stale { path: path.to_owned(), why });
                    }
                    lock.save(path)?;
                }
                return Ok(Locked { lock, changes });
            }
            Err(error) if error.is_not_found() && policy != Policy::Locked => {
                progress(Event::Notice(&format!(
                    "the mirror no longer has what {} names, so it is resolved anew: {error}",
                    path.display()
                )));
            }
            Err(error) if error.is_not_found() => {
                let why = format!("names what the mirror no longer has ({error})");
                return Err(LockError::Stale { path: path.to_owned(), why });
            }
            Err(error) => return Err(error.into()),
        }
    } else if let Some(why) = reason.filter(|_| held.is_some()) {
        progress(Event::Notice(&format!("{} {why}: resolving", path.display())));
    }
    let lock = resolve(wishes, mirror, fetcher, progress)?;
    fetch(&lock, mirror, fetcher, progress)?;
    lock.save(path)?;
    let changes = changes(held.as_ref(), &lock);
    if held.is_some() {
        for change in &changes {
            progress(Event::Notice(change));
        }
    }
    Ok(Locked { lock, changes })
}

/// Why a lock does not fit the wishes.
fn stale(lock: &Lock, wishes: &Wishes) -> Option<String> {
    (lock.wishes != wishes.digest())
        .then(|| "was made for other packages than the profile names now".to_owned())
}

fn resolve(
    wishes: &Wishes,
    mirror: &Mirror,
    fetcher: &Fetcher,
    progress: &Progress<'_>,
) -> Result<Lock, LockError> {
    let archive = deb::Archive::load(fetcher, mirror, &wishes.suite, &wishes.architecture, progress)?;
    let wanted: Vec<_> = wishes.packages.iter().cloned().collect();
    let request = deb::Request {
        wanted: &wanted,
        excluded: &wishes.excluded,
        essential: wishes.essential,
        architecture: &wishes.architecture,
    };
    let resolution = deb::resolve(&archive.index, request)?;
    for conflict in &resolution.conflicts {
        let deb::Conflict { package, relation, with } = conflict;
        progress(Event::Notice(&format!("{package} declares a conflict with {relation}, which {with} is")));
    }
    Ok(Lock {
        version: document::VERSION,
        suite: wishes.suite.clone(),
        architecture: wishes.architecture.clone(),
        source_date_epoch: archive.date,
        wishes: wishes.digest(),
        packages: resolution.packages.into_iter().map(LockedPackage::from).collect(),
        urls: wishes.urls.clone(),
        images: wishes.images.clone(),
    })
}

fn fetch(lock: &Lock, mirror: &Mirror, fetcher: &Fetcher, progress: &Progress<'_>) -> Result<(), FetchError> {
    let downloads: Vec<_> = lock
        .packages
        .iter()
        .map(|package| Download {
            what: format!("{} {}", package.name, package.version),
            url: format!("{}/{}", mirror.uri(package.archive), package.filename),
            digest: package.digest,
            size: Some(package.size),
        })
        .collect();
    fetcher.blobs(&downloads, progress).map(drop)
}

/// What is different, one line each.
fn changes(old: Option<&Lock>, new: &Lock) -> Vec<String> {
    fn versions(lock: &Lock) -> BTreeMap<&str, &str> {
        lock.packages.iter().map(|package| (package.name.as_str(), package.version.as_str())).collect()
    }
    let before = old.map(versions).unwrap_or_default();
    let after = versions(new);
    let names: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    names
        .into_iter()
        .filter_map(|name| match (before.get(name), after.get(name)) {
            (None, Some(version)) => Some(format!("{name} {version} is new")),
            (Some(version), None) => Some(format!("{name} {version} is gone")),
            (Some(old), Some(new)) if old != new => Some(format!("{name} {old} became {new}")),
            _ => None,
        })
        .collect()
}

impl From<&deb::Package> for LockedPackage {
    fn from(package: &deb::Package) -> Self {
        Self {
            name: package.name.to_string(),
            version: package.version.to_string(),
            architecture: package.architecture.to_string(),
            source: package.source.to_string(),
            archive: package.area,
            filename: package.filename.to_string(),
            size: package.size,
            digest: package.digest,
        }
    }
}

/// Which archive a package without a word about it is in.
pub(crate) fn main_archive() -> Area {
    Area::Main
}

#[cfg(test)]
mod tests;
