//! `[runtime]`, `[network]` and `[kubelet]`: the node stack.

use crate::profile::value::{
    Cidr, CniType, Host, HostPath, ImageName, LabelKey, LabelValue, NetworkName, Quantity, Sha256, Size,
    Taint, Url,
};
use cairn_contract::runtime::{CgroupDriver, PerMillion, RuntimeConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr};

/// The container runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// Who makes cgroups, for the runtime and the kubelet alike: `systemd` or `cgroupfs`.
    #[schemars(schema_with = "cgroup_driver_schema")]
    pub cgroup_driver: CgroupDriver,
    /// Image of the sandbox container, for runtimes and tools that ask for one. Cairn's shim needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_image: Option<ImageName>,
    /// Seccomp profile of containers that name none.
    pub seccomp_default: SeccompDefault,
    /// Registries and how to reach them, by host as in image names.
    pub registries: BTreeMap<Host, Registry>,
    /// Layers of one image fetched at the same time.
    pub max_parallel_layers: u16,
    /// A pull that receives no byte for this many seconds fails.
    pub pull_progress_timeout_seconds: u32,
    /// Address and port that serve the runtime's Prometheus metrics at `/metrics`, without authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "metrics_address_schema")]
    pub metrics_address: Option<SocketAddr>,
    /// Address and port of a collector that the runtime sends OpenTelemetry traces to, by OTLP over gRPC, unencrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "tracing_endpoint_schema")]
    pub tracing_endpoint: Option<SocketAddr>,
    /// Of a million calls whose caller says nothing about tracing, so many are traced. Those of the kubelet are if its
    /// own span is: `tracing` in `kubelet.config`.
    #[schemars(with = "u32", range(max = 1_000_000))]
    pub tracing_sampling_rate_per_million: PerMillion,
}

fn metrics_address_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "examples": ["127.0.0.1:10099"] })
}

fn tracing_endpoint_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "examples": ["127.0.0.1:4317"] })
}

fn cgroup_driver_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["systemd", "cgroupfs"] })
}

impl Default for Runtime {
    fn default() -> Self {
        let config = RuntimeConfig::default();
        Self {
            cgroup_driver: config.cgroup_driver,
            sandbox_image: None,
            seccomp_default: SeccompDefault::default(),
            registries: BTreeMap::new(),
            max_parallel_layers: u16::try_from(config.max_parallel_layers).unwrap_or(u16::MAX),
            pull_progress_timeout_seconds: u32::try_from(config.pull_progress_timeout_seconds)
                .unwrap_or(u32::MAX),
            metrics_address: config.metrics_address,
            tracing_endpoint: config.tracing_endpoint,
            tracing_sampling_rate_per_million: config.tracing_sampling_rate_per_million,
        }
    }
}

/// Seccomp profile of containers that name none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SeccompDefault {
    /// The runtime's profile: system calls that containers have no business with are refused.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
}

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// Tried in order before the registry itself.
    pub mirrors: Vec<Url>,
    /// Do not check the certificates of this host and its mirrors.
    pub insecure: bool,
}

/// Pod networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Address ranges of pods on this node, at most one a family, until the kubelet tells the node's own. Both
    /// families make a dual-stack node. Empty leaves the default network to an add-on that writes its own
    /// configuration.
    pub pod_cidrs: Vec<Cidr>,
    /// Plugin of the default network.
    #[serde(rename = "type")]
    pub kind: CniType,
    /// Bridge device of the default network.
    pub bridge: String,
    /// MTU of pod interfaces in bytes; without it, that of the node's default route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether traffic that leaves the node carries the node's address.
    pub masquerade: bool,
    /// Whether `hostPort` of pods is served.
    pub port_map: bool,
    /// Whether the limits of the annotations `kubernetes.io/ingress-bandwidth` and `egress-bandwidth` are kept.
    pub bandwidth: bool,
    /// Further networks, by name, for pods that ask for them in the annotation `k8s.v1.cni.cncf.io/networks`.
    pub networks: BTreeMap<NetworkName, ExtraNetwork>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            pod_cidrs: Vec::new(),
            kind: super::constant("bridge"),
            bridge: "cni0".to_owned(),
            mtu: None,
            masquerade: true,
            port_map: true,
            bandwidth: true,
            networks: BTreeMap::new(),
        }
    }
}

/// A further network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtraNetwork {
    /// CNI plugin.
    #[serde(rename = "type")]
    pub kind: CniType,
    /// The plugin's own configuration, as its documentation has it.
    #[serde(default)]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Plugins that are run after it, each with its `type` and configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// The kubelet: its program and its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kubelet {
    /// The program, on the machine that builds. Without `path` and `url` the image has no kubelet, and its unit
    /// waits for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HostPath>,
    /// Where to fetch the program; wants `sha256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// Digest of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// Kept back from pods for the system.
    pub reserved: Reserved,
    /// How CPUs are given to containers.
    pub cpu_manager: CpuManager,
    /// How CPUs, devices and memory are aligned to NUMA nodes.
    pub topology_manager: TopologyManager,
    /// Pods the node takes.
    pub max_pods: u16,
    /// Labels the node registers with. The machine config may add to them.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    /// Hold the kubelet to the CIS benchmark: kernel defaults protected, TLS 1.2 with strong ciphers and more.
    pub hardening: bool,
    /// Further fields of KubeletConfiguration (v1beta1), laid over what Cairn renders.
    pub config: serde_json::Map<String, serde_json::Value>,
}

impl Default for Kubelet {
    fn default() -> Self {
        Self {
            path: None,
            url: None,
            sha256: None,
            reserved: Reserved::default(),
            cpu_manager: CpuManager::default(),
            topology_manager: TopologyManager::default(),
            max_pods: 110,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            hardening: true,
            config: serde_json::Map::new(),
        }
    }
}

/// Kept back from pods for the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reserved {
    /// CPU.
    pub cpu: Quantity,
    /// Memory.
    pub memory: Size,
}

impl Default for Reserved {
    fn default() -> Self {
        Self { cpu: super::constant("100m"), memory: Size::mib(256) }
    }
}

/// How CPUs are given to containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuManager {
    /// All containers share all CPUs.
    #[default]
    None,
    /// Guaranteed containers with whole CPUs get them for themselves.
    Static,
}

/// How resources are aligned to NUMA nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TopologyManager {
    /// Not at all.
    #[default]
    None,
    /// Aligned where possible.
    BestEffort,
    /// A pod that cannot be aligned is refused.
    Restricted,
    /// A pod that does not fit one NUMA node is refused.
    SingleNumaNode,
}
