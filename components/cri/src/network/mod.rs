//! Pod networks: the invoker's half of CNI (specification 0.4.0 to 1.1.0).
//!
//! A network is a list of plugins, programs run one after the other, each given the result of the one before. What
//! was added is kept on disk with the configuration it was added with: the network may have been reconfigured by
//! the time the pod goes, and DEL must undo what ADD did. A plugin that fails half-way has the whole list
//! undone. Calls for different pods run side by side; the default network is read anew for each pod, so a changed
//! directory needs no signal.

mod config;
mod invoke;

pub use config::{ConfigError, NetworkConfig, VERSIONS};
pub use invoke::PluginError;

use cairn_contract::cri;
use invoke::{Call, invoke};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{net::IpAddr, path::PathBuf};

/// The pod's interface; the kubelet and most plugins expect this name.
const INTERFACE: &str = "eth0";

/// A pod that could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no network to connect it to.
    #[error("no CNI network is configured in {}", .0.display())]
    NotConfigured(PathBuf),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The plugins gave the pod no address.
    #[error("network `{0}` gave the pod no address")]
    NoAddress(String),
}

/// A connected pod: everything DEL needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// Network name.
    pub name: String,
    /// CNI version.
    pub version: String,
    /// The plugins' configurations as they were.
    pub plugins: Vec<Map<String, Value>>,
    /// Capability arguments given.
    pub capabilities: Map<String, Value>,
    /// `CNI_ARGS` given.
    pub arguments: String,
    /// The last plugin's result.
    pub result: Value,
}

impl Attachment {
    /// The pod's addresses, as the result lists them: the first is the primary one.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.result.get("ips").and_then(Value::as_array).into_iter().flatten();
        listed.filter_map(|entry| entry.get("address")?.as_str()?.split('/').next()?.parse().ok()).collect()
    }
}

/// The pods' networks.
#[derive(Debug, Clone)]
pub struct Networks {
    /// Where plugins are, in order.
    programs: Vec<PathBuf>,
    /// Where configurations are.
    directory: PathBuf,
}

/// A pod to connect or disconnect.
#[derive(Debug, Clone)]
pub struct PodNetwork<'a> {
    /// Sandbox id.
    pub id: &'a str,
    /// Network namespace file; `None` when it is gone.
    pub namespace: Option<&'a str>,
    /// The pod.
    pub config: &'a cri::PodSandboxConfig,
    /// Pod address range of this node, if the kubelet told it.
    pub pod_cidr: &'a str,
}

impl Networks {
    /// Networks configured in `directory`, with plugins in `programs`.
    pub fn new(directory: PathBuf, programs: Vec<PathBuf>) -> Self {
        Self { programs, directory }
    }

    /// Whether pods can be connected; if not, why.
    pub fn ready(&self) -> Result<(), NetworkError> {
        let config = self.default_network()?;
        for plugin in config.programs() {
            if invoke::find(&self.programs, &plugin).is_none() {
                return Err(PluginError::Missing { plugin, searched: self.programs.clone() }.into());
            }
        }
        Ok(())
    }

    fn default_network(&self) -> Result<NetworkConfig, NetworkError> {
        NetworkConfig::load(&self.directory)?
            .ok_or_else(|| NetworkError::NotConfigured(self.directory.clone()))
    }

    /// What connecting a pod to the default network will be: enough to undo it at any moment, so it is to be
    /// recorded before [`Networks::add`].
    pub fn plan(&self, pod: &PodNetwork<'_>) -> Result<Attachment, NetworkError> {
        let network = self.default_network()?;
        Ok(Attachment {
            name: network.name,
            version: network.version,
            plugins: network.plugins,
            capabilities: capabilities(pod),
            arguments: arguments(pod),
            result: Value::Null,
        })
    }

    /// Connects a pod as planned. On an error nothing of it is left.
    pub async fn add(
        &self,
        pod: &PodNetwork<'_>,
        mut attachment: Attachment,
    ) -> Result<Attachment, NetworkError> {
        for index in 0..attachment.plugins.len() {
            match self.call("ADD", pod, &attachment, index).await {
                Ok(result) => attachment.result = result,
                Err(error) => {
                    if let Err(undo) = self.remove(pod, &attachment).await {
                        tracing::warn!(pod = pod.id, "cannot undo a half-made network: {undo}");
                    }
                    return Err(error.into());
                }
            }
        }
        if attachment.addresses().is_empty() {
            let _ = self.remove(pod, &attachment).await;
            return Err(NetworkError::NoAddress(attachment.name));
        }
        Ok(attachment)
    }

    /// Disconnects a pod: DEL of each plugin, last first. All are called; the first error is the result.
    pub async fn remove(&self, pod: &PodNetwork<'_>, attachment: &Attachment) -> Result<(), NetworkError> {
        let mut first_error = None;
        for index in (0..attachment.plugins.len()).rev() {
            if let Err(error) = self.call("DEL", pod, attachment, index).await {
                first_error = first_error.or(Some(error));
            }
        }
        first_error.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn call(
        &self,
        command: &'static str,
        pod: &PodNetwork<'_>,
        attachment: &Attachment,
        index: usize,
    ) -> Result<Value, PluginError> {
        let config = attachment.plugin_config(index);
        let plugin = config.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let call = Call {
            container: pod.id,
            namespace: pod.namespace.unwrap_or_default(),
            interface: INTERFACE,
            arguments: &attachment.arguments,
        };
        invoke(&self.programs, command, &call, &plugin, &config).await
    }
}

impl Attachment {
    /// What a plugin reads: its configuration, with what the list and the runtime add.
    fn plugin_config(&self, index: usize) -> Map<String, Value> {
        let mut config = self.plugins.get(index).cloned().unwrap_or_default();
        config.insert("name".to_owned(), json!(self.name));
        config.insert("cniVersion".to_owned(), json!(self.version));
        if let Some(Value::Object(wanted)) = config.remove("capabilities") {
            let given: Map<String, Value> = self
                .capabilities
                .iter()
                .filter(|(name, _)| wanted.get(*name).and_then(Value::as_bool).unwrap_or(false))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            if !given.is_empty() {
                config.insert("runtimeConfig".to_owned(), Value::Object(given));
            }
        }
        if !self.result.is_null() {
            config.insert("prevResult".to_owned(), self.result.clone());
        }
        config
    }
}

/// CNI's conventional capability arguments.
fn capabilities(pod: &PodNetwork<'_>) -> Map<String, Value> {
    let mut given = Map::new();
    let mappings: Vec<Value> = pod
        .config
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port > 0)
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol().as_str_name().to_ascii_lowercase(),
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !mappings.is_empty() {
        given.insert("portMappings".to_owned(), Value::Array(mappings));
    }
    if !pod.pod_cidr.is_empty() {
        // One range a family: a list of lists.
        let ranges: Vec<Value> =
            pod.pod_cidr.split(',').map(|subnet| json!([{ "subnet": subnet.trim() }])).collect();
        given.insert("ipRanges".to_owned(), Value::Array(ranges));
    }
    if let Some(dns) = &pod.config.dns_config {
        given.insert(
            "dns".to_owned(),
            json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options }),
        );
    }
    given
}

fn arguments(pod: &PodNetwork<'_>) -> String {
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        metadata.namespace, metadata.name, pod.id, metadata.uid
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    /// A plugin that writes down how it was called and fails when its configuration says so.
    const PLUGIN: &str = r#"#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND $config" >> LOG
case "$config" in *'"fail":true'*) [ "$CNI_COMMAND" = ADD ] && { echo '{"code":7,"msg":"no luck"}'; exit 1; };; esac
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"},{"address":"fd00::3/64"}]}'
"#;

    fn networks(directory: &Path, conflist: &str) -> Networks {
        let log = directory.join("log").display().to_string();
        let plugin = directory.join("fake");
        fs::write(&plugin, PLUGIN.replace("LOG", &log)).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(directory.join("net.d")).unwrap();
        fs::write(directory.join("net.d/10.conflist"), conflist).unwrap();
        Networks::new(directory.join("net.d"), vec![directory.to_path_buf()])
    }

    fn pod(config: &cri::PodSandboxConfig) -> PodNetwork<'_> {
        PodNetwork { id: "pod1", namespace: Some("/run/ns"), config, pod_cidr: "10.1.0.0/16,fd00::/48" }
    }

    #[tokio::test]
    async fn a_pod_is_connected_and_disconnected_with_the_same_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let networks = networks(
            directory.path(),
            r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"fake","capabilities":{"portMappings":true}},{"type":"fake"}]}"#,
        );
        networks.ready().unwrap();
        let config = cri::PodSandboxConfig {
            port_mappings: vec![cri::PortMapping {
                container_port: 80,
                host_port: 8080,
                ..Default::default()
            }],
            ..Default::default()
        };
        let attachment = networks.add(&pod(&config), networks.plan(&pod(&config)).unwrap()).await.unwrap();
        assert_eq!(
            attachment.addresses(),
            ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()]
        );
        fs::write(directory.path().join("net.d/10.conflist"), "{").unwrap();
        networks.remove(&pod(&config), &attachment).await.unwrap();
        let log = fs::read_to_string(directory.path().join("log")).unwrap();
        let commands: Vec<&str> = log.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(commands, ["ADD", "ADD", "DEL", "DEL"]);
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines[0].contains("\"hostPort\":8080") && !lines[0].contains("ipRanges"));
        assert!(!lines[0].contains("prevResult") && lines[1].contains("prevResult"));
        assert!(lines[3].contains("prevResult") && lines[3].contains("portMappings"));
    }

    #[tokio::test]
    async fn a_failure_half_way_is_undone() {
        let directory = tempfile::tempdir().unwrap();
        let networks = networks(
            directory.path(),
            r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"fake"},{"type":"fake","fail":true}]}"#,
        );
        let config = cri::PodSandboxConfig::default();
        let error = networks.add(&pod(&config), networks.plan(&pod(&config)).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("no luck"), "{error}");
        let log = fs::read_to_string(directory.path().join("log")).unwrap();
        assert_eq!(log.lines().filter(|line| line.starts_with("DEL")).count(), 2);
    }

    #[test]
    fn a_missing_plugin_is_why_the_network_is_not_ready() {
        let directory = tempfile::tempdir().unwrap();
        let networks = networks(directory.path(), r#"{"name":"n","type":"absent"}"#);
        assert!(networks.ready().unwrap_err().to_string().contains("absent"));
    }
}
