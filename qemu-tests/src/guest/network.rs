//! Pods' networks: what a node defines, what a pod got, and conversations in it.

use super::{
    CALL, Guest,
    host::Host,
    pod::{Container, Pod},
};
use crate::scenario::{Stop, check};
use cairn_contract::{cri, paths};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// Networks besides the default one.
pub const NETWORKS_ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

/// One interface of a pod, as `k8s.v1.cni.cncf.io/network-status` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InterfaceStatus {
    /// The network's name.
    pub name: String,
    /// The interface's.
    pub interface: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its hardware address.
    #[serde(default)]
    pub mac: String,
    /// It is on the default network.
    #[serde(default)]
    pub default: bool,
}

impl InterfaceStatus {
    /// Its address of one family.
    pub fn address(&self, ipv6: bool) -> Result<IpAddr, Stop> {
        let found = self.ips.iter().copied().find(|ip| ip.is_ipv6() == ipv6);
        found.ok_or_else(|| Stop::failed(format!("{} has only the addresses {:?}", self.interface, self.ips)))
    }
}

impl Guest {
    /// Tells the runtime the pods' address range, as a kubelet does.
    pub async fn set_pod_range(&self, range: &str) -> Result<(), Stop> {
        let mut client = self.runtime();
        let network_config = Some(cri::NetworkConfig { pod_cidr: range.to_owned() });
        let request =
            cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::RuntimeConfig { network_config }) };
        let told = async move { client.update_runtime_config(request).await };
        self.call("UpdateRuntimeConfig", CALL, told).await.map(drop)
    }

    /// The name of the node's network card with this hardware address.
    pub async fn card(&self, mac: &str) -> Result<String, Stop> {
        let status = self.status().await?;
        let card = status.interfaces.iter().find(|interface| interface.mac.eq_ignore_ascii_case(mac));
        card.map(|card| card.name.clone()).ok_or_else(|| {
            Stop::failed(format!("the node has no network card {mac}: {:?}", status.interfaces))
        })
    }
}

impl Host {
    /// Defines a network for pods that ask for it, as an operator or an add-on would.
    pub async fn define_network(&self, name: &str, plugins: &Value) -> Result<(), Stop> {
        let list = serde_json::json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins });
        self.write(&definition(name), &list.to_string()).await?.success().map(drop)
    }

    /// Takes the definition away.
    pub async fn undefine_network(&self, name: &str) -> Result<(), Stop> {
        self.remove_file(&definition(name)).await
    }

    /// Removes a file of the node.
    pub async fn remove_file(&self, path: &str) -> Result<(), Stop> {
        self.run(&["rm", &format!("{}{path}", super::host::MOUNT)]).await?.success().map(drop)
    }
}

fn definition(name: &str) -> String {
    format!("{}/{name}.conflist", paths::CNI_NETWORKS)
}

impl Pod {
    /// Its interfaces, the default one first.
    pub async fn interfaces(&self) -> Result<Vec<InterfaceStatus>, Stop> {
        let details = self.details().await?;
        let text = details.get("networkStatus").map_or("null", String::as_str);
        serde_json::from_str(text).map_err(|error| Stop::failed(format!("networkStatus `{text}`: {error}")))
    }

    /// One of them.
    pub async fn interface(&self, name: &str) -> Result<InterfaceStatus, Stop> {
        let all = self.interfaces().await?;
        let found = all.iter().find(|one| one.interface == name).cloned();
        found.ok_or_else(|| Stop::failed(format!("the pod has no interface {name}, only {all:?}")))
    }

    /// What the plugins say of each interface: `OK`, or what is wrong.
    pub async fn network_check(&self) -> Result<BTreeMap<String, String>, Stop> {
        let details = self.details().await?;
        let info: Value = serde_json::from_str(details.get("info").map_or("null", String::as_str))
            .map_err(|error| Stop::failed(format!("info: {error}")))?;
        serde_json::from_value(info["networkCheck"].clone())
            .map_err(|error| Stop::failed(format!("networkCheck: {error}")))
    }
}

impl Container {
    /// Runs a command until it succeeds: a server that was just started may not listen yet, and neighbours are still to be
    /// found. What it printed.
    pub async fn until_ok<S: AsRef<str>>(&self, command: &[S]) -> Result<String, Stop> {
        let deadline = self.guest.pace().deadline(Duration::from_secs(10));
        loop {
            let output = self.exec(command).await?;
            if output.code == 0 {
                return Ok(output.stdout);
            }
            check(deadline.is_open(), || {
                let words: Vec<&str> = command.iter().skip(1).map(AsRef::as_ref).collect();
                format!(
                    "`{}` fails with {}: {}{}",
                    words.join(" "),
                    output.code,
                    output.stdout,
                    output.stderr
                )
            })?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
