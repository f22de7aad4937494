//! Volumes on the node's own disks.
//!
//! A **pool** is a directory on a file system ([`pool`]). A volume in it is either a **directory**, held to its size by a project
//! quota, or an **image**, a sparse file behind a loop device with ext4, XFS or nothing on it ([`volume`]). Directories cost
//! nothing and use the pool's file system; images can be block devices, have their own file system, and are snapshotted as
//! a whole.
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

mod parameters;
mod pool;
mod quota;
mod volume;

use crate::{
    access::Access,
    backend::{
        Attachment, Backend, Condition, ContentSource, Expanded, Features, NewVolume, Source, Space, Texts,
        Volume, single_node,
    },
    capacity::CapacityRange,
    error::{During, Fault},
    id::{Name, Secrets, VolumeId},
    loopback, mount,
    mount::OptionSet,
    node::Staged,
};
use cairn_contract::{
    csi::{
        controller_service_capability::rpc::Type as ControllerRpc,
        node_service_capability::rpc::Type as NodeRpc,
    },
    storage::{BackendKind, StorageConfig},
};
use parameters::{Kind, Parameters};
use pool::Pool;
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsFd;
use volume::VolumeRecord;

/// The backend.
#[derive(Debug)]
pub struct Local {
    node: String,
    pools: Vec<Pool>,
}

/// Opens the pools.
///
/// # Errors
/// If one cannot be used.
pub fn open(config: &StorageConfig) -> Result<Box<dyn Backend>, Fault> {
    let node = crate::server::node_name(config);
    let pools: Result<Vec<Pool>, Fault> = config.pools.iter().map(Pool::open).collect();
    Ok(Box::new(Local { node, pools: pools? }))
}

const CONTROLLER: &[ControllerRpc] = &[
    ControllerRpc::CreateDeleteVolume,
    ControllerRpc::ListVolumes,
    ControllerRpc::GetCapacity,
    ControllerRpc::ExpandVolume,
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
        let found = match name {
            None => self.pools.first(),
            Some(name) => self.pools.iter().find(|pool| pool.name == name),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = self.pools.iter().map(|pool| pool.name.as_str()).collect();
            Fault::Invalid(format!(
                "there is no pool {:?} on node {}; it has {}",
                name.unwrap_or_default(),
                self.node,
                names.join(", ")
            ))
        })
    }

    /// A volume and the pool it is in.
    fn find(&self, id: &VolumeId) -> Result<(&Pool, VolumeRecord), Fault> {
        let found = self.pools.iter().find_map(|pool| Some((pool, pool.volumes.get(id.as_str())?)));
        found.ok_or_else(|| Fault::NotFound(format!("there is no volume {id} on node {}", self.node)))
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
            groups: false,
            topology: true,
            options: OptionSet::FILE_SYSTEM,
            ephemeral: true,
        }
    }

    fn accepts(&self, access: &Access) -> Result<(), Fault> {
        single_node(access.mode)
    }

    fn recover(&self, staged: &[Staged]) -> Result<(), Fault> {
        self.pools.iter().try_for_each(|pool| pool.recover(staged))
    }

    fn create(&self, wanted: &NewVolume) -> Result<Volume, Fault> {
        let parameters = Parameters::parse(&wanted.parameters, &wanted.access)?;
        let pool = self.pool(parameters.pool.as_deref())?;
        let id = volume::id(&self.node, &wanted.name)?;
        if let Ok((held_in, held)) = self.find(&id) {
            return held
                .is_what(wanted, &parameters, held_in.name == pool.name)
                .map(|()| held_in.describe(&held));
        }
        let made = pool.create(id, wanted, &parameters, false)?;
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
            .iter()
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

    fn condition(&self, staged: &Staged) -> Condition {
        match self.find(&staged.id) {
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
            source: None::<ContentSource>,
        };
        let parameters = Parameters::parse(&wanted.parameters, &wanted.access)?;
        let pool = self.pool(parameters.pool.as_deref())?;
        match self.find(id) {
            Ok((_, held)) if held.ephemeral => Ok(()),
            Ok(_) => Err(Fault::AlreadyExists(format!("{id} is a volume that is not inline"))),
            Err(_) => pool.create(id.clone(), &wanted, &parameters, true).map(drop),
        }
    }

    fn render(&self, text: &mut String) {
        self.pools.iter().for_each(|pool| pool.render(text));
    }
}
