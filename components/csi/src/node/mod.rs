//! The node's part: volumes staged and published, and the records of both.
//!
//! **Staged** is a volume brought to this node: attached, and if it is to be files, mounted at the staging path.
//! **Published** is a copy of that mount, or of the device's node, at a pod's path. A record is written before the first
//! thing is done for it and removed after the last is undone; so whatever a crash leaves has a record, and the
//! next start removes what is not whole ([`recover`]). It says `made` only while all of it is there: not while the device
//! below is brought, and not while it is taken away, when its path may be another volume's already. The records are in the run directory: a reboot takes them away
//! together with the mounts.

mod health;
mod publish;
mod recover;
mod service;
mod stage;
mod stats;

pub use service::NodeServer;

use crate::{access::Access, backend::Texts, filesystem::FsType, id::VolumeId};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A volume brought to this node. There is one record a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// Which.
    pub id: VolumeId,
    /// Where; `None` for inline volumes, which have no staging path of the kubelet's.
    pub path: Option<PathBuf>,
    /// How it may be used.
    pub access: Access,
    /// The volume's context.
    pub context: Texts,
    /// The publish context.
    pub publish: Texts,
    /// What it became; `None` while it is being made.
    pub made: Option<Made>,
}

/// A staged volume that is whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// A device, for block access.
    Device(PathBuf),
    /// A file system on a device, mounted.
    FileSystem {
        /// The device that is mounted: with encryption, the decrypted one.
        device: PathBuf,
        /// What is on it.
        fs_type: FsType,
    },
    /// Files, mounted.
    Tree,
}

/// A volume at a pod's path. There is one record a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Which.
    pub id: VolumeId,
    /// Where.
    pub target: PathBuf,
    /// How it is used there.
    pub access: Access,
    /// It cannot be written to there.
    pub read_only: bool,
    /// It is there: the mount was made.
    pub made: bool,
}
