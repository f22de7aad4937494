//! Configuration of `host-local`.

use super::range::{RangeConfig, RangeSet};
use crate::{
    network::{IpNetwork, canonical},
    protocol::{error::CniError, request::Request, result::Route},
};
use serde::{Deserialize, Deserializer, de::Error};
use std::{net::IpAddr, path::PathBuf};

const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// What a run needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpamConfig {
    /// `<dataDir>/<network>`
    pub directory: PathBuf,
    /// An address from each.
    pub sets: Vec<RangeSet>,
    /// Passed on.
    pub routes: Vec<Route>,
    /// Where the pod's name resolution is read from.
    pub resolv_conf: Option<PathBuf>,
    /// Addresses asked for by CNI_ARGS, `args` or the `ips` capability.
    pub requested: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct NetworkConfig {
    ipam: Option<Ipam>,
    #[serde(default, rename = "runtimeConfig")]
    runtime: Runtime,
    #[serde(default)]
    args: Args,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Runtime {
    ip_ranges: Vec<Vec<RangeConfig>>,
    ips: Vec<RequestedIp>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Args {
    cni: CniArgs,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CniArgs {
    ips: Vec<RequestedIp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    resolv_conf: String,
    #[serde(default)]
    ranges: Vec<Vec<RangeConfig>>,
    // One range without a list: the form before 0.3.0, still the most common.
    subnet: Option<IpNetwork>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// An address, with or without prefix length.
struct RequestedIp(IpAddr);

impl RequestedIp {
    fn parse(text: &str) -> Option<Self> {
        let address = text.parse().ok().or_else(|| text.parse::<IpNetwork>().ok().map(|n| n.address))?;
        Some(Self(canonical(address)))
    }
}

impl<'de> Deserialize<'de> for RequestedIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("cannot understand ip {text:?}")))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DataDir {
    #[serde(rename = "dataDir")]
    path: String,
}

/// `<dataDir>/<network>`: all that DEL and GC need to know.
pub(super) fn directory(request: &Request) -> Result<PathBuf, CniError> {
    let given = request.key::<DataDir>("ipam")?.path;
    let data_dir = if given.is_empty() { DEFAULT_DATA_DIR } else { &given };
    Ok(PathBuf::from(data_dir).join(&request.network))
}

impl IpamConfig {
    /// From a request's configuration, its environment and the runtime's capability arguments.
    pub fn load(request: &Request) -> Result<Self, CniError> {
        let config: NetworkConfig = request.config()?;
        let ipam = config.ipam.ok_or_else(|| CniError::config("IPAM config missing 'ipam' key"))?;
        let mut requested = Vec::new();
        if let Some(text) = request.arg("IP").filter(|text| !text.is_empty()) {
            let ip = RequestedIp::parse(text);
            requested.push(
                ip.ok_or_else(|| CniError::config(format!("CNI_ARGS: cannot understand ip {text:?}")))?.0,
            );
        }
        requested.extend(config.args.cni.ips.into_iter().chain(config.runtime.ips).map(|ip| ip.0));
        let mut unique = Vec::new();
        for ip in requested {
            if !unique.contains(&ip) {
                unique.push(ip);
            }
        }

        let mut ranges = config.runtime.ip_ranges;
        if let Some(subnet) = ipam.subnet {
            let Ipam { range_start, range_end, gateway, .. } = ipam;
            ranges.push(vec![RangeConfig { subnet, range_start, range_end, gateway }]);
        }
        ranges.extend(ipam.ranges);
        if ranges.is_empty() {
            return Err(CniError::config("no IP ranges specified"));
        }
        let mut sets: Vec<RangeSet> = Vec::new();
        for (index, ranges) in ranges.iter().enumerate() {
            let set = RangeSet::new(ranges)
                .map_err(|e| CniError::config(format!("invalid range set {index}: {e}")))?;
            if let Some(other) = sets.iter().position(|other| other.overlaps(&set)) {
                return Err(CniError::config(format!("range set {other} overlaps with {index}")));
            }
            sets.push(set);
        }
        request.version.check_room(sets.iter().map(RangeSet::is_ipv4))?;
        Ok(Self {
            directory: directory(request)?,
            sets,
            routes: ipam.routes,
            resolv_conf: Some(ipam.resolv_conf).filter(|p| !p.is_empty()).map(PathBuf::from),
            requested: unique,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};

    fn load(args: &str, extra: Value, ipam: Value) -> Result<IpamConfig, CniError> {
        let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "x", "ipam": ipam});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let environment = Environment {
            command: "ADD".into(),
            container_id: "c".into(),
            netns: "/n".into(),
            ifname: "eth0".into(),
            args: args.into(),
            path: "/p".into(),
            netns_override: false,
        };
        IpamConfig::load(&Request::parse(&environment, config.to_string().into_bytes()).unwrap())
    }

    fn sets(config: &IpamConfig) -> Vec<String> {
        config.sets.iter().map(RangeSet::to_string).collect()
    }

    #[test]
    fn sets_are_those_of_the_runtime_then_the_single_range_then_the_list() {
        let config = load(
            "",
            json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.3.0.0/24"}]]}}),
            json!({"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "ranges": [[{"subnet": "fd00::/120"}]]}),
        );
        assert_eq!(
            sets(&config.unwrap()),
            ["10.3.0.1-10.3.0.254", "10.1.0.9-10.1.0.254", "fd00::1-fd00::ff"]
        );
    }

    #[test]
    fn requested_addresses_come_from_three_places() {
        let config = load(
            "IgnoreUnknown=1;IP=10.1.0.5",
            json!({"args": {"cni": {"ips": ["10.1.0.6/24", "10.1.0.5"]}}, "runtimeConfig": {"ips": ["fd00::7/64"]}}),
            json!({"ranges": [[{"subnet": "10.1.0.0/24"}]]}),
        )
        .unwrap();
        let texts: Vec<_> = config.requested.iter().map(IpAddr::to_string).collect();
        assert_eq!(texts, ["10.1.0.5", "10.1.0.6", "fd00::7"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (ipam, part) in [
            (json!(null), "'ipam' key"),
            (json!({}), "no IP ranges"),
            (json!({"subnet": "10.1.0.1/24"}), "host bits"),
            (json!({"subnet": "10.1.0.0"}), "10.1.0.0"),
            (json!({"ranges": [[]]}), "empty range set"),
            (json!({"ranges": {}}), "invalid type"),
            (
                json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]]}),
                "range set 0 overlaps with 1",
            ),
        ] {
            let error = load("", json!({}), ipam.clone()).unwrap_err();
            assert!(error.message.contains(part) && error.code.number() == 7, "{ipam}: {error}");
        }
        let two = json!({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]});
        assert_eq!(load("", json!({}), two.clone()).unwrap().sets.len(), 2);
        let error = load("", json!({"cniVersion": "0.2.0"}), two).unwrap_err();
        assert!(error.message.contains("more than 1 address per family"), "{error}");
        let error = load("IP=x", json!({}), json!({"subnet": "10.1.0.0/24"})).unwrap_err();
        assert!(error.message.contains("cannot understand ip"), "{error}");
    }
}
