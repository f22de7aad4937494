//! A volume kept still while it is copied.
//!
//! Its file system is frozen for that moment. A driver that dies then leaves it frozen, and its next start has to thaw it,
//! but not one that somebody of the node has frozen. So there is a mark for each that the driver freezes, written
//! before and removed after.

use super::{pool::Pool, snapshot::Original};
use crate::{
    error::{During, Fault},
    filesystem::Frozen,
    id::VolumeId,
    node::{Made, Staged},
    records::Records,
};
use std::{fs::File, path::Path};

/// What keeps a volume still.
#[derive(Debug)]
pub(super) enum Still<'pool> {
    /// Nobody writes to it.
    Idle,
    /// Its file system is frozen until this is dropped.
    Frozen { _until_dropped: Marked<'pool> },
    /// A device whose writes so far are on disk: as after a power cut.
    Flushed,
}

/// A frozen file system with its mark.
#[derive(Debug)]
pub(super) struct Marked<'pool> {
    frozen: Option<Frozen>,
    id: VolumeId,
    marks: &'pool Records<VolumeId>,
}

impl<'pool> Marked<'pool> {
    fn freeze(id: &VolumeId, mounted: &Path, marks: &'pool Records<VolumeId>) -> Result<Self, Fault> {
        marks.put(&id.file_name(), id.clone())?;
        let mut marked = Self { frozen: None, id: id.clone(), marks };
        marked.frozen = Some(Frozen::freeze(mounted)?);
        Ok(marked)
    }
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        drop(self.frozen.take());
        if let Err(fault) = self.marks.remove(&self.id.file_name()) {
            tracing::warn!(volume = %self.id, "it is thawed, and still marked as frozen: {fault}");
        }
    }
}

/// Thaws what a driver that died had frozen.
pub(super) fn thaw(marks: &Records<VolumeId>, staged: &[Staged]) {
    for id in marks.all() {
        let held = staged.iter().find(|held| held.id == id);
        let mounted = held.filter(|held| matches!(held.made, Some(Made::FileSystem { .. })));
        let thawed = mounted.and_then(|held| held.path.as_deref()).map_or(Ok(()), Frozen::thaw);
        if let Err(fault) = thawed.and_then(|()| marks.remove(&id.file_name())) {
            tracing::error!(volume = %id, "it was frozen for a copy, and may be still: {fault}");
        }
    }
}

impl Pool {
    /// Makes a volume keep still.
    pub(super) fn still(&self, original: &Original) -> Result<Still<'_>, Fault> {
        let Some(staged) = original.staged.as_ref().filter(|_| original.is_written()) else {
            return Ok(Still::Idle);
        };
        match (&staged.made, &staged.path) {
            (Some(Made::FileSystem { .. }), Some(path)) => {
                let marked = Marked::freeze(&staged.id, path, &self.marks.frozen)?;
                Ok(Still::Frozen { _until_dropped: marked })
            }
            (Some(Made::Device(device)), _) => {
                let flushed = File::open(device).and_then(|device| device.sync_all());
                flushed.during(|| format!("flush {}", device.display())).map(|()| Still::Flushed)
            }
            (None, Some(_)) => Err(Fault::Precondition(format!(
                "{} is half staged or half unstaged on this node; ask for either again",
                staged.id
            ))),
            (_, None) => Err(Fault::Precondition(format!("{} is in use by one pod, inline", staged.id))),
            (Some(Made::Tree), Some(_)) => {
                Err(Fault::Precondition(format!("{} is files in use, which cannot be kept still", staged.id)))
            }
        }
    }
}
