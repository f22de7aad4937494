//! Results: what ADD made, what `prevResult` says was made.
//!
//! The fields of all versions from 0.3.0 on are those of 1.1.0 or fewer, so one set of types reads them all;
//! [`CniResult::to_json`] leaves out, or adds, what the asked version wants. What routes have besides next hops came with
//! 1.1.0 and is written for all of these, as the reference does: without it, CHECK and later plugins of the chain would
//! take them for other routes. Before that a result was at most one address
//! of each family with its routes, `ip4` and `ip6`: also read, and written when asked for.

use super::version::SpecVersion;
use crate::network::IpNetwork;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Result of ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AnyResult")]
pub struct CniResult {
    /// Every interface made or used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// Routes in the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name resolution in the pod.
    pub dns: Dns,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// Name in its namespace.
    pub name: String,
    /// Hardware address, `02:00:00:00:00:01`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// 1.1.0.
    #[serde(skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// Path of its network namespace; empty for the host's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// 1.1.0: vhost-user socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// 1.1.0: PCI device.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// `4` or `6`; before 1.0.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Index into [`CniResult::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// Address and prefix length of its network.
    pub address: IpNetwork,
    /// Default gateway of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNetwork,
    /// Next hop; without one, the gateway of the first address of the family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// 1.1.0: path MTU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// 1.1.0: TCP maximum segment size to advertise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// 1.1.0: metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// 1.1.0: routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// 1.1.0: scope, as rtnetlink numbers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route with nothing but destination and next hop.
    pub fn via(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A result of any version, as it is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AnyResult {
    interfaces: Vec<Interface>,
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
    ip4: Option<SoleAddress>,
    ip6: Option<SoleAddress>,
}

/// The only address of its family, before 0.3.0.
#[derive(Serialize, Deserialize)]
struct SoleAddress {
    ip: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl From<AnyResult> for CniResult {
    fn from(any: AnyResult) -> Self {
        let mut result = Self { interfaces: any.interfaces, ips: any.ips, routes: any.routes, dns: any.dns };
        for sole in [any.ip4, any.ip6].into_iter().flatten() {
            let SoleAddress { ip: address, gateway, routes } = sole;
            result.ips.push(IpConfig { version: None, interface: None, address, gateway });
            result.routes.extend(routes);
        }
        result
    }
}

/// A result before 0.3.0.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OldResult<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<SoleAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<SoleAddress>,
    dns: &'a Dns,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionedResult<'a> {
    cni_version: &'static str,
    #[serde(flatten)]
    result: &'a CniResult,
}

impl CniResult {
    /// The JSON for stdout, in the form of `version`.
    pub fn to_json(&self, version: SpecVersion) -> String {
        if version < SpecVersion::V0_3_0 {
            let [ip4, ip6] = [true, false].map(|v4| self.sole_address(v4));
            return pretty(&OldResult { cni_version: version.name(), ip4, ip6, dns: &self.dns });
        }
        let mut result = self.clone();
        for ip in &mut result.ips {
            let family = if ip.address.address.is_ipv4() { "4" } else { "6" };
            ip.version = (version < SpecVersion::V1_0_0).then(|| family.to_owned());
        }
        if version < SpecVersion::V1_1_0 {
            for interface in &mut result.interfaces {
                interface.mtu = 0;
                interface.socket_path.clear();
                interface.pci_id.clear();
            }
        }
        pretty(&VersionedResult { cni_version: version.name(), result: &result })
    }
}

impl CniResult {
    /// The first address of a family with all routes of that family: more cannot be said before 0.3.0.
    fn sole_address(&self, v4: bool) -> Option<SoleAddress> {
        let ip = self.ips.iter().find(|ip| ip.address.address.is_ipv4() == v4)?;
        let routes = self.routes.iter().filter(|route| route.dst.address.is_ipv4() == v4);
        let routes = routes.map(|route| Route::via(route.dst, route.gw)).collect();
        Some(SoleAddress { ip: ip.address, gateway: ip.gateway, routes })
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// JSON indented by four spaces, as the reference plugins print it.
pub(crate) fn pretty(document: &impl Serialize) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match document.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        // Our documents are maps with string keys, which always serialise.
        Err(error) => format!("{{\"code\":999,\"msg\":\"cannot print the result: {error}\"}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample() -> CniResult {
        CniResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mtu: 1400,
                sandbox: "/n".into(),
                ..Default::default()
            }],
            ips: vec![IpConfig {
                version: None,
                interface: Some(0),
                address: "fd00::2/64".parse().unwrap(),
                gateway: Some("fd00::1".parse().unwrap()),
            }],
            routes: vec![Route { priority: Some(5), ..Route::via("::/0".parse().unwrap(), None) }],
            dns: Dns::default(),
        }
    }

    fn rendered(version: SpecVersion) -> Value {
        serde_json::from_str(&sample().to_json(version)).unwrap()
    }

    #[test]
    fn each_version_gets_its_own_fields() {
        assert_eq!(
            rendered(SpecVersion::V1_1_0),
            json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 1400, "sandbox": "/n"}],
                   "ips": [{"interface": 0, "address": "fd00::2/64", "gateway": "fd00::1"}],
                   "routes": [{"dst": "::/0", "priority": 5}], "dns": {}})
        );
        assert_eq!(
            rendered(SpecVersion::V0_4_0),
            json!({"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "/n"}],
                   "ips": [{"version": "6", "interface": 0, "address": "fd00::2/64", "gateway": "fd00::1"}],
                   "routes": [{"dst": "::/0", "priority": 5}], "dns": {}})
        );
        assert_eq!(rendered(SpecVersion::V1_0_0)["interfaces"][0].get("mtu"), None);
        assert_eq!(
            rendered(SpecVersion::V0_2_0),
            json!({"cniVersion": "0.2.0", "dns": {},
                   "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]}})
        );
    }

    #[test]
    fn every_version_reads_back() {
        for version in SpecVersion::ALL {
            let parsed: CniResult = serde_json::from_str(&sample().to_json(version)).unwrap();
            assert_eq!(parsed.ips[0].address, sample().ips[0].address, "{version}");
            assert_eq!(parsed.routes[0].dst, sample().routes[0].dst, "{version}");
        }
    }
}
