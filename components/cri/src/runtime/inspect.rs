//! What verbose calls tell besides: the `info` that `crictl inspect`, `inspectp` and `info` print.

use super::{
    Runtime,
    state::{ContainerRecord, Pod},
};
use crate::{
    cgroup::{Layout, layout},
    network::network_status,
    shim::launch::SPEC_FILE,
};
use serde_json::{Map, Value, json};
use std::{collections::HashMap, fs};

type Info = HashMap<String, String>;

impl Runtime {
    /// A container's process, limits, places and OCI configuration.
    pub(super) fn container_info(&self, record: &ContainerRecord) -> Info {
        let bundle = self.bundle(&record.id);
        let spec = fs::read(bundle.join(SPEC_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let info = json!({
            "sandboxID": record.sandbox,
            "pid": record.pid,
            "removing": false,
            "snapshotKey": record.id,
            "snapshotter": "overlay",
            "runtimeType": "cairn",
            "cgroupPath": record.cgroup,
            "bundle": bundle,
            "writableLayer": self.snapshot(&record.id).upper(),
            "stopSignal": record.stop_signal,
            "resources": record.resources,
            "runtimeSpec": spec.unwrap_or(Value::Null),
        });
        one("info", &info)
    }

    /// A pod's places, phase and networks, and whether the plugins find these as they made them.
    pub(super) async fn pod_info(&self, pod: &Pod) -> Info {
        let record = pod.record().clone();
        let checks = self.check_network(pod).await.into_iter();
        let checks = checks.map(|(interface, state)| {
            (interface, json!(state.map_or_else(|error| error.to_string(), |()| "OK".to_owned())))
        });
        let checks: Map<String, Value> = checks.collect();
        let run = self.pod_run(&record.id);
        let namespaces = fs::read_dir(run.join("ns")).into_iter().flatten().flatten();
        let namespaces: Vec<_> = namespaces.map(|entry| entry.path()).collect();
        let info = json!({
            "phase": record.phase,
            "runtimeHandler": record.handler,
            "runtimeType": "cairn",
            "cgroupPath": record.cgroup,
            "namespaces": namespaces,
            "addresses": record.addresses,
            "networks": record.attachments,
            "networkCheck": checks,
            "run": run,
            "state": self.pod_state(&record.id),
        });
        let mut info = one("info", &info);
        info.extend(one("networkStatus", &network_status(&record.attachments)));
        info
    }

    /// The runtime's configuration, its network's, and what the kernel gives.
    /// `network`: why pods cannot be connected, if they cannot.
    pub(super) fn status_info(&self, network: Option<&(&str, String)>) -> Info {
        let loaded = network.map_or("OK", |(_, message)| message.as_str());
        let pods = self.all_pods().len();
        let running = self
            .all_containers()
            .iter()
            .filter(|container| {
                container.record().state() == cairn_contract::cri::ContainerState::ContainerRunning
            })
            .count();
        let mut info = one("config", &json!(self.inner.config));
        let (defined, broken) = self.inner.networks.defined();
        let network = json!({
            "confDir": self.inner.config.cni_conf,
            "binDirs": self.inner.config.cni_bin,
            "networksDir": self.inner.config.cni_networks,
            "networks": defined,
            "brokenNetworks": broken,
            "podCIDR": self.inner.networks.pod_ranges().join(","),
        });
        info.extend(one("cniconfig", &network));
        info.extend(one("lastCNILoadStatus", &json!(loaded)));
        let features = json!({
            "cgroupVersion": if layout() == Layout::Unified { 2 } else { 1 },
            "psi": std::path::Path::new("/proc/pressure").exists(),
            "pods": pods,
            "containersRunning": running,
        });
        info.extend(one("features", &features));
        info
    }
}

fn one(key: &str, value: &Value) -> Info {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Info::from([(key.to_owned(), text)])
}
