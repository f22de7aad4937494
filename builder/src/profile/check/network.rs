//! Checks on `[network]`.

use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;
use serde_json::Value;

pub(super) const CHECKS: &[ProfileCheck] = &[
    ProfileCheck {
        id: "network.plugins",
        severity: Severity::Fatal,
        rule: "every CNI plugin that a network names is one that cairn-cni provides",
        run: plugins,
    },
    ProfileCheck {
        id: "network.ranges",
        severity: Severity::Fatal,
        rule: "pod ranges are one a family and large enough, and do not overlap",
        run: ranges,
    },
    ProfileCheck {
        id: "network.mtu",
        severity: Severity::Fatal,
        rule: "the MTU is one that IPv4 (576) and, with an IPv6 range, IPv6 (1280) can use",
        run: mtu,
    },
    ProfileCheck {
        id: "network.bridge",
        severity: Severity::Fatal,
        rule: "the bridge's name is one that Linux takes",
        run: bridge,
    },
];

/// The plugins in `components/cni` that can stand first in a network: those that make an interface.
const INTERFACES: &[&str] =
    &["bridge", "dummy", "host-device", "ipvlan", "loopback", "macvlan", "ptp", "sriov", "tap", "vlan"];

/// Those that can stand after one.
const CHAINED: &[&str] = &["bandwidth", "firewall", "portmap", "sbr", "tuning", "vrf"];

fn plugins(resolved: &Resolved) -> Vec<Finding> {
    let network = &resolved.profile.network;
    let mut findings: Vec<Finding> =
        unknown("network.type", network.kind.as_str(), INTERFACES).into_iter().collect();
    for (name, extra) in &network.networks {
        let key = format!("network.networks.{name}");
        findings.extend(unknown(&format!("{key}.type"), extra.kind.as_str(), INTERFACES));
        for (index, plugin) in extra.chain.iter().enumerate() {
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            findings.extend(unknown(&format!("{key}.chain[{index}].type"), kind, CHAINED));
        }
    }
    findings
}

fn unknown(key: &str, kind: &str, known: &[&str]) -> Option<Finding> {
    (!known.contains(&kind)).then(|| {
        let fix = format!("use one of {}", known.join(", "));
        Finding::new(key, format!("cairn-cni has no plugin `{kind}` for this place"), fix)
    })
}

fn ranges(resolved: &Resolved) -> Vec<Finding> {
    let cidrs = &resolved.profile.network.pod_cidrs;
    let mut findings = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        let key = format!("network.pod_cidrs[{index}]");
        let width = if cidr.is_ipv6() { 128 } else { 32 };
        if cidr.prefix() > width - 3 {
            findings.push(Finding::new(
                key.clone(),
                format!("{cidr} has no room for a gateway and pods"),
                format!("use a prefix of at most /{}", width - 3),
            ));
        }
        for other in &cidrs[..index] {
            if cidr.overlaps(other) {
                findings.push(Finding::new(
                    key.clone(),
                    format!("{cidr} overlaps {other}"),
                    "use ranges that share no address",
                ));
            } else if cidr.is_ipv6() == other.is_ipv6() {
                findings.push(Finding::new(
                    key.clone(),
                    format!("{cidr} is of the same family as {other}; a pod has one address a family"),
                    "give at most one IPv4 and one IPv6 range",
                ));
            }
        }
    }
    findings
}

fn mtu(resolved: &Resolved) -> Vec<Finding> {
    let network = &resolved.profile.network;
    let Some(mtu) = network.mtu else { return Vec::new() };
    let ipv6 = network.pod_cidrs.iter().any(|cidr| cidr.is_ipv6());
    let least = if ipv6 { 1280 } else { 576 };
    if mtu >= least {
        return Vec::new();
    }
    vec![Finding::new("network.mtu", format!("{mtu} is below {least}"), "raise it, or leave it out")]
}

fn bridge(resolved: &Resolved) -> Vec<Finding> {
    let name = resolved.profile.network.bridge.as_str();
    let valid = (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if valid {
        return Vec::new();
    }
    vec![Finding::new(
        "network.bridge",
        format!("`{name}` is no name for an interface"),
        "use 1 to 15 printable characters without `/`, `:` and spaces",
    )]
}
