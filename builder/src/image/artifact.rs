//! A finished image, opened for reading: the raw disk, its manifest, and what its partitions are.
//!
//! [`super::inspect`] and [`super::verify`] both start here. A path may name the raw image, the directory it was
//! built into, or the manifest in it. Nothing is believed yet: only what must be there to go on is read.

use crate::format::{
    extent::Extent,
    fat, gpt,
    uki::{self, InvalidPe},
    verity::RootHash,
};
use cairn_contract::manifest::{MANIFEST_FORMAT, Manifest};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Name of the manifest beside an image.
pub const MANIFEST: &str = "manifest.json";
/// Where UKIs are on the ESP.
const UKI_DIRECTORY: &str = "EFI/Linux/";

/// The image cannot even be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("there is no image at {}; `cairn build` makes one", .0.display())]
    Absent(PathBuf),
    /// A directory that no build left behind.
    #[error("{} has no {MANIFEST}; name a raw image or the directory a build wrote", .0.display())]
    NoManifest(PathBuf),
    /// The manifest is no manifest.
    #[error("{} is not a manifest this version reads: {reason}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where there is one.
        reason: String,
    },
    /// The manifest names no raw image.
    #[error("{} names no raw image", .0.display())]
    NoImage(PathBuf),
    /// The file is no disk.
    #[error("{} is not a disk image: {reason}", path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is shorter than its partition table says.
    #[error("{} is cut off: {size} bytes of {length} are there; copy or build it again", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Bytes there are.
        size: u64,
        /// Bytes there should be.
        length: u64,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// Whether there is an image, and it is not whole.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::CutOff { .. })
    }

    /// Whether the user can put it right by naming something else; otherwise the machine failed to read.
    #[must_use]
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory)
            }
            Self::CutOff { .. } => false,
            _ => true,
        }
    }
}

/// An opened image.
#[derive(Debug)]
pub struct Artifact {
    /// The raw image's path.
    pub path: PathBuf,
    /// The raw image.
    pub disk: Extent,
    /// The manifest beside it; absent for an image that was moved away from it.
    pub manifest: Option<Manifest>,
}

impl Artifact {
    /// Opens the image that `path` names.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let metadata = std::fs::metadata(path).map_err(|source| read_error(path, source))?;
        let is_manifest = path.file_name().is_some_and(|name| name == MANIFEST);
        let (path, manifest) = if metadata.is_dir() || is_manifest {
            let directory = if is_manifest { path.parent().unwrap_or(Path::new("")) } else { path };
            let place = directory.join(MANIFEST);
            let manifest =
                read_manifest(&place)?.ok_or_else(|| OpenError::NoManifest(directory.to_owned()))?;
            let raw =
                manifest.files.iter().find(|file| is_raw(&file.name)).map(|file| directory.join(&file.name));
            (raw.ok_or(OpenError::NoImage(place))?, Some(manifest))
        } else {
            let beside = path.with_file_name(MANIFEST);
            let manifest = read_manifest(&beside)?;
            // A manifest that speaks of other files is not this image's.
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            (path.to_owned(), manifest.filter(|manifest| manifest.files.iter().any(|file| file.name == name)))
        };
        let disk = Extent::open(&path).map_err(|source| read_error(&path, source))?;
        Ok(Self { path, disk, manifest })
    }

    /// The partition table.
    ///
    /// # Errors
    /// [`OpenError::NotADisk`] when neither copy is usable, [`OpenError::Read`].
    pub fn table(&self) -> Result<gpt::Read, OpenError> {
        let path = self.path.clone();
        gpt::read(&self.disk).map_err(|error| match error {
            gpt::ReadError::Read(source) => OpenError::Read { path, source },
            gpt::ReadError::CutOff { size, length } => OpenError::CutOff { path, size, length },
            none => OpenError::NotADisk { path, reason: none.to_string() },
        })
    }

    /// A partition's bytes; `None` when it reaches past the end of the image.
    #[must_use]
    pub fn part(&self, partition: &gpt::Partition) -> Option<Extent> {
        self.disk.part(partition.offset, partition.length)
    }
}

fn is_raw(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "raw") && !name.contains('/')
}

fn read_error(path: &Path, source: io::Error) -> OpenError {
    match source.kind() {
        io::ErrorKind::NotFound => OpenError::Absent(path.to_owned()),
        _ => OpenError::Read { path: path.to_owned(), source },
    }
}

fn read_manifest(path: &Path) -> Result<Option<Manifest>, OpenError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::Read { path: path.to_owned(), source }),
    };
    let refuse = |reason| Err(OpenError::Manifest { path: path.to_owned(), reason });
    match serde_json::from_slice::<Manifest>(&text) {
        Ok(manifest) if manifest.format == MANIFEST_FORMAT => Ok(Some(manifest)),
        Ok(manifest) => refuse(format!("it has form {}; this is {MANIFEST_FORMAT}", manifest.format)),
        Err(error) => refuse(error.to_string()),
    }
}

/// A unified kernel image found on the ESP.
#[derive(Debug, Clone)]
pub struct Uki {
    /// Path on the ESP.
    pub path: String,
    /// The file.
    pub bytes: Vec<u8>,
    /// Kernel command line.
    pub command_line: String,
    /// Kernel release.
    pub kernel_release: String,
    /// `roothash=` of the command line.
    pub root_hash: Option<RootHash>,
}

impl Uki {
    /// Reads one from its bytes.
    ///
    /// # Errors
    /// [`InvalidPe`].
    pub fn parse(path: String, bytes: Vec<u8>) -> Result<Self, InvalidPe> {
        let command_line = uki::command_line(&bytes)?.unwrap_or_default();
        let kernel_release = uki::sections(&bytes)?
            .iter()
            .find(|section| section.name == ".uname")
            .map(|section| String::from_utf8_lossy(section.content).into_owned())
            .unwrap_or_default();
        let root_hash = root_hash(&command_line);
        Ok(Self { path, bytes, command_line, kernel_release, root_hash })
    }
}

/// The value of `roothash=`; the last one counts, as for the initrd.
#[must_use]
pub fn root_hash(command_line: &str) -> Option<RootHash> {
    command_line
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("roothash="))
        .and_then(|hash| hash.parse().ok())
}

/// The entries of an ESP that are UKIs.
pub fn ukis(entries: &[fat::Entry]) -> impl Iterator<Item = &fat::Entry> {
    entries.iter().filter(|entry| {
        let name =
            entry.path.get(..UKI_DIRECTORY.len()).filter(|start| start.eq_ignore_ascii_case(UKI_DIRECTORY));
        name.is_some() && entry.path.to_ascii_lowercase().ends_with(".efi") && entry.length.is_some()
    })
}

/// Whether the partition is there for a later version and has nothing in it.
#[must_use]
pub fn is_empty_slot(partition: &gpt::Partition) -> bool {
    partition.label == "_empty"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_no_image_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: PathBuf| Artifact::open(&path).unwrap_err();
        assert!(matches!(open(folder.path().join("none.raw")), OpenError::Absent(_)));
        assert!(matches!(open(folder.path().join("manifest.json")), OpenError::Absent(_)));
        assert!(matches!(open(folder.path().to_owned()), OpenError::NoManifest(_)));
        std::fs::write(folder.path().join("manifest.json"), "{\n nonsense").unwrap();
        let error = open(folder.path().to_owned());
        assert!(error.to_string().contains("line 2") && error.is_mistake(), "{error}");
    }

    #[test]
    fn the_last_root_hash_counts() {
        let one = "11".repeat(32);
        let two = "22".repeat(32);
        assert_eq!(root_hash(&format!("a roothash={one} b roothash={two}")).unwrap().to_string(), two);
        assert!(root_hash("roothash=12").is_none() && root_hash("quiet").is_none());
    }
}
