//! What a kind of storage adds to the driver.
//!
//! The driver ([`crate::driver`]) does what is the same for all: it checks requests, locks volumes, keeps the node's
//! records, makes file systems, mounts, publishes, measures, and undoes what was half-made. A [`Backend`] knows where
//! its volumes come from. Its calls block; the driver runs each on a thread of its own and never two at a time
//! for one volume. Every call may be made again after a crash in the middle of it, and must then end as if made once.

use crate::{
    access::{Access, AccessMode},
    capacity::CapacityRange,
    error::{During, Fault},
    fs_group,
    id::{Name, Secrets, SnapshotId, VolumeId},
    mount::{OptionSet, Tree},
    node::Staged,
};
use cairn_contract::{
    csi::{
        controller_service_capability::rpc::Type as ControllerRpc,
        node_service_capability::rpc::Type as NodeRpc,
    },
    storage::BackendKind,
};
use rustix::{
    fd::AsFd,
    fs::{Mode, OFlags, openat},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

/// Texts by key: parameters, contexts.
pub type Texts = BTreeMap<String, String>;

/// What a backend can do, and so what its driver announces.
#[derive(Debug, Clone, Copy)]
pub struct Features {
    /// Calls of the Controller service; none: there is no such service.
    pub controller: &'static [ControllerRpc],
    /// Calls of the Node service.
    pub node: &'static [NodeRpc],
    /// Snapshots of several volumes at one moment.
    pub groups: bool,
    /// Volumes are on one node.
    pub topology: bool,
    /// Mount flags and file systems that its volumes can have.
    pub options: OptionSet,
    /// Inline volumes that live as long as their pod.
    pub ephemeral: bool,
}

/// What a volume is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentSource {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// Another volume, as it is now.
    Volume(VolumeId),
}

/// A volume that is asked for.
#[derive(Debug)]
pub struct NewVolume {
    /// Asking twice by one name asks for one volume.
    pub name: Name,
    /// How large.
    pub range: CapacityRange,
    /// All the ways it is to be used in; at least one.
    pub access: Vec<Access>,
    /// The StorageClass's parameters, without those that sidecars add (`csi.storage.k8s.io/…`).
    pub parameters: Texts,
    /// A VolumeAttributesClass's parameters.
    pub mutable: Texts,
    /// Secrets.
    pub secrets: Secrets,
    /// What is in it at first.
    pub source: Option<ContentSource>,
    /// The record of the volume that is its source, if that is in use on this node.
    pub source_staged: Option<Staged>,
}

/// A volume that is there.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Its identifier.
    pub id: VolumeId,
    /// Its size.
    pub bytes: u64,
    /// What the node's calls are given.
    pub context: Texts,
    /// What it was made from.
    pub source: Option<ContentSource>,
    /// What is wrong with it, if anything.
    pub condition: Condition,
}

/// A volume's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Normal,
    /// What is wrong.
    Abnormal(String),
}

/// A snapshot that is asked for.
#[derive(Debug)]
pub struct NewSnapshot {
    /// Asking twice by one name asks for one snapshot.
    pub name: Name,
    /// Of what.
    pub source: VolumeId,
    /// The VolumeSnapshotClass's parameters, without those that sidecars add.
    pub parameters: Texts,
    /// The volume's record, if it is in use on this node.
    pub staged: Option<Staged>,
}

/// A volume of a group of snapshots, and its record if it is in use on this node.
pub type Member = (VolumeId, Option<Staged>);

/// A snapshot that is there.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its identifier.
    pub id: SnapshotId,
    /// Of what.
    pub source: VolumeId,
    /// Bytes that a volume made from it needs at least.
    pub bytes: u64,
    /// The moment whose state it holds.
    pub created: SystemTime,
    /// The group it was made in.
    pub group: Option<SnapshotId>,
}

/// Snapshots of several volumes at one moment.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its identifier.
    pub id: SnapshotId,
    /// One of each volume.
    pub snapshots: Vec<Snapshot>,
    /// The moment.
    pub created: SystemTime,
}

/// Room for volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be promised.
    pub available: u64,
    /// Bytes of the largest volume that can be made now.
    pub largest: u64,
    /// Bytes of the smallest one.
    pub smallest: u64,
}

/// What expanding a volume came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expanded {
    /// Its size now.
    pub bytes: u64,
    /// The node has to do its part.
    pub node: bool,
}

/// A volume to be used on this node.
#[derive(Debug)]
pub struct Attachment<'call> {
    /// Which.
    pub id: &'call VolumeId,
    /// How.
    pub access: &'call Access,
    /// The volume's context.
    pub context: &'call Texts,
    /// The publish context.
    pub publish: &'call Texts,
    /// Secrets of the stage or publish call.
    pub secrets: &'call Secrets,
}

/// A volume as it reaches the node.
#[derive(Debug)]
pub enum Source {
    /// A block device: encrypted if asked for, formatted if blank, and mounted or published by the driver.
    Device(PathBuf),
    /// Files, as a mount that is attached nowhere yet. Mount attributes and the group are the driver's part.
    Tree(Tree),
}

fn unsupported<T>(backend: BackendKind, what: &str) -> Result<T, Fault> {
    Err(Fault::Unsupported(format!("{} does not {what}", backend.driver())))
}

/// A kind of storage. What is not overridden is answered with UNIMPLEMENTED, and must not be announced.
pub trait Backend: Send + Sync + 'static {
    /// Which.
    fn kind(&self) -> BackendKind;

    /// What it can do.
    fn features(&self) -> Features;

    /// Refuses ways of use that its volumes cannot have.
    ///
    /// # Errors
    /// [`Fault::Invalid`], saying which can be had.
    fn accepts(&self, access: &Access) -> Result<(), Fault>;

    /// Gives a volume's files to the pod's group (VOLUME_MOUNT_GROUP). `tree` is its mount, which nobody uses yet.
    ///
    /// # Errors
    /// If its disk fails or is read-only.
    fn give(&self, tree: &Tree, group: u32) -> Result<(), Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(tree.as_fd(), ".", flags, Mode::empty());
        fs_group::give(root.during(|| "open a volume's root".to_owned())?, group)
    }

    /// The volumes that have a record on this node when the driver starts, half-made ones too; it is called once, before any
    /// other call.
    fn remember(&self, staged: &[Staged]) {
        let _ = staged;
    }

    /// Undoes what a crash left half-made. `staged` are the volumes that are in use on this node; it is called once, when
    /// those that were half-brought are taken away.
    ///
    /// # Errors
    /// If the driver cannot serve in this state.
    fn recover(&self, staged: &[Staged]) -> Result<(), Fault> {
        let _ = staged;
        Ok(())
    }

    /// Whether it can serve anything now.
    fn ready(&self) -> bool {
        true
    }

    /// Tries again what could not be used at the start; called now and then, until it says that all can. `staged` are the volumes
    /// in use on this node.
    fn retry(&self, staged: &[Staged]) -> bool {
        let _ = staged;
        true
    }

    /// That [`Self::volumes`] and [`Self::snapshots`] list all there are: what is not in them is not there.
    ///
    /// # Errors
    /// [`Fault::Unavailable`], saying what cannot be looked at now.
    fn complete(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// Makes a volume, or finds the one that was made by this name.
    ///
    /// # Errors
    /// [`Fault::AlreadyExists`] if that one is different; others as they come.
    fn create(&self, wanted: &NewVolume) -> Result<Volume, Fault> {
        let _ = wanted;
        unsupported(self.kind(), "make volumes")
    }

    /// Removes a volume; none is fine.
    ///
    /// # Errors
    /// [`Fault::Precondition`] if it is in use.
    fn delete(&self, id: &VolumeId, secrets: &Secrets) -> Result<(), Fault> {
        let _ = (id, secrets);
        unsupported(self.kind(), "remove volumes")
    }

    /// Finds a volume.
    ///
    /// # Errors
    /// [`Fault::NotFound`].
    fn volume(&self, id: &VolumeId) -> Result<Volume, Fault> {
        let _ = id;
        unsupported(self.kind(), "know its volumes")
    }

    /// All volumes that can be looked at, by identifier.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn volumes(&self) -> Result<Vec<Volume>, Fault> {
        unsupported(self.kind(), "list volumes")
    }

    /// Whether a volume can also be used like this, with these parameters.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if there is no such volume; [`Fault::Invalid`], saying why it cannot.
    fn validate(
        &self,
        id: &VolumeId,
        access: &[Access],
        context: &Texts,
        parameters: &Texts,
    ) -> Result<(), Fault> {
        let _ = (context, parameters);
        self.volume(id)?;
        access.iter().try_for_each(|access| self.accepts(access))
    }

    /// Room for volumes with these parameters.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for unknown parameters.
    fn space(&self, parameters: &Texts, access: &[Access]) -> Result<Space, Fault> {
        let _ = (parameters, access);
        unsupported(self.kind(), "know its capacity")
    }

    /// Makes a volume larger.
    ///
    /// # Errors
    /// [`Fault::NotFound`], [`Fault::OutOfRange`], [`Fault::Exhausted`].
    fn expand(&self, id: &VolumeId, range: CapacityRange) -> Result<Expanded, Fault> {
        let _ = (id, range);
        unsupported(self.kind(), "expand volumes")
    }

    /// Changes what may be changed.
    ///
    /// # Errors
    /// [`Fault::NotFound`], [`Fault::Invalid`].
    fn modify(&self, id: &VolumeId, parameters: &Texts) -> Result<(), Fault> {
        let _ = (id, parameters);
        unsupported(self.kind(), "modify volumes")
    }

    /// Makes a snapshot, or finds the one that was made by this name.
    ///
    /// # Errors
    /// [`Fault::AlreadyExists`] if that one is of another volume.
    fn snapshot(&self, wanted: &NewSnapshot) -> Result<Snapshot, Fault> {
        let _ = wanted;
        unsupported(self.kind(), "make snapshots")
    }

    /// Removes a snapshot; none is fine.
    ///
    /// # Errors
    /// [`Fault::Precondition`] if it is part of a group.
    fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Fault> {
        let _ = id;
        unsupported(self.kind(), "remove snapshots")
    }

    /// All snapshots that can be looked at, by identifier.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn snapshots(&self) -> Result<Vec<Snapshot>, Fault> {
        unsupported(self.kind(), "list snapshots")
    }

    /// Makes snapshots of several volumes at one moment. `members` are sorted and different.
    ///
    /// # Errors
    /// As [`Self::snapshot`]; then there is none.
    fn group(&self, name: &Name, members: &[Member], parameters: &Texts) -> Result<Group, Fault> {
        let _ = (name, members, parameters);
        unsupported(self.kind(), "make groups of snapshots")
    }

    /// Removes a group with its snapshots; none is fine.
    ///
    /// # Errors
    /// If the disk fails.
    fn delete_group(&self, id: &SnapshotId) -> Result<(), Fault> {
        let _ = id;
        unsupported(self.kind(), "remove groups of snapshots")
    }

    /// Brings a volume to this node.
    ///
    /// # Errors
    /// [`Fault::NotFound`], [`Fault::Invalid`] for a context that makes no sense, [`Fault::Unavailable`].
    fn attach(&self, wanted: &Attachment<'_>) -> Result<Source, Fault>;

    /// Takes it away again, however far [`Self::attach`] came; not there is fine. Everything mounted from it is
    /// unmounted by then.
    ///
    /// # Errors
    /// If it is in use.
    fn detach(&self, staged: &Staged) -> Result<(), Fault>;

    /// Whether a staged volume's device is still the volume's: somebody else may have taken it away.
    fn is_there(&self, staged: &Staged) -> bool {
        let _ = staged;
        true
    }

    /// Whether taking it away may have to wait for a server now. The driver does not do that at its start: the next call for the
    /// volume does.
    fn waits(&self, staged: &Staged) -> bool {
        let _ = staged;
        false
    }

    /// Makes the node see a volume's new size: a device that is now larger, or files that may take more. The driver then
    /// grows what is on the device.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] if the volume has not become so large.
    fn grow(&self, staged: &Staged, range: CapacityRange) -> Result<(), Fault> {
        let _ = (staged, range);
        unsupported(self.kind(), "expand volumes")
    }

    /// The volume's health as this node sees it.
    fn condition(&self, staged: &Staged) -> Condition {
        let _ = staged;
        Condition::Normal
    }

    /// Whether a volume's files can be looked at without waiting; asked after [`Self::condition`].
    fn answers(&self, staged: &Staged) -> bool {
        let _ = staged;
        true
    }

    /// Makes an inline volume that lives as long as its pod, by the context of its publish call. It is removed with
    /// [`Self::delete`].
    ///
    /// # Errors
    /// [`Fault::Invalid`] for unknown keys.
    fn create_ephemeral(&self, id: &VolumeId, context: &Texts, access: &Access) -> Result<(), Fault> {
        let _ = (id, context, access);
        unsupported(self.kind(), "make inline volumes")
    }

    /// Adds its figures in Prometheus' text format.
    fn render(&self, text: &mut String) {
        let _ = text;
    }
}

/// Refuses modes that span nodes, for volumes that are on one.
///
/// # Errors
/// [`Fault::Invalid`].
pub fn single_node(mode: AccessMode) -> Result<(), Fault> {
    if mode.is_single_node() {
        return Ok(());
    }
    Err(Fault::Invalid(format!("{}: a local volume is on one node; use a SINGLE_NODE mode", mode.name())))
}
