//! The decrypted device of a volume, found by its name in the device mapper.

use crate::{
    error::{During, Fault},
    id::VolumeId,
};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A name in the device mapper, which is made of the volume's identifier.
#[derive(Debug)]
pub(super) struct Mapping {
    name: String,
    blocks: PathBuf,
}

impl Mapping {
    /// That of a volume. Names have at most 127 bytes, identifiers more.
    pub(super) fn of(id: &VolumeId) -> Self {
        let digest = hex::encode(Sha256::digest(id.as_str()));
        Self { name: format!("cairn-{}", &digest[..32]), blocks: "/sys/block".into() }
    }

    /// The name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The open device's node, whatever it is on.
    pub(super) fn device(&self) -> Result<Option<PathBuf>, Fault> {
        Ok(self.entry()?.map(|name| Path::new("/dev").join(name)))
    }

    /// The open device's node, if it is on `device`.
    ///
    /// # Errors
    /// [`Fault::Precondition`] if it is on another: then it is not this volume's any more.
    pub(super) fn open_on(&self, device: &Path) -> Result<Option<PathBuf>, Fault> {
        let Some(name) = self.entry()? else { return Ok(None) };
        let below = device.file_name().unwrap_or_default();
        if self.blocks.join(&name).join("slaves").join(below).exists() {
            return Ok(Some(Path::new("/dev").join(name)));
        }
        Err(Fault::Precondition(format!(
            "the decrypted device {} is open, and not on {}: unstage the volume first",
            self.name,
            device.display()
        )))
    }

    /// Its name among the block devices, `dm-3`.
    fn entry(&self) -> Result<Option<String>, Fault> {
        let doing = || format!("read {}", self.blocks.display());
        let entries = match fs::read_dir(&self.blocks) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.during(doing)?,
        };
        for entry in entries {
            let entry = entry.during(doing)?;
            // It may be going while we look.
            let name = fs::read_to_string(entry.path().join("dm/name")).unwrap_or_default();
            if name.trim_end() == self.name {
                return Ok(entry.file_name().into_string().ok());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_different() {
        let of = |id: &str| Mapping::of(&VolumeId::parse(id).unwrap()).name;
        assert_eq!(of(&"x".repeat(512)).len(), 38);
        assert_ne!(of("a"), of("b"));
    }

    #[test]
    fn the_device_is_found_with_what_it_is_on() {
        let root = tempfile::tempdir().unwrap();
        let mapping = Mapping { blocks: root.path().into(), ..Mapping::of(&VolumeId::parse("a").unwrap()) };
        assert_eq!(mapping.device().unwrap(), None);
        fs::create_dir_all(root.path().join("dm-3/dm")).unwrap();
        fs::create_dir_all(root.path().join("dm-3/slaves/loop0")).unwrap();
        fs::create_dir_all(root.path().join("vda")).unwrap();
        fs::write(root.path().join("dm-3/dm/name"), format!("{}\n", mapping.name)).unwrap();
        assert_eq!(mapping.device().unwrap(), Some("/dev/dm-3".into()));
        assert_eq!(mapping.open_on(Path::new("/dev/loop0")).unwrap(), Some("/dev/dm-3".into()));
        assert!(matches!(mapping.open_on(Path::new("/dev/loop1")), Err(Fault::Precondition(_))));
    }
}
