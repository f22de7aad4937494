//! Snapshots of local volumes, alone and in groups, and what volumes made from them begin with.
//!
//! A snapshot is a copy. Where the pool's file system shares blocks (XFS) that takes a moment, during which a volume in
//! use is frozen, so that the copy is consistent. Elsewhere the bytes are copied, and only of what is not in use: nobody's
//! writes wait for that. Directories cannot be frozen alone, so one that is in use is not snapshotted either.

use super::{
    copy::{self, Copied},
    parameters::Kind,
    pool::Pool,
    still::Still,
    tree,
    volume::VolumeRecord,
};
use crate::{
    backend::{Group, Snapshot},
    error::{During, Fault},
    filesystem::FsType,
    id::{Name, SnapshotId, VolumeId},
    node::Staged,
};
use cairn_daemon::record;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What is written of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    pub(super) id: SnapshotId,
    pub(super) name: Name,
    pub(super) source: VolumeId,
    /// The volume's size then.
    pub(super) bytes: u64,
    pub(super) kind: Kind,
    pub(super) fs_type: Option<FsType>,
    pub(super) encryption: Option<String>,
    /// Since 1970.
    created: Duration,
    /// Bytes that it has, as it does not change.
    pub(super) allocated: u64,
    /// Files that the volume might have had; `None`: in proportion to its size.
    #[serde(default)]
    pub(super) files: Option<u64>,
    /// They are the volume's, too: when they change there, the disk has to give as many again.
    shares: bool,
    pub(super) group: Option<Membership>,
}

/// A snapshot's group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) id: SnapshotId,
    /// All snapshots of the group: if one is missing, a crash came in between.
    members: Vec<SnapshotId>,
}

impl SnapshotRecord {
    pub(super) fn describe(&self) -> Snapshot {
        Snapshot {
            id: self.id.clone(),
            source: self.source.clone(),
            bytes: self.bytes,
            created: UNIX_EPOCH + self.created,
            group: self.group.as_ref().map(|group| group.id.clone()),
        }
    }

    /// Bytes that the disk may yet have to give for it.
    pub(super) fn outstanding(&self) -> u64 {
        if self.shares { self.allocated } else { 0 }
    }

    /// Members of its group, if it has one, that are not among `all`.
    pub(super) fn missing(&self, all: &[Self]) -> impl Iterator<Item = &SnapshotId> {
        let members = self.group.iter().flat_map(|group| &group.members);
        members.filter(|id| all.iter().all(|other| other.id != **id))
    }
}

/// A volume to be copied, and its record as staged if it is in use.
#[derive(Debug, Clone)]
pub(super) struct Original {
    pub(super) held: VolumeRecord,
    pub(super) staged: Option<Staged>,
}

impl Original {
    /// Whether somebody may be writing to it.
    pub(super) fn is_written(&self) -> bool {
        self.staged.as_ref().is_some_and(|staged| !staged.access.is_read_only())
    }
}

impl Pool {
    pub(super) fn snapshot_directory(&self, id: &SnapshotId) -> PathBuf {
        self.path.join("snapshots").join(id.file_name())
    }

    /// Makes snapshots of volumes at one moment; with one volume and no group, a plain one.
    pub(super) fn snapshot(
        &self,
        wanted: Vec<(SnapshotId, Name, Original)>,
        group: Option<&SnapshotId>,
    ) -> Result<Vec<SnapshotRecord>, Fault> {
        let bytes = wanted.iter().map(|(_, _, original)| self.allocated(&original.held)).sum();
        let reserved_for = group.or(wanted.first().map(|(id, _, _)| id)).map_or("", SnapshotId::as_str);
        let _reserved = self.reserve(reserved_for, bytes)?;
        for (_, _, original) in wanted.iter().filter(|(_, _, original)| original.is_written()) {
            self.can_be_copied_in_use(&original.held, true)?;
        }
        let members: Vec<SnapshotId> = wanted.iter().map(|(id, _, _)| id.clone()).collect();
        let mut beside = Vec::new();
        let made = (|| {
            for id in &members {
                beside.push(self.begin(&id.file_name())?);
            }
            let still: Result<Vec<Still<'_>>, Fault> =
                wanted.iter().map(|(_, _, original)| self.still(original)).collect();
            let still = still?;
            let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let mut copied = Vec::new();
            for ((_, _, original), place) in wanted.iter().zip(&beside) {
                copied.push(self.copy_of(&self.data(&original.held), place, original.held.kind)?);
            }
            drop(still);
            let mut records = Vec::new();
            for (((id, name, original), place), copied) in wanted.into_iter().zip(&beside).zip(copied) {
                let held = original.held;
                let (allocated, shares) = (self.allocated(&held), copied == Copied::Shared);
                let group = group.map(|id| Membership { id: id.clone(), members: members.clone() });
                let VolumeRecord { id: source, bytes, kind, fs_type, encryption, files, .. } = held;
                let made = SnapshotRecord {
                    id,
                    name,
                    source,
                    bytes,
                    kind,
                    fs_type,
                    encryption,
                    created,
                    allocated,
                    files,
                    shares,
                    group,
                };
                record::save(&place.join("snapshot.json"), &made)
                    .during(|| format!("write {}", place.display()))?;
                records.push(made);
            }
            for (made, place) in records.iter().zip(&beside) {
                self.finish(place, &self.snapshot_directory(&made.id))?;
            }
            Ok(records)
        })();
        match made {
            Ok(records) => {
                records.iter().for_each(|made| self.snapshots.insert(made.id.as_str(), made.clone()));
                Ok(records)
            }
            Err(fault) => {
                beside.iter().for_each(|place| self.abandon(place, None));
                for id in &members {
                    self.discard(&self.snapshot_directory(id), &id.file_name(), None)?;
                }
                Err(fault)
            }
        }
    }

    /// Removes a snapshot.
    pub(super) fn delete_snapshot(&self, held: &SnapshotRecord) -> Result<(), Fault> {
        self.discard(&self.snapshot_directory(&held.id), &held.id.file_name(), None)?;
        self.snapshots.remove(held.id.as_str());
        Ok(())
    }

    /// Removes the snapshots of a group, also those whose record is lost.
    pub(super) fn delete_group(&self, held: &[SnapshotRecord]) -> Result<(), Fault> {
        let lost: BTreeSet<&SnapshotId> = held.iter().flat_map(|one| one.missing(held)).collect();
        for id in lost {
            self.discard(&self.snapshot_directory(id), &id.file_name(), None)?;
        }
        held.iter().try_for_each(|held| self.delete_snapshot(held))
    }

    /// Where a volume's data is.
    pub(super) fn data(&self, held: &VolumeRecord) -> PathBuf {
        match held.kind {
            Kind::Directory => self.files(&held.id),
            Kind::Image => self.image(&held.id),
        }
    }

    /// Copies data into a directory, under the name that it has in every directory.
    pub(super) fn copy_of(&self, from: &Path, into: &Path, kind: Kind) -> Result<Copied, Fault> {
        match kind {
            Kind::Image => copy::copy(from, &into.join("image")),
            Kind::Directory => {
                let to = into.join("data");
                match fs::create_dir(&to) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                    made => made.during(|| format!("make {}", to.display()))?,
                }
                tree::copy(from, &to, &into.join("links"))
                    .during(|| format!("copy {} to {}", from.display(), to.display()))
            }
        }
    }

    /// Bytes of a volume that the disk has given, or might have.
    fn allocated(&self, held: &VolumeRecord) -> u64 {
        match held.kind {
            Kind::Image => fs::metadata(self.image(&held.id)).map_or(held.bytes, |seen| seen.blocks() * 512),
            Kind::Directory => self.used_by_project(held).unwrap_or(held.bytes),
        }
    }

    /// Refuses to copy what is being written to, unless that takes but a moment.
    pub(super) fn can_be_copied_in_use(&self, held: &VolumeRecord, same_pool: bool) -> Result<(), Fault> {
        let refuse = |why: &str| Err(Fault::Precondition(format!("{} is in use, and {why}", held.id)));
        match held.kind {
            Kind::Directory => refuse("a directory volume can only be copied while no pod has it"),
            Kind::Image if same_pool && self.shares_blocks()? => Ok(()),
            Kind::Image => refuse(
                "blocks cannot be shared with the copy: copy it while no pod has it, or within a pool on XFS",
            ),
        }
    }

    /// Whether the pool's file system shares blocks between files: tried, since XFS may be made without that.
    fn shares_blocks(&self) -> Result<bool, Fault> {
        let directory = self.path.join("new");
        let attempt = || {
            let (old, new) = (tempfile(&directory)?, tempfile(&directory)?);
            old.set_len(4096)?;
            copy::share(&old, &new)
        };
        attempt().during(|| format!("try to share blocks in {}", directory.display()))
    }
}

/// A file without a name.
fn tempfile(directory: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600))?.into())
}

impl Group {
    /// Of snapshots that were made together.
    pub(super) fn of(id: SnapshotId, records: &[SnapshotRecord]) -> Self {
        let created = records.first().map_or(Duration::ZERO, |first| first.created);
        Self {
            id,
            snapshots: records.iter().map(SnapshotRecord::describe).collect(),
            created: UNIX_EPOCH + created,
        }
    }
}
