//! Networks of a node.

use super::node::Node;
use serde_json::{Value, json};
use std::{fs, net::IpAddr, path::Path};

/// The reference CNI plugins, as Debian's package containernetworking-plugins has them.
pub(crate) const PLUGINS: &str = "/usr/lib/cni";

impl Node {
    /// A bridge and addresses of these subnets if the reference plugins are there, else a network that only claims.
    pub(crate) fn bridged(subnets: &[&str]) -> Self {
        if !Path::new(PLUGINS).join("bridge").exists() {
            return Self::new();
        }
        let node = Self::without_network();
        let plugin = json!({ "type": "bridge", "bridge": node.bridge(), "isGateway": true });
        node.network("net.d", "main", plugin, subnets);
        node
    }

    pub(crate) fn is_bridged(&self) -> bool {
        self.path("net.d/main.conflist").exists()
    }

    /// The bridge's name, which no other node's has.
    pub(super) fn bridge(&self) -> String {
        self.base().file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// A network whose plugin gives every pod the same address and connects none.
    pub(super) fn claim_network(&self) {
        let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.2/24"}]}"#;
        self.program("bin/claim", &format!("#!/bin/sh\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit 0\n"));
        let network = r#"{"cniVersion":"1.0.0","name":"claim","plugins":[{"type":"claim"}]}"#;
        fs::write(self.path("net.d/claim.conflist"), network).unwrap();
    }

    /// A network of one plugin, whose addresses are kept below the node's directory.
    pub(crate) fn network(&self, directory: &str, name: &str, mut plugin: Value, subnets: &[&str]) {
        let ranges: Vec<Value> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        plugin["ipam"] = json!({ "type": "host-local", "dataDir": self.path("addresses"), "ranges": ranges,
            "routes": [{ "dst": "0.0.0.0/0" }] });
        plugin["capabilities"] = json!({ "ips": true, "ipRanges": true });
        let list = json!({ "cniVersion": "1.0.0", "name": name, "plugins": [plugin] });
        fs::write(self.path(&format!("{directory}/{name}.conflist")), list.to_string()).unwrap();
    }

    /// Addresses that are taken, as the address manager keeps them: each is a file's name.
    pub(crate) fn taken(&self) -> Vec<String> {
        let networks = fs::read_dir(self.path("addresses")).unwrap().flatten();
        let files = networks.flat_map(|network| fs::read_dir(network.path()).unwrap().flatten());
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }
}
