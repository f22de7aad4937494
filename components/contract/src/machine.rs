//! Machine config: one TOML document that makes a node out of an image.
//!
//! The image is the same everywhere; what differs between two nodes (name, addresses, credentials) is here.
//! `cairn machine check` and the node run this same code, so a config that passes offline is accepted there.
//! Every table may be left out: a node without machine config boots, takes its name from DHCP or its MAC
//! address, its addresses from DHCP and router advertisements, and keeps the management API off.

use crate::storage::{self, Pool};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr};

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MachineConfig {
    /// Identity.
    pub node: Node,
    /// Interfaces and name servers.
    pub network: Network,
    /// Time servers.
    pub time: Time,
    /// The cluster to join.
    pub cluster: Option<Cluster>,
    /// Management API; absent means off.
    pub api: Option<Api>,
    /// Registries, by host as it stands in image names (`registry.example:5000`).
    pub registries: BTreeMap<String, Registry>,
    /// Kernel parameters that need no rebuild, `net.core.somaxconn = "1024"`.
    pub sysctl: BTreeMap<String, String>,
    /// Who the node is to iSCSI targets.
    pub iscsi: Iscsi,
    /// This machine's disks for local volumes.
    pub storage: Storage,
}

/// Identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Host name and Kubernetes node name.
    pub name: Option<String>,
    /// Labels the kubelet registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints the kubelet registers with, `key=value:Effect`.
    pub taints: Vec<String>,
}

/// Interfaces and name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Interfaces; those that none of these match take DHCP and router advertisements.
    pub interfaces: Vec<Interface>,
    /// Name servers, besides those that DHCP gives.
    pub dns: Vec<std::net::IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

/// One interface. Exactly one of `name` and `mac` selects it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Name or glob, `en*`.
    #[serde(default)]
    pub name: Option<String>,
    /// MAC address, `52:54:00:12:34:56`.
    #[serde(default)]
    pub mac: Option<String>,
    /// Take an address by DHCP (v4 and v6).
    #[serde(default)]
    pub dhcp: bool,
    /// Static addresses with prefix length.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Default gateways, at most one a family.
    #[serde(default)]
    pub gateways: Vec<std::net::IpAddr>,
    /// MTU in bytes.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// Time servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Time {
    /// NTP servers; empty means the image's.
    pub servers: Vec<String>,
}

/// The cluster to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// API server, `https://api.example:6443`.
    pub endpoint: String,
    /// Bootstrap token, `abcdef.0123456789abcdef`.
    pub bootstrap_token: String,
    /// The cluster's CA certificate, PEM.
    pub ca: String,
    /// Cluster DNS addresses.
    #[serde(default)]
    pub dns: Vec<std::net::IpAddr>,
    /// Cluster domain.
    #[serde(default = "cluster_domain")]
    pub domain: String,
}

fn cluster_domain() -> String {
    "cluster.local".to_owned()
}

/// Management API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// CA that client certificates must be signed by, PEM.
    pub client_ca: String,
    /// The server's certificate chain, PEM.
    pub certificate: String,
    /// The server's private key, PEM (PKCS#8).
    pub key: String,
}

/// How one registry host is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// URLs tried in order before the host itself: `https://mirror.example`, `http://10.0.2.2:5000`.
    pub mirrors: Vec<String>,
    /// CA for this host and its mirrors, PEM.
    pub ca: Option<String>,
    /// Do not check certificates.
    pub insecure: bool,
    /// User name.
    pub username: Option<String>,
    /// Password or token.
    pub password: Option<String>,
}

/// Who the node is to iSCSI targets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iscsi {
    /// Initiator name, `iqn.2026-11.org.example:node-1` (RFC 7143, section 4.2.7); without it, one made of the
    /// machine id.
    pub initiator_name: Option<String>,
}

/// What this machine's CSI driver has that the image's does not: disks differ from machine to machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Places for local volumes, in the place of the image's; the first is the default one. Empty: the image's.
    pub pools: Vec<Pool>,
    /// Where the driver's Prometheus metrics are served, in the place of the image's `storage.metrics_address`.
    pub metrics_address: Option<SocketAddr>,
}

/// A machine config that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineConfigError {
    /// Not TOML, an unknown key, or a value of the wrong type; the message has line and column.
    #[error("machine config: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Well-formed, but a value makes no sense.
    #[error("machine config: `{key}`: {reason}")]
    Value {
        /// Dotted key.
        key: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

impl MachineConfig {
    /// Parses and checks a document.
    pub fn parse(text: &str) -> Result<Self, MachineConfigError> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), MachineConfigError> {
        let bad =
            |key: String, reason: &str| Err(MachineConfigError::Value { key, reason: reason.to_owned() });
        if let Some(name) = &self.node.name
            && !is_hostname(name)
        {
            return bad(
                "node.name".into(),
                "must be a DNS name: lower-case letters, digits, `-` and `.`, at most 63 characters",
            );
        }
        for (index, interface) in self.network.interfaces.iter().enumerate() {
            let key = |field: &str| format!("network.interfaces[{index}].{field}");
            if interface.name.is_some() == interface.mac.is_some() {
                return bad(key("name"), "give exactly one of `name` and `mac`");
            }
            for address in &interface.addresses {
                if !is_prefixed_address(address) {
                    return bad(
                        key("addresses"),
                        &format!("`{address}` is not an address with prefix length, such as 192.0.2.7/24"),
                    );
                }
            }
        }
        if let Some(cluster) = &self.cluster {
            if !cluster.endpoint.starts_with("https://") {
                return bad("cluster.endpoint".into(), "must start with https://");
            }
            if !is_bootstrap_token(&cluster.bootstrap_token) {
                return bad("cluster.bootstrap_token".into(), "must have the form abcdef.0123456789abcdef");
            }
        }
        if let Some(name) = &self.iscsi.initiator_name
            && !is_iscsi_name(name)
        {
            return bad(
                "iscsi.initiator_name".into(),
                "must be an iSCSI name, such as iqn.2026-11.org.example:node-1: lower-case letters, digits, `-`, `.` and `:`, at most 223 characters",
            );
        }
        match storage::mistakes_on_node(&self.storage.pools).first() {
            Some(storage::Mistake { index, key, problem, fix }) => {
                bad(format!("storage.pools[{index}].{key}"), &format!("{problem}; {fix}"))
            }
            None => Ok(()),
        }
    }
}

/// RFC 7143, section 4.2.7: `iqn.` with a date and a domain, `eui.` with 16 hexadecimal digits, `naa.` with 16 or 32.
pub fn is_iscsi_name(name: &str) -> bool {
    let hex = |text: &str, lengths: &[usize]| {
        lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let iqn = |text: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b);
        let date = text.split('.').next().unwrap_or_default().as_bytes();
        let dated = matches!(date, [y @ .., b'-', a, b] if y.len() == 4 && y.iter().chain([a, b]).all(u8::is_ascii_digit));
        dated && text.len() > date.len() + 1 && text.bytes().all(allowed)
    };
    name.len() <= 223
        && match name.split_once('.') {
            Some(("iqn", rest)) => iqn(rest),
            Some(("eui", rest)) => hex(rest, &[16]),
            Some(("naa", rest)) => hex(rest, &[16, 32]),
            _ => false,
        }
}

/// RFC 1123 names, as Kubernetes wants node names.
fn is_hostname(name: &str) -> bool {
    name.len() <= 63
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn is_prefixed_address(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    match (address.parse::<std::net::IpAddr>(), prefix.parse::<u8>()) {
        (Ok(std::net::IpAddr::V4(_)), Ok(length)) => length <= 32,
        (Ok(std::net::IpAddr::V6(_)), Ok(length)) => length <= 128,
        _ => false,
    }
}

fn is_bootstrap_token(token: &str) -> bool {
    let part = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    token.split_once('.').is_some_and(|(id, secret)| part(id, 6) && part(secret, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_document_is_a_node() {
        assert_eq!(MachineConfig::parse("").unwrap(), MachineConfig::default());
    }

    #[test]
    fn wrong_values_name_their_key() {
        for (text, expected) in [
            ("[node]\nname = 'Upper'", "node.name"),
            ("[node]\nnme = 'a'", "nme"),
            ("[[network.interfaces]]\ndhcp = true", "network.interfaces[0].name"),
            (
                "[[network.interfaces]]\nname = 'en*'\naddresses = ['1.2.3.4']",
                "network.interfaces[0].addresses",
            ),
            ("[cluster]\nendpoint='http://x'\nbootstrap_token='a'\nca=''", "cluster.endpoint"),
            ("[cluster]\nendpoint='https://x'\nbootstrap_token='a'\nca=''", "cluster.bootstrap_token"),
            ("[iscsi]\ninitiator_name='node-1'", "iscsi.initiator_name"),
            (
                "[[storage.pools]]\nname='fast'\ndevice='/dev/disk/by-id/a'\n[[storage.pools]]\nname='b'\ndevice='/dev/sdb'",
                "storage.pools[1].device",
            ),
            ("[[storage.pools]]\nname='fast'\ndevise='/dev/sdb'", "devise"),
            ("[storage]\nmetrics_address='10098'", "metrics_address"),
        ] {
            let message = MachineConfig::parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn iscsi_names_have_one_of_three_forms() {
        for good in [
            "iqn.2026-11.org.example",
            "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert!(is_iscsi_name(good), "{good}");
        }
        for bad in [
            "",
            "iqn",
            "iqn.",
            "iqn.2026-11",
            "iqn.2026-11.",
            "iqn.26-11.org.example",
            "iqn.2026-11.org.example/..",
            "iqn.2026-11.org.example a",
            "iqn.2026-11.org.Example",
            "eui.02004567a425678",
            "naa.zz004567ba64678d",
        ] {
            assert!(!is_iscsi_name(bad), "{bad}");
        }
        assert!(!is_iscsi_name(&format!("iqn.2026-11.{}", "a".repeat(220))));
    }
}
