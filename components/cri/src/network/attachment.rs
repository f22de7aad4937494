//! A pod on a network: what is recorded before ADD, and all that CHECK and DEL need afterwards.

use super::{
    config::{NetworkConfig, PluginConfig, takes},
    selection::Selection,
};
use cairn_cni::{
    network::IpNetwork,
    protocol::{
        result::{CniResult, Interface, IpConfig},
        version::SpecVersion,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// One interface of a pod, and the network it is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// Network name.
    pub name: String,
    /// Version of the specification.
    #[serde(with = "version")]
    pub version: SpecVersion,
    /// Name of the interface in the pod.
    pub interface: String,
    /// The plugins' configurations as they were.
    pub plugins: Vec<Map<String, Value>>,
    /// Do not call CHECK.
    pub disable_check: bool,
    /// Capability arguments given.
    pub capabilities: Map<String, Value>,
    /// `CNI_ARGS` given.
    pub arguments: String,
    /// What an annotation asked for; `None` for the default network.
    pub selection: Option<Selection>,
    /// It is in the place of the default network.
    pub default: bool,
    /// The last plugin's result; null until there is one.
    pub result: Value,
}

impl Attachment {
    /// A pod's interface on `network`, before ADD.
    pub(super) fn new(network: NetworkConfig, interface: &str) -> Self {
        Self {
            name: network.name,
            version: network.version,
            interface: interface.to_owned(),
            plugins: network.plugins,
            disable_check: network.disable_check,
            capabilities: Map::new(),
            arguments: String::new(),
            selection: None,
            default: false,
            result: Value::Null,
        }
    }

    /// `namespace/name` of its definition, or the name of the network.
    pub fn full_name(&self) -> String {
        self.selection.as_ref().map_or_else(|| self.name.clone(), Selection::full_name)
    }

    /// The result, whichever version it is in.
    pub(super) fn parsed(&self) -> CniResult {
        CniResult::deserialize(&self.result).unwrap_or_default()
    }

    /// The pod's addresses on this network, in the result's order: the first is the primary one.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let result = self.parsed();
        self.own_ips(&result).map(|ip| ip.address.address).collect()
    }

    /// Those of a result's addresses that are on the pod's interface.
    pub(super) fn own_ips<'a>(&self, result: &'a CniResult) -> impl Iterator<Item = &'a IpConfig> {
        result.ips.iter().filter(move |ip| {
            let interface = ip.interface.and_then(|index| result.interfaces.get(index));
            interface.is_none_or(|interface| !interface.sandbox.is_empty())
        })
    }

    /// The pod's interface as the result has it.
    pub(super) fn own_interface<'a>(&self, result: &'a CniResult) -> Option<&'a Interface> {
        result.interfaces.iter().find(|one| !one.sandbox.is_empty() && one.name == self.interface)
    }

    /// What a plugin reads: its configuration, with what the list and the runtime add (specification, section 3).
    /// The result of the plugins before it goes with it, if `with_result`.
    pub(super) fn plugin_config(&self, plugin: &PluginConfig, with_result: bool) -> PluginConfig {
        let mut config = network_config(plugin, &self.name, self.version);
        config.remove("capabilities");
        let given = self.capabilities.iter().filter(|(name, _)| takes(plugin, name));
        let given: Map<String, Value> = given.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !given.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(given));
        }
        if with_result && !self.result.is_null() {
            config.insert("prevResult".to_owned(), self.result.clone());
        }
        config
    }

    /// Whether the network gave what the annotation asked for; a plugin may pass over what it does not know.
    ///
    /// # Errors
    /// What is missing, and why that may be.
    pub(super) fn granted(&self) -> Result<(), String> {
        let Some(selection) = &self.selection else { return Ok(()) };
        let result = self.parsed();
        for wanted in &selection.ips {
            let address = wanted.parse::<IpAddr>().ok();
            let address = address.or_else(|| Some(wanted.parse::<IpNetwork>().ok()?.address));
            if !result.ips.iter().any(|ip| Some(ip.address.address) == address) {
                return Err(format!(
                    "it did not give the address {wanted}: let the network declare `capabilities: {{\"ips\": true}}`, with an address manager that takes it"
                ));
            }
        }
        let given = self.own_interface(&result).map(|interface| interface.mac.as_str());
        match (&selection.mac, given) {
            (Some(wanted), Some(given)) if !given.is_empty() && !given.eq_ignore_ascii_case(wanted) => {
                Err(format!(
                    "it gave the hardware address {given}, not {wanted}: let the network declare `capabilities: {{\"mac\": true}}`, with a plugin that takes it"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Notes that the default routes of the families of `gateways` are on this network, with those next hops, or with `None`
    /// that they are no longer: CHECK compares with the result.
    pub(super) fn note_default_routes(&mut self, families: &[IpAddr], gateways: Option<&[IpAddr]>) {
        let moved = |route: &Value| {
            let dst = route.get("dst").and_then(Value::as_str).and_then(|dst| dst.parse::<IpNetwork>().ok());
            dst.is_some_and(|dst| {
                dst.prefix == 0 && families.iter().any(|other| other.is_ipv4() == dst.address.is_ipv4())
            })
        };
        let Some(result) = self.result.as_object_mut() else { return };
        let routes = result.entry("routes").or_insert_with(|| json!([]));
        let Some(routes) = routes.as_array_mut() else { return };
        routes.retain(|route| !moved(route));
        for gateway in gateways.into_iter().flatten() {
            routes.push(json!({ "dst": IpNetwork::everything(*gateway).to_string(), "gw": gateway }));
        }
    }
}

/// A plugin's configuration as any operation of a network gives it.
pub(super) fn network_config(plugin: &PluginConfig, name: &str, version: SpecVersion) -> PluginConfig {
    let mut config = plugin.clone();
    config.insert("name".to_owned(), json!(name));
    config.insert("cniVersion".to_owned(), json!(version.name()));
    config
}

/// A version by its name.
mod version {
    use cairn_cni::protocol::version::SpecVersion;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(version: &SpecVersion, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(version.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SpecVersion, D::Error> {
        let name = String::deserialize(deserializer)?;
        SpecVersion::by_name(&name).ok_or_else(|| D::Error::custom(format!("no CNI version `{name}`")))
    }
}
