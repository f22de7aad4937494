//! What the daemon knows of pods and containers, in memory and on disk.

use super::shim_client::ShimClient;
use crate::{
    cgroup::Resources, image::ImageHold, network::Attachment, protocol::Exit, spec::User,
    userns::UserNamespace,
};
use cairn_contract::cri;
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::watch;

/// How far a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PodPhase {
    /// Being made; found at a start of the daemon, it is cleaned away.
    Making,
    /// Containers can run in it.
    Ready,
    /// Stopped, or its shim died, or the node was rebooted.
    NotReady,
}

/// `pods/<id>/record.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PodRecord {
    /// Sandbox id, 64 hex digits.
    pub(super) id: String,
    /// The request, as it came.
    #[serde(with = "protobuf")]
    pub(super) config: cri::PodSandboxConfig,
    /// Runtime handler asked for.
    pub(super) handler: String,
    /// Nanoseconds since 1970.
    pub(super) created_at: i64,
    /// How far it has come.
    pub(super) phase: PodPhase,
    /// The boot in which it was made.
    pub(super) boot: String,
    /// Its cgroup.
    pub(super) cgroup: PathBuf,
    /// Its networks, the default one first; none with the node's network, and once disconnected.
    pub(super) attachments: Vec<Attachment>,
    /// Its addresses on the default network, kept for the status of a stopped pod.
    pub(super) addresses: Vec<std::net::IpAddr>,
}

impl PodRecord {
    /// The namespaces asked for.
    pub(super) fn namespaces(&self) -> cri::NamespaceOption {
        let linux = self.config.linux.as_ref();
        linux
            .and_then(|linux| linux.security_context.as_ref())
            .and_then(|security| security.namespace_options.clone())
            .unwrap_or_default()
    }

    /// Its user namespace. What is not possible was refused before there was a record.
    pub(super) fn users(&self) -> Option<UserNamespace> {
        UserNamespace::of(&self.namespaces()).ok().flatten()
    }

    /// Its containers may be privileged.
    pub(super) fn may_be_privileged(&self) -> bool {
        let linux = self.config.linux.as_ref();
        linux.and_then(|linux| linux.security_context.as_ref()).is_some_and(|security| security.privileged)
    }

    /// It uses the node's network.
    pub(super) fn node_network(&self) -> bool {
        self.namespaces().network() == cri::NamespaceMode::Node
    }

    /// It uses the node's IPC.
    pub(super) fn node_ipc(&self) -> bool {
        self.namespaces().ipc() == cri::NamespaceMode::Node
    }
}

/// `containers/<id>/record.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    /// Container id, 64 hex digits.
    pub(super) id: String,
    /// Its sandbox.
    pub(super) sandbox: String,
    /// The request, as it came.
    #[serde(with = "protobuf")]
    pub(super) config: cri::ContainerConfig,
    /// Nanoseconds since 1970.
    pub(super) created_at: i64,
    /// Nanoseconds since 1970; 0 until started.
    pub(super) started_at: i64,
    /// First process; 0 until started.
    pub(super) pid: i32,
    /// How it ended.
    pub(super) exit: Option<Exit>,
    /// Why, for people, when the exit alone does not say it.
    pub(super) reason: String,
    /// Details of that.
    pub(super) message: String,
    /// Image id, `sha256:…`.
    pub(super) image_id: String,
    /// Ids of the images that are its volumes.
    #[serde(default)]
    pub(super) volumes: Vec<String>,
    /// What the image is called by: a repository digest, or the id.
    pub(super) image_ref: String,
    /// The name that people know the image by: a tag, if it has one.
    #[serde(default)]
    pub(super) image_name: String,
    /// Signal that asks it to end.
    pub(super) stop_signal: i32,
    /// CRI log file.
    pub(super) log: Option<PathBuf>,
    /// Its cgroup.
    pub(super) cgroup: PathBuf,
    /// Limits, updates included.
    pub(super) resources: Resources,
    /// Who it runs as: uid, gid, groups.
    pub(super) user: (u32, u32, Vec<u32>),
    /// It shares a PID namespace, so its end does not end its children.
    pub(super) shares_pids: bool,
}

impl ContainerRecord {
    /// Its state in CRI's terms.
    pub(super) fn state(&self) -> cri::ContainerState {
        match (&self.exit, self.started_at) {
            (Some(_), _) => cri::ContainerState::ContainerExited,
            (None, 0) => cri::ContainerState::ContainerCreated,
            (None, _) => cri::ContainerState::ContainerRunning,
        }
    }

    /// Notes who it runs as.
    pub(super) fn set_user(&mut self, user: User) {
        self.user = (user.uid, user.gid, user.groups);
    }
}

/// What NRI plugins have been told of a pod or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing: it is being made.
    Nothing,
    /// That it is there.
    There,
    /// That it has stopped.
    Stopped,
    /// That it is gone.
    Gone,
}

/// A sandbox.
#[derive(Debug)]
pub(super) struct Pod {
    record: Mutex<PodRecord>,
    /// Held while the record is written.
    pub(super) saving: Mutex<()>,
    shim: Mutex<Option<ShimClient>>,
    /// Held while it is stopped or removed, or a container is made in it: one of those at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// What NRI plugins know; held while they are told.
    pub(super) told: tokio::sync::Mutex<Told>,
}

impl Pod {
    /// A sandbox without a shim.
    pub(super) fn new(record: PodRecord) -> Self {
        let told = match record.phase {
            PodPhase::Making => Told::Nothing,
            PodPhase::Ready => Told::There,
            PodPhase::NotReady => Told::Stopped,
        };
        Self {
            told: told.into(),
            record: record.into(),
            saving: Mutex::default(),
            shim: Mutex::new(None),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Its record.
    pub(super) fn record(&self) -> MutexGuard<'_, PodRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its shim, if one is connected.
    pub(super) fn shim(&self) -> Option<ShimClient> {
        self.shim.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or forgets its shim.
    pub(super) fn set_shim(&self, shim: Option<ShimClient>) {
        *self.shim.lock().unwrap_or_else(PoisonError::into_inner) = shim;
    }
}

/// What was measured last, to tell rates and to spare walks through a container's files.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// When, CPU nanoseconds, and the rate since the sample before.
    pub(super) cpu: Option<(Instant, u64, u64)>,
    /// When, bytes, inodes of the writable layer.
    pub(super) files: Option<(Instant, u64, u64)>,
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    record: Mutex<ContainerRecord>,
    /// Held while the record is written.
    pub(super) saving: Mutex<()>,
    /// True once it has ended.
    pub(super) ended: watch::Sender<bool>,
    /// Held while it is started, stopped or removed.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Keep its image and those of its volumes.
    pub(super) holds: Mutex<Vec<ImageHold>>,
    /// Last measurements.
    pub(super) samples: Mutex<Samples>,
    /// What NRI plugins know; held while they are told.
    pub(super) told: tokio::sync::Mutex<Told>,
}

impl Container {
    /// A container as recorded.
    pub(super) fn new(record: ContainerRecord, holds: Vec<ImageHold>) -> Self {
        let told = if record.exit.is_some() { Told::Stopped } else { Told::There };
        Self {
            told: told.into(),
            ended: watch::Sender::new(record.exit.is_some()),
            record: record.into(),
            saving: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            holds: holds.into(),
            samples: Mutex::default(),
        }
    }

    /// Its record.
    pub(super) fn record(&self) -> MutexGuard<'_, ContainerRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message of CRI inside a JSON record: its protobuf encoding in base64, so that a later version's fields, which
/// this one does not know, are no loss to it either.
mod protobuf {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use prost::Message;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<M: Message, S: Serializer>(
        message: &M,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(message.encode_to_vec()))
    }

    pub(super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<M, D::Error> {
        let bytes = BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice()).map_err(D::Error::custom)
    }
}
