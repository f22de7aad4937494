//! CNI network configurations (CNI specification 1.1, section 1).

use super::File;
use crate::profile::model::{ExtraNetwork, Profile};
use crate::profile::value::NetworkName;
use cairn_contract::paths;
use serde_json::{Value, json};

/// Version of the specification the files are in.
const CNI_VERSION: &str = "1.1.0";

/// The default network, first by name as the runtime wants it, and each further one.
pub(super) fn files(profile: &Profile) -> Vec<File> {
    let default = (!profile.network.pod_cidrs.is_empty()).then(|| default_network(profile));
    let further = profile.network.networks.iter().map(|(name, network)| further_network(name, network));
    default.into_iter().chain(further).collect()
}

fn default_network(profile: &Profile) -> File {
    let network = &profile.network;
    // One range set a family: a pod gets one address of each.
    let ranges: Vec<Value> =
        network.pod_cidrs.iter().map(|cidr| json!([{ "subnet": cidr.to_string() }])).collect();
    let routes: Vec<Value> = network
        .pod_cidrs
        .iter()
        .map(|cidr| json!({ "dst": if cidr.is_ipv6() { "::/0" } else { "0.0.0.0/0" } }))
        .collect();
    let mut plugin = json!({
        "type": network.kind.as_str(),
        "ipam": { "type": "host-local", "ranges": ranges, "routes": routes },
    });
    if network.kind.as_str() == "bridge" {
        plugin["bridge"] = network.bridge.as_str().into();
        plugin["isGateway"] = true.into();
        plugin["hairpinMode"] = true.into();
    }
    if matches!(network.kind.as_str(), "bridge" | "ptp") {
        plugin["ipMasq"] = network.masquerade.into();
    }
    if let Some(mtu) = network.mtu {
        plugin["mtu"] = mtu.into();
    }
    let mut plugins = vec![plugin];
    if network.port_map {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }));
    }
    list("10-cairn", "cairn", plugins)
}

fn further_network(name: &NetworkName, network: &ExtraNetwork) -> File {
    let mut plugin = network.config.clone();
    plugin.insert("type".to_owned(), network.kind.as_str().into());
    list(&format!("50-{name}"), name.as_str(), vec![Value::Object(plugin)])
}

fn list(file: &str, name: &str, plugins: Vec<Value>) -> File {
    let list = json!({ "cniVersion": CNI_VERSION, "name": name, "plugins": plugins });
    File::json(format!("{}/{file}.conflist", paths::CNI_CONF), &list)
}
