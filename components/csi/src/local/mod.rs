//! Volumes on the node's own disks.
//!
//! A **pool** is a directory on a file system ([`pool`]). A volume in it is either a **directory**, held to its size by a project
//! quota, or an **image**, a sparse file behind a loop device with ext4, XFS or nothing on it ([`volume`]). Directories cost
//! nothing and use the pool's file system; images can be block devices, have their own file system, and can be copied
//! while in use ([`snapshot`]).
//!
//! A volume's record is in its directory, so both appear and vanish by one rename:
//!
//! ```text
//! <pool>/volumes/<id>/volume.json    the record
//! <pool>/volumes/<id>/data/          a directory volume's files
//! <pool>/volumes/<id>/image          an image volume
//! <pool>/snapshots/<id>/…            likewise
//! <pool>/new/<id>/                   being made; emptied at a start
//! <pool>/trash/<id>/                 being removed; emptied at a start
//! ```
//!
//! One damaged record is one volume's end, and one missing disk one pool's ([`pools`]): the rest is served.

mod copy;
mod disk;
mod parameters;
mod pool;
mod pools;
mod quota;
mod recover;
mod snapshot;
mod still;
mod tree;
mod volume;

use crate::{
    access::Access,
    backend::{
        Attachment, Backend, Condition, ContentSource, Expanded, Features, Group, Member, NewSnapshot,
        NewVolume, Snapshot, Source, Space, Texts, Volume, single_node,
    },
    capacity::CapacityRange,
    error::{During, Fault},
    filesystem::Unfinished,
    id::{Name, Secrets, SnapshotId, VolumeId},
    loopback, mount,
    mount::OptionSet,
    node::{Made, Staged},
    records::Records,
};
use cairn_contract::{
    csi::{
        controller_service_capability::rpc::Type as ControllerRpc,
        node_service_capability::rpc::Type as NodeRpc,
    },
    storage::{BackendKind, StorageConfig},
};
use parameters::{Kind, Parameters};
use pool::{Figures, Pool};
use pools::Pools;
use rustix::fs::{Mode, OFlags};
use snapshot::{Original, SnapshotRecord};
use std::{os::fd::AsFd, path::Path, sync::Arc};
use volume::{Origin, VolumeRecord};

/// The backend.
#[derive(Debug)]
pub struct Local {
    node: String,
    pools: Pools,
    marks: Arc<Marks>,
}

/// What is half-done in this boot.
#[derive(Debug)]
struct Marks {
    /// Disks that are being made into a pool's file system, by the pool's name.
    making: Records<Unfinished>,
    /// Volumes whose file system the driver has frozen.
    frozen: Records<VolumeId>,
}

impl Marks {
    fn open(run: &Path) -> Result<Self, Fault> {
        Ok(Self { making: Records::open(run.join("pools"))?, frozen: Records::open(run.join("frozen"))? })
    }
}

/// Opens the pools; those that cannot be used are tried again later.
///
/// # Errors
/// If the driver's own records cannot be read.
pub fn open(config: &StorageConfig) -> Result<Box<dyn Backend>, Fault> {
    let node = crate::server::node_name(config);
    let marks = Arc::new(Marks::open(&config.run.join(BackendKind::Local.name()))?);
    Ok(Box::new(Local { node, pools: Pools::open(&config.pools, marks.clone()), marks }))
}

const CONTROLLER: &[ControllerRpc] = &[
    ControllerRpc::CreateDeleteVolume,
    ControllerRpc::ListVolumes,
    ControllerRpc::GetCapacity,
    ControllerRpc::CreateDeleteSnapshot,
    ControllerRpc::ListSnapshots,
    ControllerRpc::GetSnapshot,
    ControllerRpc::CloneVolume,
    ControllerRpc::ExpandVolume,
    ControllerRpc::ModifyVolume,
    ControllerRpc::VolumeCondition,
    ControllerRpc::GetVolume,
    ControllerRpc::SingleNodeMultiWriter,
];

const NODE: &[NodeRpc] = &[
    NodeRpc::StageUnstageVolume,
    NodeRpc::GetVolumeStats,
    NodeRpc::ExpandVolume,
    NodeRpc::VolumeCondition,
    NodeRpc::SingleNodeMultiWriter,
    NodeRpc::VolumeMountGroup,
];

impl Local {
    fn pool(&self, name: Option<&str>) -> Result<&Pool, Fault> {
        self.pools.named(name, &self.node)
    }

    /// A volume and the pool it is in.
    fn find(&self, id: &VolumeId) -> Result<(&Pool, VolumeRecord), Fault> {
        let found = self.pools.all().find_map(|pool| Some((pool, pool.volumes.get(id.as_str())?)));
        found.ok_or_else(|| self.missing(id.as_str(), &id.file_name()))
    }

    fn find_snapshot(&self, id: &SnapshotId) -> Result<(&Pool, SnapshotRecord), Fault> {
        let found = self.pools.all().find_map(|pool| Some((pool, pool.snapshots.get(id.as_str())?)));
        found.ok_or_else(|| self.missing(id.as_str(), &id.file_name()))
    }

    /// Why something is not among the volumes and snapshots.
    fn missing(&self, id: &str, file_name: &str) -> Fault {
        if let Some(fault) = self.pools.all().find_map(|pool| pool.damage(file_name)) {
            return fault;
        }
        match (volume::missing(id, &self.node), self.pools.complete()) {
            (Fault::NotFound(_), Err(closed)) => {
                Fault::Unavailable(format!("whether there is a {id} is not known: {closed}"))
            }
            (fault, _) => fault,
        }
    }

    /// What a volume in `pool` is to be made from.
    fn origin(&self, wanted: &NewVolume, pool: &Pool) -> Result<Option<Origin>, Fault> {
        Ok(match &wanted.source {
            None => None,
            Some(ContentSource::Snapshot(id)) => {
                let (found_in, held) = self.find_snapshot(id)?;
                let name = if held.kind == Kind::Image { "image" } else { "data" };
                Some(Origin {
                    data: found_in.snapshot_directory(id).join(name),
                    bytes: held.bytes,
                    kind: held.kind,
                    fs_type: held.fs_type,
                    encryption: held.encryption,
                    files: held.files,
                    volume: None,
                    same_pool: found_in.name == pool.name,
                })
            }
            Some(ContentSource::Volume(id)) => {
                let (found_in, held) = self.find(id)?;
                Some(Origin {
                    data: found_in.data(&held),
                    bytes: held.bytes,
                    kind: held.kind,
                    fs_type: held.fs_type,
                    encryption: held.encryption.clone(),
                    files: held.files,
                    volume: Some(Original { held, staged: wanted.source_staged.clone() }),
                    same_pool: found_in.name == pool.name,
                })
            }
        })
    }

    /// A group's snapshots; a group is in one pool.
    fn find_group(&self, id: &SnapshotId) -> Option<(&Pool, Vec<SnapshotRecord>)> {
        self.pools.all().find_map(|pool| {
            let mut held = pool.snapshots.all();
            held.retain(|held| held.group.as_ref().is_some_and(|group| group.id == *id));
            (!held.is_empty()).then_some((pool, held))
        })
    }
}

impl Backend for Local {
    fn kind(&self) -> BackendKind {
        BackendKind::Local
    }

    fn features(&self) -> Features {
        Features {
            controller: CONTROLLER,
            node: NODE,
            groups: true,
            topology: true,
            options: OptionSet::FILE_SYSTEM,
            ephemeral: true,
        }
    }

    fn accepts(&self, access: &Access) -> Result<(), Fault> {
        single_node(access.mode)
    }

    fn recover(&self, staged: &[Staged]) -> Result<(), Fault> {
        still::thaw(&self.marks.frozen, staged);
        self.pools.all().for_each(|pool| pool.recover(staged));
        Ok(())
    }

    fn ready(&self) -> bool {
        self.pools.all().next().is_some()
    }

    fn retry(&self, staged: &[Staged]) -> bool {
        self.pools.retry(staged)
    }

    fn complete(&self) -> Result<(), Fault> {
        self.pools.complete()
    }

    fn create(&self, wanted: &NewVolume) -> Result<Volume, Fault> {
        let parameters = Parameters::parse(&wanted.parameters, &wanted.access)?;
        let pool = self.pool(parameters.pool.as_deref())?;
        let id = VolumeId::parse(&volume::id("vol", &self.node, &[wanted.name.as_str()]))?;
        match self.find(&id) {
            Ok((held_in, held)) => {
                held.is_what(wanted, &parameters, held_in.name == pool.name)?;
                return Ok(held_in.describe(&held));
            }
            Err(fault @ Fault::Precondition(_)) => return Err(fault),
            Err(_) => {}
        }
        let origin = self.origin(wanted, pool)?;
        let made = pool.create(id, wanted, &parameters, origin, false)?;
        Ok(pool.describe(&made))
    }

    fn delete(&self, id: &VolumeId, _: &Secrets) -> Result<(), Fault> {
        match self.find(id) {
            Err(Fault::NotFound(_)) => Ok(()),
            Err(fault) => Err(fault),
            Ok((pool, held)) => pool.delete(&held),
        }
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume, Fault> {
        self.find(id).map(|(pool, held)| pool.describe(&held))
    }

    fn volumes(&self) -> Result<Vec<Volume>, Fault> {
        let mut all: Vec<Volume> = self
            .pools
            .all()
            .flat_map(|pool| pool.volumes.all().into_iter().map(|held| pool.describe(&held)))
            .collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    fn space(&self, parameters: &Texts, access: &[Access]) -> Result<Space, Fault> {
        let parameters = Parameters::parse(parameters, access)?;
        self.pool(parameters.pool.as_deref())?.space(&parameters)
    }

    fn expand(&self, id: &VolumeId, range: CapacityRange) -> Result<Expanded, Fault> {
        let (pool, held) = self.find(id)?;
        pool.expand(held, range)
    }

    fn modify(&self, id: &VolumeId, parameters: &Texts) -> Result<(), Fault> {
        let (pool, held) = self.find(id)?;
        pool.modify(held, parameters::files(parameters)?)
    }

    fn snapshot(&self, wanted: &NewSnapshot) -> Result<Snapshot, Fault> {
        parameters::none(&wanted.parameters)?;
        let id = SnapshotId::parse(&volume::id("snap", &self.node, &[wanted.name.as_str()]))?;
        match self.find_snapshot(&id) {
            Ok((_, held)) if held.source == wanted.source => return Ok(held.describe()),
            Ok((_, held)) => {
                return Err(Fault::AlreadyExists(format!(
                    "the snapshot named {} is there already, of another volume ({})",
                    wanted.name, held.source
                )));
            }
            Err(fault @ Fault::Precondition(_)) => return Err(fault),
            Err(_) => {}
        }
        let (pool, held) = self.find(&wanted.source)?;
        let original = Original { held, staged: wanted.staged.clone() };
        let made = pool.snapshot(vec![(id, wanted.name.clone(), original)], None)?;
        made.first()
            .map(SnapshotRecord::describe)
            .ok_or_else(|| volume::missing(wanted.source.as_str(), &self.node))
    }

    fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Fault> {
        match self.find_snapshot(id) {
            Err(Fault::NotFound(_)) => Ok(()),
            Err(fault) => Err(fault),
            Ok((_, SnapshotRecord { group: Some(group), .. })) => {
                Err(Fault::Invalid(format!("{id} is part of {} and goes with that", group.id)))
            }
            Ok((pool, held)) => pool.delete_snapshot(&held),
        }
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, Fault> {
        let all = self.pools.all().flat_map(|pool| pool.snapshots.all());
        let mut all: Vec<Snapshot> = all.map(|held| held.describe()).collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    fn group(&self, name: &Name, members: &[Member], parameters: &Texts) -> Result<Group, Fault> {
        parameters::none(parameters)?;
        let id = SnapshotId::parse(&volume::id("group", &self.node, &[name.as_str()]))?;
        if let Some((_, held)) = self.find_group(&id) {
            let same = held.len() == members.len()
                && members.iter().all(|(member, _)| held.iter().any(|held| held.source == *member));
            return if same {
                Ok(Group::of(id, &held))
            } else {
                Err(Fault::AlreadyExists(format!(
                    "the group named {name} is there already, of other volumes"
                )))
            };
        }
        let mut wanted = Vec::new();
        let mut pools: Vec<&Pool> = Vec::new();
        for (member, staged) in members {
            let (pool, held) = self.find(member)?;
            let snapshot = volume::id("snap", &self.node, &[name.as_str(), member.as_str()]);
            wanted.push((
                SnapshotId::parse(&snapshot)?,
                name.clone(),
                Original { held, staged: staged.clone() },
            ));
            pools.push(pool);
        }
        match pools.as_slice() {
            [pool, rest @ ..] if rest.iter().all(|other| other.name == pool.name) => {
                pool.snapshot(wanted, Some(&id)).map(|made| Group::of(id, &made))
            }
            _ => {
                Err(Fault::Precondition("volumes of several pools cannot be snapshotted together".to_owned()))
            }
        }
    }

    fn delete_group(&self, id: &SnapshotId) -> Result<(), Fault> {
        self.find_group(id).map_or(Ok(()), |(pool, held)| pool.delete_group(&held))
    }

    fn attach(&self, wanted: &Attachment<'_>) -> Result<Source, Fault> {
        let (pool, held) = self.find(wanted.id)?;
        match held.kind {
            Kind::Image => {
                // A device that cannot be written to must be so for a block volume, too.
                let read_only = wanted.access.mode.is_read_only();
                loopback::attach(&pool.image(&held.id), read_only).map(Source::Device)
            }
            Kind::Directory => {
                let files = pool.files(&held.id);
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::open(&files, flags, Mode::empty())
                    .during(|| format!("open {}", files.display()))?;
                if let Some(mount) = wanted.access.mount() {
                    pool.accepts_mount(mount)?;
                }
                mount::copy_of(opened.as_fd()).map(Source::Tree)
            }
        }
    }

    fn detach(&self, staged: &Staged) -> Result<(), Fault> {
        match self.find(&staged.id) {
            Ok((pool, held)) if held.kind == Kind::Image => loopback::detach(&pool.image(&held.id)),
            // What is in use goes, also where its pool does not answer.
            Err(Fault::Unavailable(_)) => self.pools.closed().try_for_each(|pool| {
                loopback::detach(&pool.join("volumes").join(staged.id.file_name()).join("image"))
            }),
            _ => Ok(()),
        }
    }

    fn grow(&self, staged: &Staged, range: CapacityRange) -> Result<(), Fault> {
        let (pool, held) = self.find(&staged.id)?;
        if range.required.is_some_and(|required| required > held.bytes) {
            return Err(Fault::OutOfRange(format!(
                "{} has {} bytes; expand it by the controller first",
                held.id, held.bytes
            )));
        }
        match (held.kind, loopback::find(&pool.image(&held.id))) {
            (Kind::Directory, _) => Ok(()),
            (Kind::Image, Ok(Some(device))) => loopback::resize(&device),
            (Kind::Image, Ok(None)) => Err(Fault::Precondition(format!("{} has no device", held.id))),
            (Kind::Image, Err(fault)) => Err(fault),
        }
    }

    fn is_there(&self, staged: &Staged) -> bool {
        match (&staged.made, self.find(&staged.id)) {
            // A device that is mounted, or has a decrypted one on it, is the kernel's to keep.
            (Some(Made::Device(device)), Ok((pool, held))) if loopback::is_one(device) => {
                loopback::find(&pool.image(&held.id)).map_or(true, |found| found.as_ref() == Some(device))
            }
            _ => true,
        }
    }

    fn condition(&self, staged: &Staged) -> Condition {
        match self.find(&staged.id) {
            Ok(_) if !self.is_there(staged) => Condition::Abnormal(
                "somebody detached its loop device; unpublish the volume and stage it again".to_owned(),
            ),
            Ok((pool, held)) => pool.condition(&held),
            Err(fault) => Condition::Abnormal(fault.to_string()),
        }
    }

    fn create_ephemeral(&self, id: &VolumeId, context: &Texts, access: &Access) -> Result<(), Fault> {
        let (range, parameters) = parameters::ephemeral(context)?;
        let wanted = NewVolume {
            name: Name::parse(id.as_str())?,
            range,
            access: vec![access.clone()],
            parameters,
            mutable: Texts::new(),
            secrets: Secrets::default(),
            source: None,
            source_staged: None,
        };
        let parameters = Parameters::parse(&wanted.parameters, &wanted.access)?;
        let pool = self.pool(parameters.pool.as_deref())?;
        match self.find(id) {
            Ok((_, held)) if held.ephemeral => Ok(()),
            Ok(_) => Err(Fault::AlreadyExists(format!("{id} is a volume that is not inline"))),
            Err(fault @ Fault::Precondition(_)) => Err(fault),
            Err(_) => pool.create(id.clone(), &wanted, &parameters, None, true).map(drop),
        }
    }

    fn render(&self, text: &mut String) {
        use std::fmt::Write;
        type Figure = fn(&Figures) -> u64;
        let pools: Vec<(&str, Figures)> =
            self.pools.all().map(|pool| (pool.name.as_str(), pool.figures())).collect();
        let metrics: [(&str, Figure); 4] = [
            ("volumes", |figures| figures.volumes),
            ("snapshots", |figures| figures.snapshots),
            ("promised_bytes", |figures| figures.promised),
            ("available_bytes", |figures| figures.available),
        ];
        for (metric, value) in metrics {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# TYPE cairn_csi_pool_{metric} gauge");
            for (name, figures) in &pools {
                let _ = writeln!(text, "cairn_csi_pool_{metric}{{pool=\"{name}\"}} {}", value(figures));
            }
        }
    }
}
