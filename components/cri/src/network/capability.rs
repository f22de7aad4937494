//! What the runtime tells plugins about a pod: capability arguments, `CNI_ARGS` and `args`, by the conventions of CNI
//! (CONVENTIONS.md) and of the network CRD standard.

use super::{
    PodNetwork, attachment::Attachment, bandwidth, config::NetworkConfig, ranges, selection::Selection,
};
use cairn_cni::network::IpNetwork;
use serde_json::{Map, Value, json};

/// Arguments that every network of a pod gets.
fn common(pod: &PodNetwork<'_>) -> Map<String, Value> {
    let mut given = Map::new();
    let parent = pod.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
    if !parent.is_empty() {
        given.insert("cgroupPath".to_owned(), parent.into());
    }
    let name = pod.config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    let mut aliases = vec![name, pod.config.hostname.as_str()];
    aliases.retain(|alias| !alias.is_empty());
    aliases.dedup();
    if !aliases.is_empty() {
        given.insert("aliases".to_owned(), json!(aliases));
    }
    given
}

/// Arguments of one network of a pod: the pod's own limits, ports, range and DNS are for the default one alone.
///
/// # Errors
/// Which annotation is wrong, and why.
pub(super) fn of_pod(
    pod: &PodNetwork<'_>,
    network: &NetworkConfig,
    pod_ranges: &[IpNetwork],
    default: bool,
) -> Result<Map<String, Value>, (&'static str, String)> {
    let mut given = common(pod);
    if !default {
        return Ok(given);
    }
    let mappings = pod.config.port_mappings.iter().filter(|mapping| mapping.host_port > 0);
    let mappings: Vec<Value> = mappings
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
    if !pod_ranges.is_empty() {
        given.insert("ipRanges".to_owned(), ranges::argument(pod_ranges));
    }
    if let Some(dns) = &pod.config.dns_config {
        let dns = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
        given.insert("dns".to_owned(), dns);
    }
    if let Some(limits) = bandwidth::of(&pod.config.annotations)? {
        if !network.takes("bandwidth") {
            tracing::warn!(
                pod = pod.id,
                "the pod's bandwidth is not limited: no plugin of network `{}` declares the capability `bandwidth`",
                network.name
            );
        }
        given.insert("bandwidth".to_owned(), json!(limits));
    }
    Ok(given)
}

/// `CNI_ARGS` that every network of a pod gets.
pub(super) fn arguments(pod: &PodNetwork<'_>) -> String {
    let metadata = pod.config.metadata.clone().unwrap_or_default();
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        metadata.namespace, metadata.name, pod.id, metadata.uid
    )
}

/// Tells an attachment's plugins what a selection asks for.
///
/// # Errors
/// What none of them would take, and the fix.
pub(super) fn select(
    attachment: &mut Attachment,
    network: &NetworkConfig,
    selection: Selection,
) -> Result<(), String> {
    let mut wanted = Map::new();
    if let Some(limits) = selection.bandwidth {
        wanted.insert("bandwidth".to_owned(), json!(limits));
    }
    if !selection.port_mappings.is_empty() {
        wanted.insert("portMappings".to_owned(), json!(selection.port_mappings));
    }
    if let Some(guid) = &selection.infiniband_guid {
        wanted.insert("infinibandGUID".to_owned(), json!(guid));
    }
    for name in wanted.keys() {
        if !network.takes(name) {
            return Err(format!(
                "it takes no {name}: let a plugin of the network declare `capabilities: {{\"{name}\": true}}`, or do not ask for it"
            ));
        }
    }
    attachment.capabilities.extend(wanted);
    if let Some(mac) = &selection.mac {
        attachment.capabilities.insert("mac".to_owned(), json!(mac));
        attachment.arguments.push_str(&format!(";MAC={mac}"));
    }
    if !selection.ips.is_empty() {
        attachment.capabilities.insert("ips".to_owned(), json!(selection.ips));
        if !network.takes("ips") {
            into_args(attachment, "ips", json!(selection.ips));
        }
    }
    for (key, value) in selection.cni_args.iter().flatten() {
        into_args(attachment, key, value.clone());
    }
    if let Some(device) = &selection.device_id {
        attachment.capabilities.insert("deviceID".to_owned(), json!(device));
        // The plugins of before the capability read it from their configuration.
        if !network.takes("deviceID")
            && let Some(first) = attachment.plugins.first_mut()
        {
            for key in ["deviceID", "pciBusID"] {
                first.insert(key.to_owned(), json!(device));
            }
        }
    }
    attachment.selection = Some(selection);
    Ok(())
}

/// Puts a value into every plugin's `args.cni`.
fn into_args(attachment: &mut Attachment, key: &str, value: Value) {
    for plugin in &mut attachment.plugins {
        let mut args = take_object(plugin, "args");
        let mut cni = take_object(&mut args, "cni");
        cni.insert(key.to_owned(), value.clone());
        args.insert("cni".to_owned(), Value::Object(cni));
        plugin.insert("args".to_owned(), Value::Object(args));
    }
}

/// The object below `key`, or an empty one.
fn take_object(parent: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match parent.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}
