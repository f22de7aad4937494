//! Pods and their templates, as far as they are used.

use super::kinds::{Selector, Texts};
use serde::Deserialize;
use std::collections::BTreeSet;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub metadata: TemplateMetadata,
    pub spec: Pod,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateMetadata {
    pub labels: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pod {
    pub service_account_name: Option<String>,
    pub priority_class_name: Option<String>,
    pub host_users: Option<bool>,
    pub affinity: Option<Affinity>,
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    #[serde(default)]
    pub topology_spread_constraints: Vec<Spread>,
    pub security_context: Option<PodSecurity>,
    pub containers: Vec<Container>,
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Affinity {
    pub node_affinity: NodeAffinity,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: NodeTerms,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeTerms {
    pub node_selector_terms: Vec<NodeTerm>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeTerm {
    pub match_expressions: Vec<NodeExpression>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeExpression {
    pub key: String,
    pub operator: Exists,
}

#[derive(Debug, Deserialize)]
pub enum Exists {
    Exists,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    pub operator: Exists,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spread {
    pub max_skew: u32,
    pub topology_key: String,
    pub when_unsatisfiable: WhenUnsatisfiable,
    pub label_selector: Selector,
}

#[derive(Debug, Deserialize)]
pub enum WhenUnsatisfiable {
    DoNotSchedule,
    ScheduleAnyway,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodSecurity {
    pub seccomp_profile: Option<SeccompProfile>,
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub fs_group: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompProfile {
    pub r#type: SeccompKind,
}

#[derive(Debug, Deserialize)]
pub enum SeccompKind {
    RuntimeDefault,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub image: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub env: Vec<Variable>,
    #[serde(default)]
    pub ports: Vec<Port>,
    pub liveness_probe: Option<Probe>,
    pub security_context: Option<Security>,
    pub resources: Option<Resources>,
    #[serde(default)]
    pub volume_mounts: Vec<Mount>,
    #[serde(default)]
    pub volume_devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Variable {
    pub name: String,
    pub value_from: ValueFrom,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ValueFrom {
    pub field_ref: FieldRef,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FieldRef {
    pub field_path: FieldPath,
}

/// What the downward API is asked for.
#[derive(Debug, PartialEq, Deserialize)]
pub enum FieldPath {
    #[serde(rename = "spec.nodeName")]
    NodeName,
    #[serde(rename = "metadata.namespace")]
    Namespace,
    #[serde(rename = "metadata.name")]
    Name,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Port {
    pub name: String,
    pub container_port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Probe {
    pub http_get: HttpGet,
    pub initial_delay_seconds: u32,
    pub period_seconds: u32,
    pub timeout_seconds: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGet {
    pub path: String,
    pub port: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Security {
    pub allow_privilege_escalation: bool,
    pub read_only_root_filesystem: bool,
    pub run_as_user: u32,
    pub capabilities: Capabilities,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    pub drop: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub requests: ComputeRequests,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeRequests {
    pub cpu: String,
    pub memory: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    pub name: String,
    pub mount_path: String,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    pub name: String,
    pub device_path: String,
}

/// One source each; more are refused by [`Pod::check`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub host_path: Option<HostPath>,
    pub csi: Option<Inline>,
    pub persistent_volume_claim: Option<ClaimSource>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    pub path: String,
    pub r#type: HostPathKind,
}

#[derive(Debug, PartialEq, Deserialize)]
pub enum HostPathKind {
    Directory,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Inline {
    pub driver: String,
    #[serde(default)]
    pub fs_type: String,
    pub volume_attributes: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimSource {
    pub claim_name: String,
}

impl Pod {
    /// # Errors
    /// A part that refers to none, or is there twice.
    pub fn check(&self) -> Result<(), String> {
        for volume in &self.volumes {
            let sources =
                [volume.host_path.is_some(), volume.csi.is_some(), volume.persistent_volume_claim.is_some()];
            if sources.iter().filter(|is| **is).count() != 1 {
                return Err(format!("the volume {} has not one source", volume.name));
            }
        }
        let volumes: BTreeSet<&str> = self.volumes.iter().map(|volume| volume.name.as_str()).collect();
        let containers: BTreeSet<&str> = self.containers.iter().map(|held| held.name.as_str()).collect();
        if volumes.len() < self.volumes.len() || containers.len() < self.containers.len() {
            return Err("a name is there twice".to_owned());
        }
        let mut used = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for container in &self.containers {
            let mounts = container.volume_mounts.iter().map(|mount| mount.name.as_str());
            used.extend(mounts.chain(container.volume_devices.iter().map(|device| device.name.as_str())));
            for port in &container.ports {
                if port.name.len() > 15 || !ports.insert(port.container_port) {
                    return Err(format!("the port {} has a name too long, or is another's", port.name));
                }
            }
            let probed = container.liveness_probe.iter().map(|probe| &probe.http_get.port);
            for port in probed {
                if !container.ports.iter().any(|held| held.name == *port) {
                    return Err(format!("{}: there is no port {port}", container.name));
                }
            }
            for argument in &container.args {
                for named in argument.split("$(").skip(1).filter_map(|rest| rest.split_once(')')) {
                    if !container.env.iter().any(|variable| variable.name == named.0) {
                        return Err(format!("{}: there is no variable {}", container.name, named.0));
                    }
                }
            }
        }
        if used == volumes { Ok(()) } else { Err(format!("volumes are {volumes:?}, mounted are {used:?}")) }
    }
}
