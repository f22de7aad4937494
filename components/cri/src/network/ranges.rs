//! The pods' address range on this node, which the kubelet tells by UpdateRuntimeConfig, and what it means to a
//! network's configuration.
//!
//! A plugin that declares the capability `ipRanges` takes its range from the runtime. Where its configuration has ranges of its own
//! as well, those are for the time until the kubelet tells one: the kubelet's go in their place. (By libcni's convention they would go in front,
//! and a pod would get an address of each.) Each range has a bridge of its own, named after it: pods that were there before keep their
//! gateway, and the reference's bridge plugin refuses a second gateway on one bridge.

use super::config::{PluginConfig, kind, takes};
use crate::record;
use cairn_cni::network::IpNetwork;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

/// The kubelet's ranges, remembered over restarts.
#[derive(Debug)]
pub(super) struct PodRanges {
    file: PathBuf,
    held: Mutex<Vec<IpNetwork>>,
}

/// A range that cannot be used, or not be remembered.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// The text is wrong.
    #[error("pod range `{0}`: {1}")]
    Invalid(String, String),
    /// It cannot be recorded.
    #[error("cannot record the pod range: {0}")]
    Record(#[from] io::Error),
}

impl PodRanges {
    /// As recorded in `file`. A damaged record is none: the kubelet tells it again.
    pub(super) fn open(file: PathBuf) -> Self {
        let text: Option<String> = record::load(&file).unwrap_or_else(|error| {
            tracing::error!("{} is damaged and is dropped: {error}", file.display());
            None
        });
        let held = text.and_then(|text| parse(&text).ok()).unwrap_or_default();
        Self { file, held: Mutex::new(held) }
    }

    /// What the kubelet told last; none if it told nothing.
    pub(super) fn get(&self) -> Vec<IpNetwork> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes `10.1.2.0/24,fd00:1::/64`, at most one range a family. Nothing is as good as before.
    pub(super) fn set(&self, text: &str) -> Result<(), RangeError> {
        let ranges = parse(text).map_err(|reason| RangeError::Invalid(text.to_owned(), reason))?;
        if ranges.is_empty() || ranges == self.get() {
            return Ok(());
        }
        record::save(&self.file, &text)?;
        tracing::info!("the pods' addresses are of {text}");
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = ranges;
        Ok(())
    }
}

fn parse(text: &str) -> Result<Vec<IpNetwork>, String> {
    let mut ranges: Vec<IpNetwork> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
        let range: IpNetwork =
            part.parse().map_err(|_| format!("`{part}` is no range such as 10.1.2.0/24"))?;
        if ranges.iter().any(|other| other.address.is_ipv4() == range.address.is_ipv4()) {
            return Err("name at most one range a family".to_owned());
        }
        ranges.push(range.network());
    }
    Ok(ranges)
}

/// The conventional capability argument: one list of ranges an address.
pub(super) fn argument(ranges: &[IpNetwork]) -> Value {
    ranges.iter().map(|range| json!([{ "subnet": range.to_string() }])).collect()
}

/// Puts the kubelet's ranges in the place of those that a plugin has of its own.
pub(super) fn apply(plugins: &mut [PluginConfig], ranges: &[IpNetwork]) {
    if ranges.is_empty() {
        return;
    }
    for plugin in plugins.iter_mut().filter(|plugin| takes(plugin, "ipRanges")) {
        let Some(Value::Object(ipam)) = plugin.get_mut("ipam") else { continue };
        let own = ["ranges", "subnet"].into_iter().any(|key| ipam.contains_key(key));
        if kind(ipam) != "host-local" || !own {
            continue;
        }
        // The network's own ranges may be the kubelet's: then they stay, but are not given a second time.
        let others = ipam.get("ranges") != Some(&argument(ranges));
        if others {
            replace(ipam, ranges);
        }
        if let Some(Value::Object(capabilities)) = plugin.get_mut("capabilities") {
            capabilities.remove("ipRanges");
        }
        if others && kind(plugin) == "bridge" {
            let name = plugin.get("bridge").and_then(Value::as_str).unwrap_or("cni0");
            let name = bridge_of(name, ranges);
            plugin.insert("bridge".to_owned(), name.into());
        }
    }
}

/// Gives host-local these ranges instead of its own.
fn replace(ipam: &mut PluginConfig, ranges: &[IpNetwork]) {
    for key in ["subnet", "rangeStart", "rangeEnd", "gateway"] {
        ipam.remove(key);
    }
    ipam.insert("ranges".to_owned(), argument(ranges));
    if let Some(Value::Array(routes)) = ipam.get_mut("routes") {
        fit_default_routes(routes, ranges);
    }
}

/// A default route for each family that there are addresses of, if there was one for any.
fn fit_default_routes(routes: &mut Vec<Value>, ranges: &[IpNetwork]) {
    let destination = |route: &Value| route.get("dst")?.as_str()?.parse::<IpNetwork>().ok();
    let is_default = |route: &Value| destination(route).is_some_and(|dst| dst.prefix == 0);
    let before = routes.len();
    routes.retain(|route| !is_default(route));
    if routes.len() < before {
        let everything = ranges.iter().map(|range| IpNetwork::everything(range.address));
        routes.extend(everything.map(|dst| json!({ "dst": dst.to_string() })));
    }
}

/// A bridge's name for a range: 15 bytes at most, always the same for the same range.
fn bridge_of(name: &str, ranges: &[IpNetwork]) -> String {
    let mut digest = Sha256::new();
    for range in ranges {
        digest.update(format!("{range},"));
    }
    let stem: String = name.chars().take(8).collect();
    format!("{stem}-{}", hex::encode(&digest.finalize()[..3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(plugin: Value, ranges: &str) -> Value {
        let mut plugins = vec![plugin.as_object().unwrap().clone()];
        apply(&mut plugins, &parse(ranges).unwrap());
        Value::Object(plugins.remove(0))
    }

    fn bridge() -> Value {
        json!({"type": "bridge", "bridge": "cni0", "capabilities": {"ipRanges": true, "mac": true}, "ipam": {
            "type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.0.0.0/8"}]}})
    }

    #[test]
    fn the_kubelets_ranges_replace_a_plugins_own() {
        let changed = applied(bridge(), "10.244.3.0/24");
        assert_eq!(changed["ipam"]["ranges"], json!([[{"subnet": "10.244.3.0/24"}]]));
        assert_eq!(changed["ipam"]["routes"], json!([{"dst": "10.0.0.0/8"}, {"dst": "0.0.0.0/0"}]));
        assert_eq!(changed["capabilities"], json!({"mac": true}), "or host-local would add them once more");
        let name = changed["bridge"].as_str().unwrap();
        assert!(name.starts_with("cni0-") && name.len() <= 15, "{name}");
        let other = applied(bridge(), "10.244.4.0/24");
        assert_ne!(name, other["bridge"], "another range has another bridge");
        let dual = applied(bridge(), "10.244.3.0/24,fd00:3::/64");
        assert_eq!(dual["ipam"]["ranges"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_asked_for_stays_as_it_is() {
        assert_eq!(applied(bridge(), ""), bridge());
        let mut once = bridge();
        once["capabilities"] = json!({"mac": true});
        assert_eq!(
            applied(bridge(), "10.88.0.0/16,fd00:88::/64"),
            once,
            "the range it has already, and not twice"
        );
        let mut fixed = bridge();
        fixed["capabilities"] = json!({});
        assert_eq!(applied(fixed.clone(), "10.244.3.0/24"), fixed);
        let open = json!({"type": "ptp", "capabilities": {"ipRanges": true}, "ipam": {"type": "host-local"}});
        assert_eq!(applied(open.clone(), "10.244.3.0/24"), open, "it gets them as a capability argument");
    }

    #[test]
    fn ranges_are_remembered_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pod-cidr.json");
        let ranges = PodRanges::open(file.clone());
        ranges.set("").unwrap();
        assert!(ranges.get().is_empty());
        ranges.set("10.244.3.0/24, fd00:3::/64").unwrap();
        for bad in ["10.1.0.0/24,10.2.0.0/24", "10.1.0.0", "10.1.0.0/33", "10.1.0.0/16,", "x"] {
            assert!(matches!(ranges.set(bad), Err(RangeError::Invalid(..))), "{bad}");
        }
        assert_eq!(PodRanges::open(file.clone()).get().len(), 2);
        std::fs::write(&file, "{").unwrap();
        assert!(PodRanges::open(file).get().is_empty());
    }
}
