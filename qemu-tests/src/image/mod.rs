//! The image under test: an output directory of the builder, opened for reading.
//!
//! Everything the harness knows about an image it learns from what ships: the manifest beside it, the UKI
//! ([`uki`]) and the root file system in the disk ([`root`]).

pub mod root;
pub mod uki;

use crate::error::{Error, Fault, UserError};
use cairn_contract::{
    digest::Sha256Digest,
    manifest::{MANIFEST_FORMAT, Manifest, OutputFile, Partition, PartitionRole},
};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// An image whose files are there and as long as its manifest says.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest.
    pub manifest: Manifest,
    /// The disk.
    pub raw: PathBuf,
    /// The UKI.
    pub uki: PathBuf,
    raw_digest: Sha256Digest,
}

impl Image {
    /// Opens `path`: the output directory, or a file in it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Err(UserError::NoImage { path: path.to_owned() }.into());
        }
        let directory = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let manifest = read_manifest(&directory.join("manifest.json"))?;
        let raw = listed(&manifest, directory, "raw", "the disk image")?;
        let uki = listed(&manifest, directory, "efi", "the unified kernel image")?;
        for (file, path) in [&raw, &uki] {
            let found = path.metadata().map_err(Fault::io(format!("read {}", path.display())))?.len();
            if found != file.size {
                return Err(UserError::WrongLength { path: path.clone(), found, wanted: file.size }.into());
            }
        }
        Ok(Self { raw_digest: raw.0.digest, raw: raw.1, uki: uki.1, manifest })
    }

    /// SHA-256 of the disk as the manifest has it.
    pub fn recorded_digest(&self) -> Sha256Digest {
        self.raw_digest
    }

    /// SHA-256 of the disk as it is now.
    pub async fn hash(&self) -> Result<Sha256Digest, Fault> {
        let path = self.raw.clone();
        let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
        hashed
            .map_err(std::io::Error::other)
            .and_then(std::convert::identity)
            .map_err(Fault::io(format!("read {}", self.raw.display())))
    }

    /// Hashes the disk and compares with the manifest.
    pub async fn verify_digest(&self) -> Result<Sha256Digest, Error> {
        let found = self.hash().await?;
        if found == self.raw_digest {
            Ok(found)
        } else {
            Err(UserError::WrongDigest {
                path: self.raw.clone(),
                found: found.to_string(),
                wanted: self.raw_digest.to_string(),
            }
            .into())
        }
    }

    /// The partition with that role.
    pub fn partition(&self, role: PartitionRole) -> Result<&Partition, UserError> {
        self.manifest.partitions.iter().find(|partition| partition.role == role).ok_or_else(|| {
            UserError::BadImage {
                path: self.raw.clone(),
                reason: format!("the manifest has no partition {role:?}"),
            }
        })
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, Error> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(UserError::NoManifest { path: path.to_owned() }.into());
        }
        Err(error) => return Err(Fault::io(format!("read {}", path.display()))(error).into()),
    };
    let bad = |reason: String| UserError::BadManifest { path: path.to_owned(), reason };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if manifest.format != MANIFEST_FORMAT {
        return Err(
            bad(format!("it has form {}, this version reads {MANIFEST_FORMAT}", manifest.format)).into()
        );
    }
    Ok(manifest)
}

fn listed(
    manifest: &Manifest,
    directory: &Path,
    extension: &str,
    what: &'static str,
) -> Result<(OutputFile, PathBuf), UserError> {
    let file = manifest
        .files
        .iter()
        .find(|file| Path::new(&file.name).extension().is_some_and(|e| e == extension))
        .ok_or_else(|| UserError::MissingFile { path: directory.join(format!("*.{extension}")), what })?;
    let path = directory.join(&file.name);
    if path.is_file() { Ok((file.clone(), path)) } else { Err(UserError::MissingFile { path, what }) }
}

fn hash_file(path: &Path) -> std::io::Result<Sha256Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Sha256Digest::new(hasher.finalize().into()));
        }
        hasher.update(&buffer[..count]);
    }
}
