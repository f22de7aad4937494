//! NodePublishVolume and NodeUnpublishVolume.

use super::{Made, Published, Staged, stage};
use crate::{
    access::AccessMode,
    driver::Driver,
    encryption,
    error::Fault,
    id::Secrets,
    mount::{self, Place, Seen, Tree},
};
use rustix::mount::MountAttrFlags;
use std::path::Path;

/// The key of a path's record.
pub(super) fn key(target: &Path) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(target.as_os_str().as_encoded_bytes()))
}

impl Driver {
    /// Puts a staged volume at a pod's path; that it is there already, in the same way, is fine.
    pub(crate) fn publish(&self, wanted: Published, place: &Place) -> Result<(), Fault> {
        let staged = self.staged.get(&wanted.id.file_name()).filter(|held| held.made.is_some());
        let staged =
            staged.ok_or_else(|| Fault::Precondition(format!("{} is not staged on this node", wanted.id)))?;
        if staged.access.mount().is_some() != wanted.access.mount().is_some() {
            return Err(Fault::Invalid(format!(
                "{} is staged as {}, and cannot be published as the other",
                wanted.id,
                if staged.access.mount().is_some() { "files" } else { "a block device" }
            )));
        }
        if !self.is_new(&wanted, place)? {
            return Ok(());
        }
        self.put(wanted, place, |published| self.copy(&staged, published))
    }

    /// Puts an inline volume at its pod's path: made, attached and mounted in one call.
    pub(crate) fn publish_inline(
        &self,
        wanted: Staged,
        target: Published,
        place: &Place,
        secrets: &Secrets,
    ) -> Result<(), Fault> {
        if !self.is_new(&target, place)? {
            return Ok(());
        }
        if let Some(held) = self.staged.get(&wanted.id.file_name()) {
            if held.path.is_some() {
                return Err(Fault::AlreadyExists(format!("{} is the name of a staged volume", held.id)));
            }
            self.remove_inline(&held)?;
        }
        // The record says that it is an inline volume, so whoever finds it half-made removes it.
        let marked = Staged { made: None, ..wanted.clone() };
        self.staged.put(&marked.id.file_name(), marked.clone())?;
        let made =
            self.backend.create_ephemeral(&wanted.id, &wanted.context, &wanted.access).and_then(|()| {
                self.put(target, place, |published| {
                    let mut tree = None;
                    self.bring(wanted, secrets, |made| {
                        tree = Some(made);
                        Ok(())
                    })?;
                    let tree = tree.ok_or_else(|| {
                        Fault::Invalid("an inline volume cannot be a block device".to_owned())
                    })?;
                    tree.restrict(restrictions(published))?;
                    Ok(tree)
                })
            });
        if made.is_err()
            && let Err(other) = self.remove_inline(&marked)
        {
            tracing::warn!(volume = %marked.id, "undoing a failed publish: {other}");
        }
        made
    }

    pub(super) fn remove_inline(&self, held: &Staged) -> Result<(), Fault> {
        // In this order, so that a crash in between leaves the record.
        encryption::close(&held.id, &held.context)?;
        encryption::clear(&held.id, &self.headers)?;
        self.backend.detach(held)?;
        self.backend.delete(&held.id, &Secrets::default())?;
        self.staged.remove(&held.id.file_name())
    }

    /// Whether there is anything to do, and nothing against it.
    fn is_new(&self, wanted: &Published, place: &Place) -> Result<bool, Fault> {
        let others = self.published.all();
        if let Some(held) = others.iter().find(|held| held.target == wanted.target) {
            let same = Published { made: true, ..wanted.clone() };
            match place.see()? {
                Seen::Mounted { .. } if *held == same => return Ok(false),
                Seen::Mounted { .. } if held.made => {
                    return Err(Fault::AlreadyExists(format!(
                        "{} is published at {} already, in another way",
                        held.id,
                        held.target.display()
                    )));
                }
                _ => self.unpublish(held)?,
            }
        } else if matches!(place.see()?, Seen::Mounted { .. }) {
            return Err(Fault::Precondition(format!(
                "something that is not this volume is mounted on {}",
                place.path().display()
            )));
        }
        let elsewhere = others.iter().find(|held| held.id == wanted.id && held.target != wanted.target);
        let alone = |mode| mode == AccessMode::SingleNodeSingleWriter;
        match elsewhere {
            Some(held) if alone(held.access.mode) || alone(wanted.access.mode) => {
                Err(Fault::Precondition(format!(
                    "{} is in use at {}, and SINGLE_NODE_SINGLE_WRITER allows one path",
                    held.id,
                    held.target.display()
                )))
            }
            _ => Ok(true),
        }
    }

    fn put(
        &self,
        mut wanted: Published,
        place: &Place,
        tree: impl FnOnce(&Published) -> Result<Tree, Fault>,
    ) -> Result<(), Fault> {
        let key = key(&wanted.target);
        wanted.made = false;
        self.published.put(&key, wanted.clone())?;
        let mounted = (|| {
            place.make(wanted.access.mount().is_some())?;
            place.attach(tree(&wanted)?)?;
            wanted.made = true;
            self.published.put(&key, wanted.clone())
        })();
        if mounted.is_err()
            && let Err(other) = self.unpublish(&wanted)
        {
            tracing::warn!(volume = %wanted.id, "undoing a failed publish: {other}");
        }
        mounted
    }

    /// Takes a volume away from a pod's path, however far it had come. An inline volume goes with it.
    pub(crate) fn unpublish(&self, held: &Published) -> Result<(), Fault> {
        let place = self.recorded(&held.target)?;
        place.detach()?;
        place.remove()?;
        if let Some(staged) = self.staged.get(&held.id.file_name()).filter(|staged| staged.path.is_none()) {
            self.remove_inline(&staged)?;
        }
        self.published.remove(&key(&held.target))
    }

    /// What is mounted for one pod.
    fn copy(&self, staged: &Staged, wanted: &Published) -> Result<Tree, Fault> {
        let tree = match (&staged.made, &staged.path) {
            (Some(Made::Device(device)), _) => mount::copy(device)?,
            (_, Some(path)) => mount::copy(path)?,
            (_, None) => {
                return Err(Fault::Precondition(format!("{} is an inline volume of another pod", staged.id)));
            }
        };
        if !wanted.read_only {
            self.give(&tree, &wanted.access)?;
        }
        tree.restrict(restrictions(wanted))?;
        Ok(tree)
    }
}

fn restrictions(wanted: &Published) -> MountAttrFlags {
    let attributes =
        wanted.access.mount().map_or(MountAttrFlags::empty(), |mount| mount.options.attributes());
    let read_only =
        if wanted.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    attributes | read_only | stage::read_only(&wanted.access)
}
