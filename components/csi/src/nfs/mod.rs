//! Exports of NFS servers: a directory for each volume, shared by as many pods and nodes as want it.
//!
//! A volume is a directory below an export ([`export`]). Its identifier names both, so any node's driver can remove it, and
//! its record lies on the export itself ([`shelf`]): which directories are volumes is known wherever the export is. An export
//! that somebody else made is used by a persistent volume whose context names `server` and `share`, with any
//! identifier. Mounting is mount.nfs' work ([`mount`]).
//!
//! A server that is away does not hold the driver: mounting is given up after a while, and a mounted volume is asked
//! for its health by its own thread ([`health`]).

mod export;
mod group;
mod health;
mod mount;
mod shelf;

use crate::{
    access::{Access, AccessType},
    backend::{Attachment, Backend, Condition, Expanded, Features, NewVolume, Source, Space, Texts, Volume},
    capacity::CapacityRange,
    error::Fault,
    id::{Secrets, VolumeId},
    mount::{OptionSet, Tree},
    node::Staged,
};
use cairn_contract::{
    csi::{
        controller_service_capability::rpc::Type as ControllerRpc,
        node_service_capability::rpc::Type as NodeRpc,
    },
    storage::{BackendKind, StorageConfig},
};
use export::{Export, SERVER, SHARE, SUB_DIR, SubDir};
use health::Health;
use mount::Bench;
use shelf::{OnDelete, Record, Shelf};
use std::{
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
};

/// Parameter: what becomes of the directory when its volume is removed.
const ON_DELETE: &str = "onDelete";
/// Parameter: mode of the directory, octal.
const MOUNT_PERMISSIONS: &str = "mountPermissions";
/// What the controller's own mounts say besides the options by which a server is reached: it would rather fail than wait, and
/// locks nothing.
const OWN_OPTIONS: [&str; 5] = ["soft", "timeo=100", "retrans=2", "retry=0", "nolock"];
/// A volume that asks for no size.
const USUAL: u64 = 1 << 30;

/// The backend.
#[derive(Debug)]
struct Nfs {
    bench: Bench,
    health: Health,
    /// Volumes are made and removed one after the other: that one is not in another is seen before it is made.
    turn: Mutex<()>,
}

/// Opens the backend.
///
/// # Errors
/// If it cannot be served.
pub fn open(config: &StorageConfig) -> Result<Box<dyn Backend>, Fault> {
    let bench = Bench::open(config.run.join(BackendKind::Nfs.name()).join("mounting"))?;
    Ok(Box::new(Nfs { bench, health: Health::default(), turn: Mutex::default() }))
}

const CONTROLLER: &[ControllerRpc] = &[
    ControllerRpc::CreateDeleteVolume,
    ControllerRpc::GetCapacity,
    ControllerRpc::ExpandVolume,
    ControllerRpc::GetVolume,
    ControllerRpc::SingleNodeMultiWriter,
];

const NODE: &[NodeRpc] = &[
    NodeRpc::StageUnstageVolume,
    NodeRpc::GetVolumeStats,
    NodeRpc::VolumeCondition,
    NodeRpc::SingleNodeMultiWriter,
    NodeRpc::VolumeMountGroup,
];

impl Nfs {
    fn shelf(&self, export: &Export) -> Result<Shelf, Fault> {
        let options: Vec<String> =
            OWN_OPTIONS.map(str::to_owned).into_iter().chain(export.options()).collect();
        self.bench.mount_newest(&export.source(None), &options).map(Shelf::new)
    }

    /// A volume of ours.
    fn find(&self, id: &VolumeId) -> Result<(Export, SubDir, Shelf, Record), Fault> {
        let none = || Fault::NotFound(format!("there is no NFS volume {id}"));
        let (export, below) = export::of_id(id).ok_or_else(none)?;
        let shelf = self.shelf(&export)?;
        let record = shelf.record(&below)?.filter(|record| record.options == export.reaching());
        let record = record.ok_or_else(none)?;
        Ok((export, below, shelf, record))
    }
}

impl Backend for Nfs {
    fn kind(&self) -> BackendKind {
        BackendKind::Nfs
    }

    fn features(&self) -> Features {
        Features {
            controller: CONTROLLER,
            node: NODE,
            groups: false,
            topology: false,
            options: OptionSet::NFS,
            ephemeral: false,
        }
    }

    fn accepts(&self, access: &Access) -> Result<(), Fault> {
        match access.kind {
            AccessType::Mount(_) => Ok(()),
            AccessType::Block => {
                Err(Fault::Invalid("an NFS volume is files, and no block device".to_owned()))
            }
        }
    }

    fn give(&self, tree: &Tree, group: u32) -> Result<(), Fault> {
        group::give(tree.as_fd(), group)
    }

    fn create(&self, wanted: &NewVolume) -> Result<Volume, Fault> {
        let parameters = Parameters::parse(&wanted.parameters)?;
        if let Some(key) = wanted.mutable.keys().next() {
            return Err(Fault::Invalid(format!("there is no mutable parameter {key:?} for NFS volumes")));
        }
        if wanted.source.is_some() {
            return Err(Fault::Invalid(
                "an NFS volume cannot be made from another or from a snapshot".to_owned(),
            ));
        }
        let export = parameters.export.used_by(&wanted.access)?;
        let below = match &parameters.below {
            Some(below) => below.clone(),
            None => SubDir::parse(&wanted.name.file_name())?,
        };
        // So that nothing is made that has none.
        export.id(&below)?;
        let shelf = self.shelf(&export)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let record = match shelf.record(&below)? {
            Some(held) if held.name != wanted.name => {
                return Err(Fault::AlreadyExists(format!(
                    "{} on {export} is the volume {}",
                    below.as_str(),
                    held.name
                )));
            }
            Some(held) if !wanted.range.fits(held.bytes) => {
                let Record { name, bytes, .. } = held;
                return Err(Fault::AlreadyExists(format!("the volume {name} is there with {bytes} bytes")));
            }
            Some(held) => held,
            None => Record {
                name: wanted.name.clone(),
                below: below.as_str().to_owned(),
                bytes: wanted.range.choose(1, 1, USUAL)?,
                on_delete: parameters.on_delete,
                options: export.reaching().to_vec(),
            },
        };
        shelf.make(&below, &record, parameters.mode)?;
        // The class may have other options by now; a volume has one identifier.
        let export = export.reached_with(&record.options);
        Ok(described(export.id(&below)?, &export, &below, &record))
    }

    fn delete(&self, id: &VolumeId, _: &Secrets) -> Result<(), Fault> {
        // An identifier that is not of this driver's making is of no volume of its.
        let Some((export, below)) = export::of_id(id) else { return Ok(()) };
        let shelf = self.shelf(&export)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        match shelf.record(&below)? {
            Some(record) if record.options != export.reaching() => Ok(()),
            _ => shelf.remove(&below),
        }
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume, Fault> {
        let (export, below, _, record) = self.find(id)?;
        Ok(described(id.clone(), &export, &below, &record))
    }

    fn validate(&self, id: &VolumeId, access: &[Access], _: &Texts, parameters: &Texts) -> Result<(), Fault> {
        self.find(id)?;
        if !parameters.is_empty() {
            Parameters::parse(parameters)?;
        }
        access.iter().try_for_each(|access| self.accepts(access))
    }

    fn space(&self, parameters: &Texts, access: &[Access]) -> Result<Space, Fault> {
        access.iter().try_for_each(|access| self.accepts(access))?;
        // Without an export there is nothing to measure, and nothing against any size.
        if !parameters.contains_key(SERVER) && !parameters.contains_key(SHARE) {
            return Ok(Space { available: 0, largest: 0, smallest: 1 });
        }
        let export = Parameters::parse(parameters)?.export.used_by(access)?;
        let (available, all) = self.shelf(&export)?.space()?;
        Ok(Space { available, largest: all, smallest: 1 })
    }

    fn expand(&self, id: &VolumeId, range: CapacityRange) -> Result<Expanded, Fault> {
        let (_, below, shelf, record) = self.find(id)?;
        let bytes = range.choose(1, 1, record.bytes)?.max(record.bytes);
        if bytes > record.bytes {
            shelf.write(&below, &Record { bytes, ..record })?;
        }
        Ok(Expanded { bytes, node: false })
    }

    fn attach(&self, wanted: &Attachment<'_>) -> Result<Source, Fault> {
        let export = Export::parse(wanted.context)?;
        let below = SubDir::of(wanted.context)?;
        let flags = wanted.access.mount().map(|mount| &mount.options);
        let mut options: Vec<String> = flags.into_iter().flat_map(export::written).collect();
        options.extend(export.options());
        // Whoever wants to wait longer says so; the kubelet tries again in any case.
        if !options.iter().any(|option| option.starts_with("retry=")) {
            options.push("retry=0".to_owned());
        }
        if wanted.access.is_read_only() {
            options.push("ro".to_owned());
        }
        self.bench.mount_newest(&export.source(below.as_ref()), &options).map(Source::Tree)
    }

    fn detach(&self, staged: &Staged) -> Result<(), Fault> {
        self.health.forget(&staged.id);
        Ok(())
    }

    fn condition(&self, staged: &Staged) -> Condition {
        match (&staged.path, &staged.made) {
            (Some(path), Some(_)) => self.health.of(&staged.id, path),
            _ => Condition::Normal,
        }
    }

    fn answers(&self, staged: &Staged) -> bool {
        !self.health.is_silent(&staged.id)
    }
}

/// Checked parameters of a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameters {
    export: Export,
    below: Option<SubDir>,
    on_delete: OnDelete,
    mode: Option<u32>,
}

impl Parameters {
    fn parse(parameters: &Texts) -> Result<Self, Fault> {
        let known = [SERVER, SHARE, SUB_DIR, ON_DELETE, MOUNT_PERMISSIONS];
        if let Some(key) = parameters.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Fault::Invalid(format!(
                "there is no parameter {key:?} for NFS volumes; there are {}",
                known.join(", ")
            )));
        }
        let text = |key: &str| parameters.get(key).map(String::as_str).unwrap_or_default();
        Ok(Self {
            export: Export::parse(parameters)?,
            below: SubDir::of(parameters)?,
            on_delete: OnDelete::parse(text(ON_DELETE))?,
            mode: mode(text(MOUNT_PERMISSIONS))?,
        })
    }
}

/// Octal; empty and 0 leave the mode to the server.
fn mode(text: &str) -> Result<Option<u32>, Fault> {
    match text {
        "" | "0" => Ok(None),
        _ => match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
            _ => Err(Fault::Invalid(format!("{MOUNT_PERMISSIONS} {text:?} is no octal mode such as 0770"))),
        },
    }
}

fn described(id: VolumeId, export: &Export, below: &SubDir, record: &Record) -> Volume {
    Volume {
        id,
        bytes: record.bytes,
        context: export.context(below),
        source: None,
        condition: Condition::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[(&str, &str)]) -> Result<Parameters, Fault> {
        let all = [("server", "nfs.example"), ("share", "/a")].iter().chain(entries);
        Parameters::parse(&all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn parameters_are_checked() {
        let good =
            parse(&[("subDir", "a/b"), ("onDelete", "archive"), ("mountPermissions", "0770")]).unwrap();
        assert_eq!((good.on_delete, good.mode), (OnDelete::Archive, Some(0o770)));
        assert_eq!(parse(&[("mountPermissions", "0")]).unwrap().mode, None);
        for (key, value) in [
            ("onDelete", "shred"),
            ("mountPermissions", "rwx"),
            ("mountPermissions", "77777"),
            ("subDir", "../b"),
            ("subdir", "b"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains(value) || error.contains("no parameter"),
                "{error}"
            );
        }
    }
}
