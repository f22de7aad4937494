//! CNI network configurations (CNI specification 1.1, section 1).

use super::File;
use crate::profile::model::{ExtraNetwork, Profile};
use crate::profile::value::NetworkName;
use cairn_contract::paths;
use serde_json::{Value, json};

/// Version of the specification the files are in.
const CNI_VERSION: &str = "1.1.0";

/// The default network, which an add-on's goes before by name (`05-cilium`, `10-calico`, `00-multus`), and the definition of each further one.
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
        // The kubelet's range goes in the place of these; addresses may be asked for by annotation.
        "capabilities": { "ipRanges": true, "ips": true, "mac": true },
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
    if network.bandwidth {
        plugins.push(json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }));
    }
    list(paths::CNI_CONF, "10-cairn", "cairn", plugins)
}

fn further_network(name: &NetworkName, network: &ExtraNetwork) -> File {
    let mut plugin = network.config.clone();
    plugin.insert("type".to_owned(), network.kind.as_str().into());
    let plugins = std::iter::once(plugin).chain(network.chain.iter().cloned()).map(Value::Object);
    list(paths::CNI_NETWORKS, name.as_str(), name.as_str(), plugins.collect())
}

fn list(directory: &str, file: &str, name: &str, plugins: Vec<Value>) -> File {
    let list = json!({ "cniVersion": CNI_VERSION, "name": name, "plugins": plugins });
    File::json(format!("{directory}/{file}.conflist"), &list)
}
