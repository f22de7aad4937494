//! The runtime's configuration, `/etc/cairn/cri.toml`: the builder writes it from the profile's `[runtime]`,
//! `cairn-cri --config` reads it. Every field has the default that a node would want.

use crate::paths;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// Who makes the pods' cgroups. Must be the kubelet's `cgroupDriver`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Transient systemd scopes and slices.
    #[default]
    Systemd,
    /// Directories below `/sys/fs/cgroup`, written directly.
    Cgroupfs,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least serious message that is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may become a failure.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Its name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// A share, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PerMillion(u32);

impl PerMillion {
    const WHOLE: u32 = 1_000_000;

    /// From 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

impl TryFrom<u32> for PerMillion {
    type Error = String;

    fn try_from(millionths: u32) -> Result<Self, String> {
        let fits = millionths <= Self::WHOLE;
        fits.then_some(Self(millionths)).ok_or_else(|| format!("{millionths} is more than {}", Self::WHOLE))
    }
}

impl From<PerMillion> for u32 {
    fn from(share: PerMillion) -> Self {
        share.0
    }
}

/// Configuration of `cairn-cri`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// CRI socket.
    pub socket: PathBuf,
    /// Persistent state.
    pub state: PathBuf,
    /// State lost at reboot.
    pub run: PathBuf,
    /// Images baked in; absent directories are fine.
    pub baked_images: PathBuf,
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The per-pod shim.
    pub shim: PathBuf,
    /// Directories searched for CNI plugins, in order.
    pub cni_bin: Vec<PathBuf>,
    /// Directory of CNI network configurations; the first by name is the default network.
    pub cni_conf: PathBuf,
    /// Directory of definitions of further networks, which pods ask for by annotation; it need not exist.
    pub cni_networks: PathBuf,
    /// `<host>/hosts.toml` per registry.
    pub certs_d: PathBuf,
    /// Registry credentials in the form of Docker's `config.json`; an absent file is fine.
    pub registry_auth: PathBuf,
    /// Layers fetched at the same time, for one pull.
    pub max_parallel_layers: usize,
    /// A pull that receives no byte for this long fails.
    pub pull_progress_timeout_seconds: u64,
    /// Where clients connect for exec, attach and port-forward; port 0: any that is free.
    pub streaming_address: SocketAddr,
    /// NRI plugins are served and started.
    pub nri: bool,
    /// Where NRI plugins connect.
    pub nri_socket: PathBuf,
    /// Directory of NRI plugins that the runtime starts; it need not exist.
    pub nri_plugins: PathBuf,
    /// Directory of their configurations.
    pub nri_config: PathBuf,
    /// Longest that an NRI plugin may take to register, and to take in what there is.
    pub nri_registration_timeout_seconds: u64,
    /// Longest that it may take to answer; then it is cut off.
    pub nri_request_timeout_seconds: u64,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged; the environment's RUST_LOG goes before it.
    pub log_level: LogLevel,
    /// Where Prometheus metrics are served; nowhere when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_address: Option<SocketAddr>,
    /// Collector that OpenTelemetry spans are sent to, by OTLP/gRPC without encryption; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing_endpoint: Option<SocketAddr>,
    /// How many calls are recorded of those whose caller has no span; of the others the caller says it.
    pub tracing_sampling_rate_per_million: PerMillion,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            socket: paths::CRI_SOCKET.into(),
            state: paths::CRI_STATE.into(),
            run: paths::CRI_RUN.into(),
            baked_images: paths::BAKED_IMAGES.into(),
            cgroup_driver: CgroupDriver::default(),
            shim: format!("{}/cairn-shim", paths::LIBEXEC).into(),
            cni_bin: vec![paths::CNI_OWN.into(), paths::CNI_BIN.into()],
            cni_conf: paths::CNI_CONF.into(),
            cni_networks: paths::CNI_NETWORKS.into(),
            certs_d: paths::CERTS_D.into(),
            registry_auth: paths::REGISTRY_AUTH.into(),
            max_parallel_layers: 3,
            pull_progress_timeout_seconds: 300,
            streaming_address: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            nri: true,
            nri_socket: paths::NRI_SOCKET.into(),
            nri_plugins: paths::NRI_PLUGINS.into(),
            nri_config: paths::NRI_CONFIG.into(),
            nri_registration_timeout_seconds: 5,
            nri_request_timeout_seconds: 2,
            log_format: LogFormat::default(),
            log_level: LogLevel::default(),
            metrics_address: None,
            tracing_endpoint: None,
            tracing_sampling_rate_per_million: PerMillion::default(),
        }
    }
}
