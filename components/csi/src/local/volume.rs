//! A local volume: its record, and how it is made, changed and removed in its pool.

use super::{
    parameters::{Kind, Parameters},
    pool::Pool,
};
use crate::{
    backend::{Condition, ContentSource, Expanded, NewVolume, Texts, Volume},
    capacity::{CapacityRange, MIB},
    encryption,
    error::{During, Fault},
    filesystem::{self, FsType},
    id::{Name, VolumeId},
    records::sync,
};
use cairn_daemon::record;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Size of a volume for which none is asked.
const USUAL: u64 = 1024 * MIB;

/// What is written of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VolumeRecord {
    pub(super) id: VolumeId,
    pub(super) name: Name,
    /// What it was promised.
    pub(super) bytes: u64,
    pub(super) kind: Kind,
    /// What an image was formatted as, or a directory asked to be on.
    pub(super) fs_type: Option<FsType>,
    /// Its project for quotas.
    pub(super) project: Option<u32>,
    pub(super) encryption: Option<String>,
    pub(super) source: Option<ContentSource>,
    /// It is one pod's, and goes with it.
    pub(super) ephemeral: bool,
}

impl VolumeRecord {
    /// Whether a request by this volume's name asks for this volume.
    pub(super) fn is_what(
        &self,
        wanted: &NewVolume,
        parameters: &Parameters,
        same_pool: bool,
    ) -> Result<(), Fault> {
        let differs = [
            (!wanted.range.fits(self.bytes), "size"),
            (self.kind != parameters.kind, "type"),
            (self.fs_type != parameters.fs_type, "file system"),
            (self.encryption != parameters.encryption, "encryption"),
            (self.source != wanted.source, "content source"),
            (!same_pool, "pool"),
        ];
        match differs.iter().find(|(differs, _)| *differs) {
            None => Ok(()),
            Some((_, what)) => Err(Fault::AlreadyExists(format!(
                "the volume named {} is there already, with another {what} ({})",
                self.name, self.id
            ))),
        }
    }
}

/// The identifier of the volume of this name: the same on every attempt, and another on every node.
pub(super) fn id(node: &str, name: &Name) -> Result<VolumeId, Fault> {
    VolumeId::parse(&format!("vol-{}", digest(node, name)))
}

/// Sixteen bytes in hexadecimal that stand for a name on a node.
pub(super) fn digest(node: &str, name: &Name) -> String {
    let mut digest = Sha256::new();
    digest.update(node.as_bytes());
    digest.update([0]);
    digest.update(name.as_str().as_bytes());
    hex::encode(&digest.finalize()[..16])
}

/// The size to give a volume.
pub(super) fn choose(range: CapacityRange, parameters: &Parameters) -> Result<u64, Fault> {
    let smallest = smallest(parameters);
    range.choose(MIB, smallest, USUAL)
}

pub(super) fn smallest(parameters: &Parameters) -> u64 {
    match (parameters.kind, parameters.fs_type, &parameters.encryption) {
        (Kind::Directory, _, _) => MIB,
        (Kind::Image, Some(fs_type), _) => fs_type.smallest(),
        // A LUKS2 header takes 16 MiB.
        (Kind::Image, None, Some(_)) => 32 * MIB,
        (Kind::Image, None, None) => MIB,
    }
}

impl Pool {
    pub(super) fn describe(&self, held: &VolumeRecord) -> Volume {
        let mut context = Texts::from([
            ("type".to_owned(), held.kind.name().to_owned()),
            ("pool".to_owned(), self.name.clone()),
        ]);
        context.extend(held.encryption.clone().map(|value| (encryption::PARAMETER.to_owned(), value)));
        Volume {
            id: held.id.clone(),
            bytes: held.bytes,
            context,
            source: held.source.clone(),
            condition: self.condition(held),
        }
    }

    pub(super) fn volume_directory(&self, id: &VolumeId) -> PathBuf {
        self.path.join("volumes").join(id.file_name())
    }

    /// A directory volume's files.
    pub(super) fn files(&self, id: &VolumeId) -> PathBuf {
        self.volume_directory(id).join("data")
    }

    /// An image volume's image.
    pub(super) fn image(&self, id: &VolumeId) -> PathBuf {
        self.volume_directory(id).join("image")
    }

    /// Makes a volume beside its place and renames it when it is whole.
    pub(super) fn create(
        &self,
        id: VolumeId,
        wanted: &NewVolume,
        parameters: &Parameters,
        ephemeral: bool,
    ) -> Result<VolumeRecord, Fault> {
        self.accepts(parameters)?;
        let bytes = choose(wanted.range, parameters)?;
        let _reserved = self.reserve(id.as_str(), bytes)?;
        let mut made = VolumeRecord {
            id: id.clone(),
            name: wanted.name.clone(),
            bytes,
            kind: parameters.kind,
            fs_type: parameters.fs_type,
            project: None,
            encryption: parameters.encryption.clone(),
            source: wanted.source.clone(),
            ephemeral,
        };
        let beside = self.begin(&id.file_name())?;
        let done = (|| {
            self.fill(&beside, &mut made)?;
            record::save(&beside.join("volume.json"), &made)
                .during(|| format!("write {}", beside.display()))?;
            self.finish(&beside, &self.volume_directory(&id))
        })();
        if let Err(fault) = done {
            self.abandon(&beside, made.project);
            return Err(fault);
        }
        self.volumes.insert(id.as_str(), made.clone());
        Ok(made)
    }

    fn fill(&self, beside: &Path, made: &mut VolumeRecord) -> Result<(), Fault> {
        match made.kind {
            Kind::Directory => {
                let files = beside.join("data");
                fs::create_dir(&files)
                    .and_then(|()| fs::set_permissions(&files, fs::Permissions::from_mode(0o777)))
                    .during(|| format!("make {}", files.display()))?;
                made.project = self.limit_new(&files, made.bytes)?;
                sync(&files)
            }
            Kind::Image => {
                let image = beside.join("image");
                let file = File::create_new(&image)
                    .and_then(|file| file.set_len(made.bytes).map(|()| file))
                    .during(|| format!("make {}", image.display()))?;
                if let Some(fs_type) = made.fs_type {
                    filesystem::make(&image, fs_type)?;
                }
                file.sync_all().during(|| format!("flush {}", image.display()))
            }
        }
    }

    /// Removes a volume: at once out of sight, then from the disk.
    pub(super) fn delete(&self, held: &VolumeRecord) -> Result<(), Fault> {
        if held.kind == Kind::Image {
            crate::loopback::detach(&self.image(&held.id))?;
        }
        self.discard(&self.volume_directory(&held.id), &held.id.file_name(), held.project)?;
        self.volumes.remove(held.id.as_str());
        Ok(())
    }

    /// Promises a volume more.
    pub(super) fn expand(&self, mut held: VolumeRecord, range: CapacityRange) -> Result<Expanded, Fault> {
        let node = held.kind == Kind::Image;
        let required = range.required.unwrap_or_default();
        if required <= held.bytes {
            if range.limit.is_some_and(|limit| limit < held.bytes) {
                return Err(Fault::OutOfRange(format!(
                    "{} has {} bytes already, more than the limit; a volume cannot shrink",
                    held.id, held.bytes
                )));
            }
            return Ok(Expanded { bytes: held.bytes, node });
        }
        let bytes = range.choose(MIB, held.bytes, held.bytes)?;
        let _reserved = self.reserve(held.id.as_str(), bytes - held.bytes)?;
        // The record first: what it promises is then done again by whoever asks again.
        let before = held.bytes;
        held.bytes = bytes;
        self.rewrite(&held)?;
        let done = match held.kind {
            Kind::Directory => self.limit_again(&held),
            Kind::Image => {
                let image = self.image(&held.id);
                let grown = File::options().write(true).open(&image).and_then(|file| {
                    file.set_len(bytes)?;
                    file.sync_all()
                });
                grown.during(|| format!("grow {}", image.display()))
            }
        };
        if let Err(fault) = done {
            held.bytes = before;
            self.rewrite(&held)?;
            return Err(fault);
        }
        Ok(Expanded { bytes, node })
    }

    fn rewrite(&self, held: &VolumeRecord) -> Result<(), Fault> {
        let path = self.volume_directory(&held.id).join("volume.json");
        record::save(&path, held).during(|| format!("write the record {}", path.display()))?;
        self.volumes.insert(held.id.as_str(), held.clone());
        Ok(())
    }

    /// A volume's health.
    pub(super) fn condition(&self, held: &VolumeRecord) -> Condition {
        let path = match held.kind {
            Kind::Directory => self.files(&held.id),
            Kind::Image => self.image(&held.id),
        };
        let seen = match fs::symlink_metadata(&path) {
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Condition::Abnormal(format!("its data is gone: {}", path.display()));
            }
            Err(error) => return Condition::Abnormal(format!("{}: {error}", path.display())),
        };
        if held.kind == Kind::Image && seen.len() != held.bytes {
            return Condition::Abnormal(format!("its image has {} bytes, not {}", seen.len(), held.bytes));
        }
        Condition::Normal
    }
}
