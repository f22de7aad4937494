//! NodeStageVolume and NodeUnstageVolume, and what they share with inline volumes.

use super::{Made, Staged};
use crate::{
    access::Access,
    backend::{Attachment, Source},
    driver::Driver,
    encryption,
    error::Fault,
    filesystem::{self, Content, FsType, Unfinished},
    id::{Secrets, VolumeId},
    mount::{self, Place, Seen, Tree},
};
use rustix::mount::MountAttrFlags;
use std::path::Path;

impl Driver {
    /// Brings a volume to the node; that it is there already, in the same way, is fine.
    pub(crate) fn stage(&self, wanted: Staged, place: &Place, secrets: &Secrets) -> Result<(), Fault> {
        if let Some(held) = self.staged.get(&wanted.id.file_name()) {
            if held.made.is_some() && self.is_whole(&held)? {
                return same_stage(&held, &wanted);
            }
            self.unstage(&held)?;
        }
        match place.see()? {
            Seen::Bare { directory: true } => {}
            Seen::Nothing => place.make(true)?,
            Seen::Bare { .. } => {
                return Err(Fault::Precondition(format!("{} is no directory", place.path().display())));
            }
            Seen::Mounted { .. } => {
                return Err(Fault::Precondition(format!(
                    "something that is not this volume is mounted on {}",
                    place.path().display()
                )));
            }
        }
        self.bring(wanted, secrets, |tree| place.attach(tree))
    }

    /// Attaches a volume, makes it what it is to be and records that. What fails is undone.
    pub(super) fn bring(
        &self,
        mut wanted: Staged,
        secrets: &Secrets,
        attach: impl FnOnce(Tree) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let key = wanted.id.file_name();
        wanted.made = None;
        self.staged.put(&key, wanted.clone())?;
        let made = self.make(&wanted, secrets, attach);
        let recorded = made.and_then(|made| {
            wanted.made = Some(made);
            self.staged.put(&key, wanted.clone())
        });
        if let Err(fault) = recorded {
            if let Err(other) = self.unstage(&wanted) {
                tracing::warn!(volume = %wanted.id, "undoing a failed stage: {other}");
            }
            return Err(fault);
        }
        Ok(())
    }

    fn make(
        &self,
        wanted: &Staged,
        secrets: &Secrets,
        attach: impl FnOnce(Tree) -> Result<(), Fault>,
    ) -> Result<Made, Fault> {
        let Staged { id, access, context, publish, .. } = wanted;
        let device = match self.backend.attach(&Attachment { id, access, context, publish, secrets })? {
            Source::Device(device) => encryption::open(id, context, secrets, device, &self.headers)?,
            Source::Tree(tree) => {
                let Some(held) = access.mount() else {
                    return Err(Fault::Invalid(format!(
                        "{id} is files: it cannot be used as a block device"
                    )));
                };
                self.give(&tree, access)?;
                tree.restrict(held.options.attributes() | read_only(access))?;
                attach(tree)?;
                return Ok(Made::Tree);
            }
        };
        let Some(held) = access.mount() else { return Ok(Made::Device(device)) };
        let fs_type = self.file_system(id, &device, held.fs_type)?;
        if !access.is_read_only() {
            filesystem::check(&device, fs_type)?;
        }
        let tree = mount::of_device(&device, fs_type, &held.options, access.is_read_only())?;
        self.give(&tree, access)?;
        attach(tree)?;
        // A volume made from a smaller one, or expanded while nobody had it.
        if let (Some(path), false) = (&wanted.path, access.is_read_only())
            && filesystem::is_smaller_than_its_device(&device, fs_type)?
        {
            filesystem::grow(&device, fs_type, path)?;
        }
        Ok(Made::FileSystem { device, fs_type })
    }

    /// What is on a device; made if nothing is. That making has begun is recorded where a power cut does not take
    /// it away: a device with half a file system made by us is not somebody's data.
    fn file_system(&self, id: &VolumeId, device: &Path, wanted: Option<FsType>) -> Result<FsType, Fault> {
        let key = id.file_name();
        let content = filesystem::look(device)?;
        match (content, wanted) {
            (Content::FileSystem(found), None) => Ok(found),
            (Content::FileSystem(found), Some(wanted)) if found == wanted => Ok(found),
            (Content::Blank, _) => {
                let fs_type = wanted.unwrap_or(FsType::Ext4);
                self.formatting.put(&key, id.clone())?;
                if let Some(disk) = Unfinished::on(device) {
                    self.unfinished.put(&key, disk)?;
                }
                filesystem::make(device, fs_type)?;
                self.unfinished.remove(&key)?;
                self.formatting.remove(&key)?;
                Ok(fs_type)
            }
            (content, _) if self.formatting.get(&key).is_some() => Err(Fault::Precondition(format!(
                "{id} holds {content}: a file system was being made on {} when this node stopped. Nothing was in the \
                 volume; wipe it (wipefs -a, or zeros over its first and last MiB) and it is made again",
                device.display()
            ))),
            (content, wanted) => Err(Fault::Precondition(format!(
                "{id} holds {content}, not {}; it is neither mounted nor formatted",
                wanted.map_or("a file system this driver mounts", FsType::name)
            ))),
        }
    }

    /// Takes a volume away from the node, however far it had come.
    pub(crate) fn unstage(&self, held: &Staged) -> Result<(), Fault> {
        if let Some(path) = &held.path {
            let place = self.recorded(path)?;
            // Only a volume that is files is mounted there.
            if held.access.mount().is_some() {
                place.detach()?;
            }
        }
        // A device's path may soon be another volume's: from here on nobody takes this one for whole.
        if held.made.is_some() {
            self.staged.put(&held.id.file_name(), Staged { made: None, ..held.clone() })?;
        }
        self.clear(&held.id)?;
        encryption::close(&held.id, &held.context)?;
        encryption::clear(&held.id, &self.headers)?;
        self.backend.detach(held)?;
        self.staged.remove(&held.id.file_name())
    }

    /// Makes a disk blank again on which a file system was being made, while it is still the same.
    fn clear(&self, id: &VolumeId) -> Result<(), Fault> {
        let key = id.file_name();
        let Some(disk) = self.unfinished.get(&key) else { return Ok(()) };
        if disk.clear()? {
            self.formatting.remove(&key)?;
            tracing::info!(volume = %id, "the making of its file system was cut short, and is begun anew when it is staged");
        }
        self.unfinished.remove(&key)
    }

    /// What a record says is so.
    pub(super) fn is_whole(&self, held: &Staged) -> Result<bool, Fault> {
        Ok(match (&held.made, &held.path) {
            (None, _) => false,
            (Some(Made::Device(device)), _) => device.exists() && self.backend.is_there(held),
            (Some(_), None) => true,
            (Some(_), Some(path)) => matches!(self.recorded(path)?.see()?, Seen::Mounted { .. }),
        })
    }

    /// The files' group, if one is asked for and they can be written to.
    pub(super) fn give(&self, tree: &Tree, access: &Access) -> Result<(), Fault> {
        match access.mount().and_then(|mount| mount.group) {
            Some(group) if !access.is_read_only() => self.backend.give(tree, group),
            _ => Ok(()),
        }
    }
}

pub(super) fn read_only(access: &Access) -> MountAttrFlags {
    if access.is_read_only() { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() }
}

fn same_stage(held: &Staged, wanted: &Staged) -> Result<(), Fault> {
    if held.path != wanted.path {
        return Err(Fault::Precondition(format!(
            "{} is staged at {}",
            held.id,
            held.path.as_deref().unwrap_or(Path::new("a pod's path")).display()
        )));
    }
    // What a volume is published with may differ from pod to pod: its mode and group.
    let same = match (held.access.mount(), wanted.access.mount()) {
        (None, None) => true,
        (Some(held), Some(wanted)) => held.fs_type == wanted.fs_type && held.options == wanted.options,
        _ => false,
    } && held.access.mode == wanted.access.mode;
    if same {
        return Ok(());
    }
    Err(Fault::AlreadyExists(format!("{} is staged there already, with another volume_capability", held.id)))
}
