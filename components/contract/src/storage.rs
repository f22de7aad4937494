//! The CSI driver's configuration, `/etc/cairn/csi.toml`: the builder writes it from the profile's `[storage]`,
//! `cairn-csi --config` reads it. Every field has the default that a node would want.

mod pool;

pub use pool::{Mistake, Pool, Quota, mistakes, mistakes_on_node};

use crate::{
    paths,
    runtime::{LogFormat, LogLevel},
};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// A kind of storage. Each is a CSI driver of its own: with its name, its socket and its registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Directories and images on the node's own disks.
    Local,
    /// Exports of NFS servers.
    Nfs,
    /// Units of iSCSI targets.
    Iscsi,
}

impl BackendKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Local, Self::Nfs, Self::Iscsi];

    /// As in the configuration, and in the names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Nfs => "nfs",
            Self::Iscsi => "iscsi",
        }
    }

    /// The CSI driver's name: a StorageClass's `provisioner`, a CSIDriver's `metadata.name`.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Local => "local.csi.cairn",
            Self::Nfs => "nfs.csi.cairn",
            Self::Iscsi => "iscsi.csi.cairn",
        }
    }

    /// Its socket, in the directory of the drivers' sockets.
    pub fn socket(self, run: &Path) -> PathBuf {
        run.join(self.name()).with_extension("sock")
    }

    /// The socket by which it registers, in the kubelet's directory for that.
    pub fn registration_socket(self, registry: &Path) -> PathBuf {
        registry.join(format!("{}-reg.sock", self.driver()))
    }
}

/// Configuration of `cairn-csi`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// The drivers that are served.
    pub backends: Vec<BackendKind>,
    /// The node's name in the cluster; empty: the host's name.
    pub node: String,
    /// What survives a reboot.
    pub state: PathBuf,
    /// What does not: sockets, records of mounts.
    pub run: PathBuf,
    /// Below these and nowhere else are volumes mounted.
    pub target_roots: Vec<PathBuf>,
    /// Where the kubelet looks for plugins; absent: nobody is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugins_registry: Option<PathBuf>,
    /// Places for local volumes; the first is the default one.
    pub pools: Vec<Pool>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged; the environment's RUST_LOG goes before it.
    pub log_level: LogLevel,
    /// Where Prometheus metrics are served; nowhere when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_address: Option<SocketAddr>,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            backends: vec![BackendKind::Local],
            node: String::new(),
            state: paths::CSI_STATE.into(),
            run: paths::CSI_RUN.into(),
            target_roots: vec![paths::KUBELET_STATE.into()],
            plugins_registry: Some(paths::PLUGINS_REGISTRY.into()),
            pools: vec![Pool::in_state()],
            log_format: LogFormat::default(),
            log_level: LogLevel::default(),
            metrics_address: None,
        }
    }
}

impl StorageConfig {
    /// The socket of one driver: `<run>/<backend>.sock`.
    pub fn socket(&self, backend: BackendKind) -> PathBuf {
        backend.socket(&self.run)
    }
}
