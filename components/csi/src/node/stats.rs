//! NodeGetVolumeStats and NodeExpandVolume.

use super::{Made, Staged, health};
use crate::{
    backend::Condition,
    capacity::CapacityRange,
    driver::Driver,
    encryption,
    error::{During, Fault},
    filesystem,
    id::{Secrets, VolumeId},
    loopback,
    mount::Seen,
};
use cairn_contract::storage::BackendKind;
use rustix::mount::MountAttrFlags;
use std::path::Path;

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes: available, total, used. A device has a total only.
    pub(crate) bytes: (Option<u64>, u64, Option<u64>),
    /// Inodes, likewise; a device has none.
    pub(crate) inodes: Option<(u64, u64, u64)>,
    /// Its health.
    pub(crate) condition: Condition,
}

impl Driver {
    /// The record of the volume that is at `path`: staged or published there.
    fn at(&self, id: &VolumeId, path: &str) -> Result<Staged, Fault> {
        let staged = self.staged.get(&id.file_name());
        let staged = staged.ok_or_else(|| Fault::NotFound(format!("{id} is not on this node")))?;
        let path = Path::new(path);
        let published = || self.published.all().into_iter().any(|held| held.id == *id && held.target == path);
        if staged.path.as_deref() == Some(path) || published() {
            return Ok(staged);
        }
        Err(Fault::NotFound(format!("{id} is not at {}", path.display())))
    }

    /// What the kernel says of a volume's file system, at its staging path: what is read-only there was not asked to be. An
    /// inline volume has its pod's path only.
    fn health(&self, staged: &Staged, path: &Path) -> Condition {
        let own = matches!(staged.made, Some(Made::FileSystem { .. }));
        if !own && self.backend.kind() != BackendKind::Local {
            return Condition::Normal;
        }
        let options = staged.access.mount().map(|mount| mount.options.attributes());
        let read_only = staged.access.is_read_only()
            || options.is_some_and(|options| options.contains(MountAttrFlags::MOUNT_ATTR_RDONLY))
            || (staged.path.is_none()
                && self.published.all().iter().any(|held| held.target == path && held.read_only));
        health::look(staged.path.as_deref().unwrap_or(path), read_only)
    }

    /// Measures the volume at a path.
    pub(crate) fn usage(&self, id: &VolumeId, path: &str) -> Result<Usage, Fault> {
        let staged = self.at(id, path)?;
        let condition = self.backend.condition(&staged);
        let place = self.recorded(Path::new(path))?;
        if let Some(Made::Device(device)) = &staged.made {
            return Ok(Usage { bytes: (None, loopback::size(device)?, None), inodes: None, condition });
        }
        let nothing = |condition| Usage { bytes: (Some(0), 0, Some(0)), inodes: None, condition };
        match place.see() {
            Ok(Seen::Mounted { .. }) => {}
            Ok(_) => return Ok(nothing(Condition::Abnormal(format!("{path} is not mounted any more")))),
            // As of XFS that has shut itself down.
            Err(fault @ Fault::Io { .. }) => return Ok(nothing(Condition::Abnormal(fault.to_string()))),
            Err(fault) => return Err(fault),
        }
        // A call that waits for a server would hold its thread and the volume as long as the server is away.
        if !self.backend.answers(&staged) {
            return Ok(nothing(condition));
        }
        let condition = match condition {
            Condition::Normal => self.health(&staged, Path::new(path)),
            abnormal => abnormal,
        };
        let held = match (rustix::fs::statvfs(path), &condition) {
            // What cannot be measured is told by its condition.
            (Err(_), Condition::Abnormal(_)) => return Ok(nothing(condition)),
            (held, _) => held.during(|| format!("measure {path}"))?,
        };
        let bytes = |blocks: u64| blocks.saturating_mul(held.f_frsize);
        Ok(Usage {
            bytes: (
                Some(bytes(held.f_bavail)),
                bytes(held.f_blocks),
                Some(bytes(held.f_blocks.saturating_sub(held.f_bfree))),
            ),
            inodes: Some((held.f_favail, held.f_files, held.f_files.saturating_sub(held.f_ffree))),
            condition,
        })
    }

    /// Makes the volume at a path use the size it has been given. Returns its size.
    pub(crate) fn expand_on_node(
        &self,
        id: &VolumeId,
        path: &str,
        range: CapacityRange,
        secrets: &Secrets,
    ) -> Result<u64, Fault> {
        let staged = self.at(id, path)?;
        self.backend.grow(&staged, range)?;
        match &staged.made {
            None => Err(Fault::Precondition(format!("{id} is not staged"))),
            Some(Made::Device(device)) => {
                encryption::grow(id, &staged.context, secrets)?;
                loopback::size(device)
            }
            Some(Made::FileSystem { device, fs_type }) => {
                encryption::grow(id, &staged.context, secrets)?;
                filesystem::grow(device, *fs_type, Path::new(path))?;
                loopback::size(device)
            }
            Some(Made::Tree) => {
                let held = rustix::fs::statvfs(path).during(|| format!("measure {path}"))?;
                Ok(held.f_blocks.saturating_mul(held.f_frsize))
            }
        }
    }
}
