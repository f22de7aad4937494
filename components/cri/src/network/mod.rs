//! Pod networks: the invoker's half of CNI (specification 0.1.0 to 1.1.0), and which networks a pod is on.
//!
//! A network is a list of plugins, programs run one after the other, each given the result of the one before. A pod is on
//! the default network, the first configuration by file name, and on those that its annotations name, which are resolved
//! against [definitions](definitions) on the node. What a pod is to be connected to is recorded before the first plugin
//! runs, with the configurations as they were then: a network may have been reconfigured by the time the pod goes,
//! and DEL must undo what ADD did, also when the daemon was killed between the two. So the pods' records are the cache of
//! results that libcni keeps in files of its own.
//!
//! Calls for different pods run side by side; those for one pod one after the other. Configurations are read anew for
//! each pod, so a changed directory needs no signal. GC waits until no pod is being connected, for what is
//! half-made must not be collected.

mod attachment;
mod bandwidth;
mod capability;
mod config;
mod default_route;
mod definitions;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod invoke;
mod ranges;
mod selection;
mod status;
mod strays;
#[cfg(test)]
mod tests;

pub use attachment::Attachment;
pub use config::{ConfigError, NetworkConfig};
pub use error::NetworkError;
pub use invoke::{Operation, PluginError};
pub use ranges::RangeError;
pub(crate) use status::network_status;

use attachment::network_config;
use cairn_cni::protocol::version::SpecVersion;
use cairn_contract::{cri, runtime::RuntimeConfig};
use definitions::Definitions;
use invoke::{Call, Programs};
use ranges::PodRanges;
use selection::Selection;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, RwLock};

/// The pod's interface on the default network; the kubelet and most plugins expect this name.
const INTERFACE: &str = "eth0";
/// Longest a plugin may take for one call. Six networks must fit into the kubelet's four minutes when all is well.
const LIMIT: Duration = Duration::from_secs(90);
/// The same for STATUS, which the kubelet waits for every few seconds, and GC, which pods wait for.
const SHORT_LIMIT: Duration = Duration::from_secs(15);
/// How long a good STATUS is believed.
const STATUS_FRESH: Duration = Duration::from_secs(10);

/// The pods' networks.
#[derive(Debug)]
pub struct Networks {
    programs: Programs,
    /// Where the default network is.
    directory: PathBuf,
    /// Where the others are.
    definitions: PathBuf,
    ranges: PodRanges,
    /// Read while pods are connected, written while garbage is collected.
    collecting: RwLock<()>,
    /// The network that was last said to be ready, and when.
    ready: Mutex<Option<(NetworkConfig, Instant)>>,
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
}

impl Networks {
    /// The networks that `config` names, with what its state directory remembers of the kubelet's range.
    pub fn new(config: &RuntimeConfig) -> Self {
        Self {
            programs: Programs { directories: config.cni_bin.clone(), limit: LIMIT },
            directory: config.cni_conf.clone(),
            definitions: config.cni_networks.clone(),
            ranges: PodRanges::open(config.state.join("pod-cidr.json")),
            collecting: RwLock::default(),
            ready: Mutex::default(),
        }
    }

    /// The pods' range on this node as the kubelet tells it; see [`ranges`].
    ///
    /// # Errors
    /// When the text is no such range, or cannot be recorded.
    pub fn set_pod_ranges(&self, text: &str) -> Result<(), RangeError> {
        self.ranges.set(text)
    }

    /// What the kubelet told, for people.
    pub fn pod_ranges(&self) -> Vec<String> {
        self.ranges.get().iter().map(ToString::to_string).collect()
    }

    /// What can be asked for by annotation, and what is wrong with definitions, for people.
    pub fn defined(&self) -> (Vec<String>, Vec<String>) {
        match Definitions::load(&self.definitions) {
            Ok(found) => (found.names(), found.broken.iter().map(ToString::to_string).collect()),
            Err(error) => (Vec::new(), vec![error.to_string()]),
        }
    }

    /// The first configuration by name, with the kubelet's range in it.
    fn default_network(&self) -> Result<NetworkConfig, NetworkError> {
        let network = NetworkConfig::load(&self.directory)?;
        let mut network = network.ok_or_else(|| NetworkError::NotConfigured(self.directory.clone()))?;
        ranges::apply(&mut network.plugins, &self.ranges.get());
        Ok(network)
    }

    /// Whether pods can be connected to the default network: its programs are there, and since 1.1.0 they say so themselves.
    ///
    /// # Errors
    /// Why they cannot.
    pub async fn ready(&self) -> Result<(), NetworkError> {
        let network = self.default_network()?;
        let failed = |source| NetworkError::Plugin {
            network: network.name.clone(),
            interface: INTERFACE.to_owned(),
            source,
        };
        for program in network.programs() {
            self.programs.find(&program).map_err(failed)?;
        }
        if network.version < SpecVersion::V1_1_0 {
            return Ok(());
        }
        let mut ready = self.ready.lock().await;
        if ready.as_ref().is_some_and(|(known, at)| *known == network && at.elapsed() < STATUS_FRESH) {
            return Ok(());
        }
        *ready = None;
        let programs = self.programs_within(SHORT_LIMIT);
        for plugin in &network.plugins {
            let config = network_config(plugin, &network.name, network.version);
            programs.run(Operation::Status, Call::default(), &config).await.map_err(failed)?;
        }
        *ready = Some((network, Instant::now()));
        Ok(())
    }

    fn programs_within(&self, limit: Duration) -> Programs {
        Programs { limit: self.programs.limit.min(limit), ..self.programs.clone() }
    }

    /// What a pod is to be connected to, the default network first: enough to undo it at any moment, so it is to be
    /// recorded before [`Networks::connect`].
    ///
    /// # Errors
    /// What is wrong with the configuration, or with the pod's annotations.
    pub fn plan(&self, pod: &PodNetwork<'_>) -> Result<Vec<Attachment>, NetworkError> {
        let default = self.default_network()?;
        // Multus gives pods their networks itself; doing it here, too, would do it twice.
        let ours = !default.reads_annotations();
        let asked = |annotation| {
            if ours { asked(pod, annotation) } else { Ok(Vec::new()) }
        };
        let (instead, besides) = (asked(selection::DEFAULT_NETWORK)?, asked(selection::NETWORKS)?);
        let definitions = if instead.is_empty() && besides.is_empty() {
            Definitions::default()
        } else {
            Definitions::load(&self.definitions)?
        };
        let attach = |annotation, network: NetworkConfig, interface: &str, selection: Option<Selection>| {
            let mut attachment = Attachment::new(network.clone(), interface);
            attachment.arguments = capability::arguments(pod);
            attachment.default = interface == INTERFACE;
            let given = capability::of_pod(pod, &network, &self.ranges.get(), attachment.default);
            attachment.capabilities =
                given.map_err(|(annotation, reason)| NetworkError::Annotation { annotation, reason })?;
            if let Some(selection) = selection {
                let name = selection.full_name();
                capability::select(&mut attachment, &network, selection).map_err(|reason| {
                    NetworkError::Annotation { annotation, reason: format!("network `{name}`: {reason}") }
                })?;
            }
            Ok::<_, NetworkError>(attachment)
        };
        let mut all = Vec::with_capacity(1 + besides.len());
        match <[Selection; 1]>::try_from(instead) {
            Ok([selection]) => {
                let annotation = selection::DEFAULT_NETWORK;
                let network = self.find(&definitions, annotation, &selection)?;
                all.push(attach(annotation, network, INTERFACE, Some(selection))?);
            }
            Err(several) if !several.is_empty() => {
                let reason = "it names several networks: name one".to_owned();
                return Err(NetworkError::Annotation { annotation: selection::DEFAULT_NETWORK, reason });
            }
            Err(_) => all.push(attach(selection::NETWORKS, default, INTERFACE, None)?),
        }
        for selection in besides {
            let annotation = selection::NETWORKS;
            let network = self.find(&definitions, annotation, &selection)?;
            let interface = selection.interface.clone();
            all.push(attach(annotation, network, &interface, Some(selection))?);
        }
        Ok(all)
    }

    /// The definition that an annotation names.
    fn find(
        &self,
        definitions: &Definitions,
        annotation: &'static str,
        selection: &Selection,
    ) -> Result<NetworkConfig, NetworkError> {
        definitions.find(&selection.namespace, &selection.name).cloned().ok_or_else(|| {
            let broken: Vec<String> = definitions.broken.iter().map(|error| format!("; {error}")).collect();
            let reason = format!(
                "there is no network `{}` in {}; there are: {}{}. Define it there, or name another",
                selection.full_name(),
                self.definitions.display(),
                if definitions.names().is_empty() {
                    "none".to_owned()
                } else {
                    definitions.names().join(", ")
                },
                broken.concat(),
            );
            NetworkError::Annotation { annotation, reason }
        })
    }

    /// Connects a pod as planned, and notes the results. After an error, [`Networks::disconnect`] undoes what was done.
    ///
    /// # Errors
    /// Which network, interface and plugin failed, and how.
    pub async fn connect(
        &self,
        pod: &PodNetwork<'_>,
        attachments: &mut [Attachment],
    ) -> Result<(), NetworkError> {
        let _connecting = self.collecting.read().await;
        for attachment in attachments.iter_mut() {
            let connected = self.add(pod, attachment).await;
            connected.map_err(|error| match attachment.selection {
                None => error,
                Some(_) => {
                    let annotation =
                        if attachment.default { selection::DEFAULT_NETWORK } else { selection::NETWORKS };
                    NetworkError::Asked { annotation, source: Box::new(error) }
                }
            })?;
        }
        for index in 0..attachments.len() {
            self.move_default_route(pod, attachments, index).await?;
        }
        Ok(())
    }

    async fn add(&self, pod: &PodNetwork<'_>, attachment: &mut Attachment) -> Result<(), NetworkError> {
        for index in 0..attachment.plugins.len() {
            let config = attachment.plugin_config(&attachment.plugins[index], true);
            let call = call(pod, attachment);
            let result = self.programs.add(call, &config).await;
            let mut result = result.map_err(|source| failed(attachment, source))?;
            result.entry("cniVersion").or_insert_with(|| json!(attachment.version.name()));
            attachment.result = Value::Object(result);
        }
        if attachment.default && attachment.addresses().is_empty() {
            return Err(NetworkError::NoAddress(attachment.full_name()));
        }
        attachment.granted().map_err(|reason| NetworkError::Annotation {
            annotation: if attachment.default { selection::DEFAULT_NETWORK } else { selection::NETWORKS },
            reason: format!("network `{}` ({}): {reason}", attachment.full_name(), attachment.interface),
        })
    }

    /// Follows `default-route` of one attachment.
    async fn move_default_route(
        &self,
        pod: &PodNetwork<'_>,
        attachments: &mut [Attachment],
        index: usize,
    ) -> Result<(), NetworkError> {
        let Some(attachment) = attachments.get(index) else { return Ok(()) };
        let gateways = attachment.selection.as_ref().map(|selection| selection.default_route.clone());
        let (Some(gateways), Some(namespace)) = (gateways.filter(|list| !list.is_empty()), pod.namespace)
        else {
            return Ok(());
        };
        let moved =
            default_route::move_to(namespace.into(), attachment.interface.clone(), gateways.clone()).await;
        moved.map_err(|reason| NetworkError::Asked {
            annotation: selection::NETWORKS,
            source: Box::new(NetworkError::DefaultRoute {
                network: attachment.full_name(),
                interface: attachment.interface.clone(),
                reason,
            }),
        })?;
        for (at, attachment) in attachments.iter_mut().enumerate() {
            attachment.note_default_routes(&gateways, (at == index).then_some(gateways.as_slice()));
        }
        Ok(())
    }

    /// Disconnects a pod, last network first: DEL of each plugin, last first. All are called; the first error is the result.
    /// A network whose configuration was refused from the start has nothing to undo, and is no reason to keep the pod.
    ///
    /// # Errors
    /// The first plugin that failed; to be called again.
    pub async fn disconnect(
        &self,
        pod: &PodNetwork<'_>,
        attachments: &[Attachment],
    ) -> Result<(), NetworkError> {
        let mut first_error = None;
        for attachment in attachments.iter().rev() {
            // Since 0.4.0.
            let with_result = attachment.version >= SpecVersion::V0_4_0;
            for plugin in attachment.plugins.iter().rev() {
                let config = attachment.plugin_config(plugin, with_result);
                let removed = self.programs.run(Operation::Del, call(pod, attachment), &config).await;
                if let Err(source) = removed {
                    if attachment.result.is_null() && source.is_refusal() {
                        tracing::warn!(pod = pod.id, network = attachment.full_name(), "{source}");
                        continue;
                    }
                    first_error = first_error.or(Some(failed(attachment, source)));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Asks the plugins whether a connected pod still is as they made it: an entry for each interface whose network can
    /// be asked (since 0.4.0, unless `disableCheck`).
    pub async fn check(
        &self,
        pod: &PodNetwork<'_>,
        attachments: &[Attachment],
    ) -> Vec<(String, Result<(), NetworkError>)> {
        let mut found = Vec::new();
        let asked = attachments.iter().filter(|attachment| {
            attachment.version >= SpecVersion::V0_4_0
                && !attachment.disable_check
                && !attachment.result.is_null()
        });
        for attachment in asked {
            let mut state = Ok(());
            for plugin in &attachment.plugins {
                let config = attachment.plugin_config(plugin, true);
                let checked = self.programs.run(Operation::Check, call(pod, attachment), &config).await;
                if let Err(source) = checked {
                    state = Err(failed(attachment, source));
                    break;
                }
            }
            found.push((attachment.interface.clone(), state));
        }
        found
    }

    /// Has plugins remove what belongs to no pod (since 1.1.0, unless `disableGC`). `valid` is asked, once no pod is being
    /// connected, for every sandbox id with what it is connected to. Errors are logged: what is left
    /// harms nobody but who looks for a free address.
    pub async fn collect_garbage(&self, valid: impl FnOnce() -> Vec<(String, Vec<Attachment>)>) {
        let _collecting = self.collecting.write().await;
        let valid = valid();
        let attached: Vec<(&str, &Attachment)> = valid
            .iter()
            .flat_map(|(id, attachments)| attachments.iter().map(move |attachment| (id.as_str(), attachment)))
            .collect();
        let programs = self.programs_within(SHORT_LIMIT);
        for network in self.known_networks(&attached) {
            let of_this = attached.iter().filter(|(_, attachment)| attachment.name == network.name);
            let list: Vec<Value> = of_this
                .map(|(id, attachment)| json!({ "containerID": id, "ifname": attachment.interface }))
                .collect();
            for plugin in &network.plugins {
                let mut config = network_config(plugin, &network.name, network.version);
                // The specification's key, and the one that its first readers took it to be.
                for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                    config.insert(key.to_owned(), json!(list));
                }
                if let Err(error) = programs.run(Operation::Gc, Call::default(), &config).await {
                    tracing::warn!(network = network.name, "{error}");
                }
            }
        }
    }

    /// The networks that can be asked to collect: as they are on disk, or else as pods were connected to them.
    fn known_networks(&self, attached: &[(&str, &Attachment)]) -> Vec<NetworkConfig> {
        let mut known = BTreeMap::new();
        let defined = Definitions::load(&self.definitions).unwrap_or_default();
        for network in self.default_network().into_iter().chain(defined.configs()) {
            known.entry(network.name.clone()).or_insert(network);
        }
        for (_, attachment) in attached {
            known.entry(attachment.name.clone()).or_insert_with(|| NetworkConfig {
                name: attachment.name.clone(),
                version: attachment.version,
                plugins: attachment.plugins.clone(),
                disable_check: false,
                disable_gc: false,
            });
        }
        let can = |network: &NetworkConfig| network.version >= SpecVersion::V1_1_0 && !network.disable_gc;
        known.into_values().filter(can).collect()
    }

    /// Ends what a daemon before this one still runs for a sandbox; to be called before its networks are undone.
    pub fn end_strays(&self, id: &str) {
        strays::end(id);
    }
}

/// The networks that one annotation of a pod asks for.
fn asked(pod: &PodNetwork<'_>, annotation: &'static str) -> Result<Vec<Selection>, NetworkError> {
    let Some(text) = pod.config.annotations.get(annotation) else { return Ok(Vec::new()) };
    let namespace = pod.config.metadata.as_ref().map_or("", |metadata| metadata.namespace.as_str());
    selection::parse(text, namespace).map_err(|reason| NetworkError::Annotation { annotation, reason })
}

fn call<'a>(pod: &PodNetwork<'a>, attachment: &'a Attachment) -> Call<'a> {
    Call {
        container: pod.id,
        namespace: pod.namespace.unwrap_or_default(),
        interface: &attachment.interface,
        arguments: &attachment.arguments,
    }
}

fn failed(attachment: &Attachment, source: PluginError) -> NetworkError {
    NetworkError::Plugin { network: attachment.full_name(), interface: attachment.interface.clone(), source }
}
