//! A local volume: its record, and how it is made, changed and removed in its pool.

use super::{
    copy::Copied,
    parameters::{self, Kind, Parameters},
    pool::Pool,
    snapshot::Original,
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
use cairn_contract::storage::Quota;
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
    /// What an image was formatted as, or its source was; `None`: that is the user's.
    pub(super) fs_type: Option<FsType>,
    /// Its project for quotas.
    pub(super) project: Option<u32>,
    pub(super) encryption: Option<String>,
    pub(super) source: Option<ContentSource>,
    /// Some of its blocks are another's, too.
    pub(super) shares: bool,
    /// Files that a directory may have; `None`: in proportion to its size.
    pub(super) files: Option<u64>,
    /// It is one pod's, and goes with it.
    pub(super) ephemeral: bool,
}

/// What a volume is made from: a snapshot, or another volume.
#[derive(Debug)]
pub(super) struct Origin {
    /// Its image or directory.
    pub(super) data: PathBuf,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
    pub(super) fs_type: Option<FsType>,
    pub(super) encryption: Option<String>,
    /// Files that may be in it; `None`: in proportion to its size.
    pub(super) files: Option<u64>,
    /// The volume, if it is one.
    pub(super) volume: Option<Original>,
    /// It is in the pool where the new volume is to be.
    pub(super) same_pool: bool,
}

impl Origin {
    /// Refuses what cannot become what is asked for.
    fn fits(&self, parameters: &Parameters) -> Result<(), Fault> {
        let wrong = |what: String| Err(Fault::Invalid(format!("volume_content_source: {what}")));
        if self.kind != parameters.kind {
            return wrong(format!("its type is {}, not {}", self.kind.name(), parameters.kind.name()));
        }
        if self.encryption != parameters.encryption {
            return wrong("encryption is another one there".to_owned());
        }
        match (self.fs_type, parameters.fs_type) {
            (None, _) if parameters.formatted => {
                wrong("it has no file system made by this driver".to_owned())
            }
            (Some(has), Some(wanted)) if has != wanted => {
                wrong(format!("its file system is {}, not {}", has.name(), wanted.name()))
            }
            _ => Ok(()),
        }
    }
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
            (parameters.fs_type.is_some_and(|wanted| self.fs_type != Some(wanted)), "file system"),
            (parameters.formatted && self.fs_type.is_none(), "access type"),
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

/// An identifier `<kind>-<node>-<name>`: the same on every attempt, another on every node, and one that tells which node
/// it is of. `parts` are what it stands for.
pub(super) fn id(kind: &str, node: &str, parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    format!("{kind}-{}-{}", node_mark(node), hex::encode(&digest.finalize()[..12]))
}

/// What stands for a node in identifiers.
fn node_mark(node: &str) -> String {
    hex::encode(&Sha256::digest(node)[..4])
}

/// That there is nothing of this identifier here: nowhere, or on another node.
pub(super) fn missing(id: &str, node: &str) -> Fault {
    let mut parts = id.split('-');
    let elsewhere = matches!(
        (parts.next(), parts.next(), parts.next().map(str::len), parts.next()),
        (Some("vol" | "snap" | "group"), Some(mark), Some(24), None) if mark.len() == 8 && mark != node_mark(node)
    );
    if elsewhere {
        Fault::Unavailable(format!("{id} is of another node, not of {node}"))
    } else {
        Fault::NotFound(format!("there is no {id} on node {node}"))
    }
}

/// How many files a new volume may have: what is asked for, or what its origin could have, as all of those have to fit.
fn choose_files(asked: Option<u64>, origins: Option<u64>, counted: bool) -> Option<u64> {
    asked.or(origins.filter(|_| counted))
}

pub(super) fn smallest(parameters: &Parameters) -> u64 {
    let fs_type = parameters.fs_type.unwrap_or(FsType::Ext4);
    match parameters.kind {
        Kind::Image if parameters.formatted => fs_type.smallest(),
        // A LUKS2 header takes 16 MiB.
        Kind::Image if parameters.encryption.is_some() => 16 * MIB + fs_type.smallest(),
        Kind::Directory | Kind::Image => MIB,
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
        origin: Option<Origin>,
        ephemeral: bool,
    ) -> Result<VolumeRecord, Fault> {
        self.accepts(parameters)?;
        let least = origin.as_ref().map_or(0, |origin| origin.bytes).max(smallest(parameters));
        if let (Some(origin), Some(required)) = (&origin, wanted.range.required)
            && required < origin.bytes
        {
            return Err(Fault::OutOfRange(format!(
                "the volume's source has {} bytes, more than required_bytes",
                origin.bytes
            )));
        }
        let usual = origin.as_ref().map_or(USUAL, |origin| origin.bytes);
        let bytes = wanted.range.choose(MIB, least, usual)?;
        if let Some(origin) = &origin {
            origin.fits(parameters)?;
            if let Some(volume) = origin.volume.as_ref().filter(|volume| volume.is_written()) {
                self.can_be_copied_in_use(&volume.held, origin.same_pool)?;
            }
        }
        let files = parameters::files(&wanted.mutable)?;
        self.accepts_files(parameters.kind, files)?;
        let origins = origin.as_ref().and_then(|origin| origin.files);
        let files = choose_files(files, origins, self.counts_files(parameters.kind));
        let fs_type = match &origin {
            Some(origin) => origin.fs_type,
            None if parameters.formatted => Some(parameters.fs_type.unwrap_or(FsType::Ext4)),
            None if parameters.kind == Kind::Directory => parameters.fs_type,
            None => None,
        };
        let _reserved = self.reserve(id.as_str(), bytes)?;
        let mut made = VolumeRecord {
            id: id.clone(),
            name: wanted.name.clone(),
            bytes,
            kind: parameters.kind,
            fs_type,
            project: None,
            encryption: parameters.encryption.clone(),
            source: wanted.source.clone(),
            shares: false,
            files,
            ephemeral,
        };
        let beside = self.begin(&id.file_name())?;
        let done = (|| {
            self.fill(&beside, &mut made, origin)?;
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

    /// Makes a volume's data: empty, or its origin's.
    fn fill(&self, beside: &Path, made: &mut VolumeRecord, origin: Option<Origin>) -> Result<(), Fault> {
        match made.kind {
            Kind::Directory => {
                let files = beside.join("data");
                fs::create_dir(&files)
                    .and_then(|()| fs::set_permissions(&files, fs::Permissions::from_mode(0o777)))
                    .during(|| format!("make {}", files.display()))?;
                made.project = self.limit_new(&files, made)?;
                if let Some(origin) = origin {
                    made.shares = self.copy_of(&origin.data, beside, Kind::Directory)? == Copied::Shared;
                }
                sync(&files)
            }
            Kind::Image => {
                let image = beside.join("image");
                let is_new = origin.is_none();
                match origin {
                    None => drop(File::create_new(&image).during(|| format!("make {}", image.display()))?),
                    Some(origin) => {
                        let still = origin.volume.as_ref().map(|volume| self.still(volume)).transpose()?;
                        made.shares = self.copy_of(&origin.data, beside, Kind::Image)? == Copied::Shared;
                        drop(still);
                    }
                }
                let file = File::options()
                    .write(true)
                    .open(&image)
                    .and_then(|file| file.set_len(made.bytes).map(|()| file))
                    .during(|| format!("size {}", image.display()))?;
                if let (Some(fs_type), true) = (made.fs_type, is_new) {
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
            Kind::Image => self.grow_image(&held),
        };
        if let Err(fault) = done {
            held.bytes = before;
            self.rewrite(&held)?;
            return Err(fault);
        }
        Ok(Expanded { bytes, node })
    }

    /// Changes how many files a volume may have.
    pub(super) fn modify(&self, mut held: VolumeRecord, files: Option<u64>) -> Result<(), Fault> {
        self.accepts_files(held.kind, files)?;
        if held.files == files {
            return Ok(());
        }
        held.files = files;
        self.rewrite(&held)?;
        self.limit_again(&held)
    }

    fn counts_files(&self, kind: Kind) -> bool {
        kind == Kind::Directory && self.quota == Quota::Enforced
    }

    /// A number of files can be kept to only by a quota.
    fn accepts_files(&self, kind: Kind, files: Option<u64>) -> Result<(), Fault> {
        if files.is_none() || self.counts_files(kind) {
            return Ok(());
        }
        Err(Fault::Invalid(format!(
            "{} can be set for directory volumes of a pool that enforces quotas only",
            parameters::FILES
        )))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_may_have_as_many_files_as_its_origin() {
        for (asked, origins, counted, expected) in [
            (None, None, true, None),
            (None, Some(9000), true, Some(9000)),
            (Some(5), Some(9000), true, Some(5)),
            (None, Some(9000), false, None),
        ] {
            assert_eq!(choose_files(asked, origins, counted), expected, "{asked:?}, {origins:?}, {counted}");
        }
    }
}
