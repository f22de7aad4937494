//! What a pod asks for by annotation: networks besides, or instead of, the default one.
//!
//! Two forms, by the Kubernetes Network Custom Resource Definition De-facto Standard 1.2, section 4: names separated by commas,
//! `namespace/name@interface`, of which only the name is needed; or a JSON list of objects. Keys of later versions are passed
//! over.

use cairn_cni::{netlink::link::Mac, network::IpNetwork};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, net::IpAddr};

/// Networks besides the default one.
pub(super) const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// A network in place of the default one; Multus' own.
pub(super) const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// Longest name of an interface, bytes (linux/if.h, `IFNAMSIZ` less the final zero).
const INTERFACE_LIMIT: usize = 15;

/// One network that a pod asks for, and how it is to be connected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Name of the network's definition.
    pub name: String,
    /// Namespace of the definition; the pod's own when the annotation names none.
    pub namespace: String,
    /// Name of the interface in the pod.
    pub interface: String,
    /// Addresses asked for, with or without prefix length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Hardware address asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// InfiniBand GUID asked for.
    #[serde(rename = "infiniband-guid", skip_serializing_if = "Option::is_none")]
    pub infiniband_guid: Option<String>,
    /// Limits, in bits a second and bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Ports of the node that lead to this interface.
    #[serde(rename = "portMappings", skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// For the plugins, below `args.cni`.
    #[serde(rename = "cni-args", skip_serializing_if = "Option::is_none")]
    pub cni_args: Option<Map<String, Value>>,
    /// Next hops on this network that the pod's default route goes to, in place of the default network's.
    #[serde(rename = "default-route", skip_serializing_if = "Vec::is_empty")]
    pub default_route: Vec<IpAddr>,
    /// Device that the network is to use, `0000:04:00.5`.
    #[serde(rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

/// CNI's conventional `bandwidth`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Into the pod, bits a second.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ingress_rate: u64,
    /// Above it for a moment, bits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ingress_burst: u64,
    /// Out of the pod, bits a second.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub egress_rate: u64,
    /// Above it for a moment, bits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub egress_burst: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// CNI's conventional port mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port of the node.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Address of the node; all of them when absent.
    #[serde(rename = "hostIP", default, skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

fn tcp() -> String {
    "tcp".to_owned()
}

impl Selection {
    /// `namespace/name`.
    pub(super) fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("it has no `name`".to_owned());
        }
        for (what, name) in [("name", &self.name), ("namespace", &self.namespace)] {
            let legal =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            if !name.bytes().all(legal) {
                return Err(format!(
                    "{what} `{name}` is not made of lower-case letters, digits, `-` and `.`"
                ));
            }
        }
        if !self.interface.is_empty() {
            check_interface(&self.interface)?;
        }
        for ip in &self.ips {
            if ip.parse::<IpAddr>().is_err() && ip.parse::<IpNetwork>().is_err() {
                return Err(format!("ips: `{ip}` is no address such as 10.1.2.3 or 10.1.2.3/24"));
            }
        }
        if let Some(mac) = &self.mac {
            mac.parse::<Mac>().map_err(|error| format!("mac: {error}"))?;
        }
        for mapping in &self.port_mappings {
            if !matches!(mapping.protocol.to_ascii_lowercase().as_str(), "tcp" | "udp" | "sctp") {
                return Err(format!("portMappings: protocol `{}` is not tcp, udp or sctp", mapping.protocol));
            }
        }
        for (index, gateway) in self.default_route.iter().enumerate() {
            let earlier = self.default_route.iter().take(index);
            if earlier.into_iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                return Err("default-route: name at most one next hop a family".to_owned());
            }
        }
        Ok(())
    }
}

/// A name that Linux takes, and that is not taken by what every pod has.
fn check_interface(name: &str) -> Result<(), String> {
    let legal =
        |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != '/' && letter != ':';
    if name.len() > INTERFACE_LIMIT || matches!(name, "." | "..") || !name.chars().all(legal) {
        return Err(format!(
            "`{name}` is no name for an interface: use at most {INTERFACE_LIMIT} bytes without `/`, `:` and spaces"
        ));
    }
    if matches!(name, "lo" | super::INTERFACE) {
        return Err(format!("interface `{name}` is the pod's already: name another"));
    }
    Ok(())
}

/// The networks that an annotation's text asks for, by a pod in `namespace`. Interfaces that are not named are `net1`,
/// `net2` and so on, by their place in the list.
///
/// # Errors
/// Which element is wrong, and why.
pub(super) fn parse(text: &str, namespace: &str) -> Result<Vec<Selection>, String> {
    let text = text.trim();
    let mut all = if text.starts_with(['[', '{']) { parse_json(text)? } else { parse_names(text)? };
    let mut taken = BTreeSet::new();
    for (index, selection) in all.iter_mut().enumerate() {
        let place = index + 1;
        selection.check().map_err(|reason| format!("network {place}: {reason}"))?;
        if selection.namespace.is_empty() {
            namespace.clone_into(&mut selection.namespace);
        }
        if selection.interface.is_empty() {
            selection.interface = format!("net{place}");
        }
        if !taken.insert(selection.interface.clone()) {
            return Err(format!("network {place}: interface `{}` is named twice", selection.interface));
        }
    }
    let defaults: Vec<&IpAddr> = all.iter().flat_map(|selection| &selection.default_route).collect();
    if [true, false].iter().any(|v4| defaults.iter().filter(|route| route.is_ipv4() == *v4).count() > 1) {
        return Err("two networks have a `default-route` of the same family: a pod has one".to_owned());
    }
    Ok(all)
}

fn parse_names(text: &str) -> Result<Vec<Selection>, String> {
    let named = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    named.map(parse_name).collect()
}

/// `namespace/name@interface`.
fn parse_name(text: &str) -> Result<Selection, String> {
    let (name, interface) = match text.split_once('@') {
        Some((_, "")) => return Err(format!("`{text}` has no interface after the `@`")),
        Some((name, interface)) => (name, interface),
        None => (text, ""),
    };
    let (namespace, name) = match name.split_once('/') {
        Some(("", _)) => return Err(format!("`{text}` has no namespace before the `/`")),
        Some((namespace, name)) => (namespace, name),
        None => ("", name),
    };
    let owned = str::to_owned;
    Ok(Selection {
        name: owned(name),
        namespace: owned(namespace),
        interface: owned(interface),
        ..Default::default()
    })
}

fn parse_json(text: &str) -> Result<Vec<Selection>, String> {
    let list: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| format!("it is neither a list of names nor a JSON list of objects: {error}"))?;
    let read = |(index, element): (usize, Value)| {
        serde_json::from_value(element).map_err(|error| format!("network {}: {error}", index + 1))
    };
    list.into_iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_namespace_and_an_interface_or_not() {
        let all = parse("a, other/b , c@x0,other/d@x1,", "mine").unwrap();
        let told: Vec<_> = all.iter().map(|one| format!("{} {}", one.full_name(), one.interface)).collect();
        assert_eq!(told, ["mine/a net1", "other/b net2", "mine/c x0", "other/d x1"]);
        assert_eq!(parse(" ", "mine").unwrap(), []);
    }

    #[test]
    fn objects_say_more() {
        let all = parse(
            r#"[{"name":"a","namespace":"n","interface":"x0","ips":["10.1.2.3/24","fd00::3"],"mac":"02:00:00:00:00:01",
                "infiniband-guid":"c2:11","bandwidth":{"ingressRate":1000,"ingressBurst":2000},
                "portMappings":[{"hostPort":80,"containerPort":8080,"hostIP":"10.0.0.1"}],
                "cni-args":{"k":"v"},"default-route":["10.1.2.1","fd00::1"],"deviceID":"0000:04:00.5","of-later":1}]"#,
            "mine",
        )
        .unwrap();
        let one = &all[0];
        assert_eq!((one.full_name().as_str(), one.interface.as_str()), ("n/a", "x0"));
        assert_eq!(one.ips, ["10.1.2.3/24", "fd00::3"]);
        assert_eq!(one.bandwidth.unwrap().ingress_burst, 2000);
        assert_eq!(one.port_mappings[0].protocol, "tcp");
        assert_eq!(one.cni_args.as_ref().unwrap()["k"], "v");
        assert_eq!(one.default_route.len(), 2);
        let stored: Selection = serde_json::from_str(&serde_json::to_string(one).unwrap()).unwrap();
        assert_eq!(&stored, one, "what is recorded is what was asked");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, why) in [
            ("a@", "no interface after"),
            ("/a", "no namespace before"),
            ("A", "lower-case"),
            ("a@eth0", "`eth0` is the pod's already"),
            ("a@sixteen-letters-", "no name for an interface"),
            ("a@x,b@x", "named twice"),
            ("a@net2,b", "named twice"),
            (r#"[{"name":"a"},{"namespace":"n"}]"#, "network 2: it has no `name`"),
            (r#"[{"name":"a","ips":["10.1"]}]"#, "10.1"),
            (r#"[{"name":"a","ips":"10.1.1.1"}]"#, "network 1"),
            (r#"[{"name":"a","mac":"x"}]"#, "mac"),
            (r#"[{"name":"a","portMappings":[{"hostPort":1,"containerPort":2,"protocol":"icmp"}]}]"#, "icmp"),
            (r#"[{"name":"a","default-route":["10.0.0.1","10.0.0.2"]}]"#, "one next hop a family"),
            (
                r#"[{"name":"a","default-route":["fd00::1"]},{"name":"b","default-route":["fd01::1"]}]"#,
                "same family",
            ),
            (r#"{"name":"a"}"#, "JSON list"),
            ("[", "JSON list"),
        ] {
            let error = parse(text, "mine").unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
