//! What a pod's interfaces are, in the form of the annotation `k8s.v1.cni.cncf.io/network-status` (network CRD
//! de-facto standard 1.2, section 5).

use super::attachment::Attachment;
use cairn_cni::protocol::result::CniResult;
use serde_json::{Map, Value, json};

/// A list with one object an interface.
pub(crate) fn network_status(attachments: &[Attachment]) -> Value {
    attachments.iter().map(|attachment| one(attachment, &attachment.parsed())).collect()
}

fn one(attachment: &Attachment, result: &CniResult) -> Value {
    let mut status = Map::new();
    let mut put = |key: &str, value: Value| drop(status.insert(key.to_owned(), value));
    put("name", json!(attachment.full_name()));
    put("interface", json!(attachment.interface));
    let ips: Vec<String> = attachment.own_ips(result).map(|ip| ip.address.address.to_string()).collect();
    put("ips", json!(ips));
    if let Some(interface) = attachment.own_interface(result) {
        put("mac", json!(interface.mac));
        if interface.mtu > 0 {
            put("mtu", json!(interface.mtu));
        }
        if !interface.pci_id.is_empty() {
            let device =
                json!({ "type": "pci", "version": "1.1.0", "pci": { "pci-address": interface.pci_id } });
            put("device-info", device);
        }
    }
    put("default", json!(attachment.default));
    put("dns", json!(result.dns));
    let asked = attachment.selection.as_ref().map(|selection| selection.default_route.as_slice());
    let gateways = match asked {
        Some(gateways) if !gateways.is_empty() => json!(gateways),
        _ => attachment.own_ips(result).filter_map(|ip| ip.gateway).map(|gateway| json!(gateway)).collect(),
    };
    put("gateway", gateways);
    Value::Object(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::config::NetworkConfig;
    use std::path::Path;

    #[test]
    fn an_interface_is_told_as_the_standard_has_it() {
        let config = br#"{"name":"n","cniVersion":"1.1.0","type":"x"}"#;
        let config = NetworkConfig::from_file(Path::new("x.conf"), config, None).unwrap();
        let mut attachment = Attachment::new(config, "net1");
        attachment.result = json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "br", "mac": "02:00:00:00:00:01"},
                           {"name": "net1", "mac": "02:00:00:00:00:02", "mtu": 1400, "sandbox": "/ns", "pciID": "0000:04:00.5"}],
            "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1}, {"address": "10.9.9.9/24", "interface": 0}],
            "dns": {"nameservers": ["10.1.2.1"]}});
        assert_eq!(
            network_status(&[attachment]),
            json!([{"name": "n", "interface": "net1", "ips": ["10.1.2.3"], "mac": "02:00:00:00:00:02", "mtu": 1400,
                    "device-info": {"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:04:00.5"}},
                    "default": false, "dns": {"nameservers": ["10.1.2.1"]}, "gateway": ["10.1.2.1"]}])
        );
    }
}
