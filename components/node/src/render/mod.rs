//! From a machine config to the files it stands for. Pure: no file is read or written here.
//!
//! What the node's programs read is plain configuration of their own (networkd's, timesyncd's, containerd's
//! `hosts.toml`, the kubelet's), so every one of them can be looked up in its manual.

mod iscsi;
mod kubelet;
mod network;
mod registries;
mod storage;
mod system;

use cairn_contract::machine::MachineConfig;
use std::path::PathBuf;

pub use storage::driver;
pub use system::{API_CERTIFICATE, API_CLIENT_CA, API_KEY};

/// Mode of files that everyone may read.
const PUBLIC: u32 = 0o644;
/// Mode of files with keys or passwords.
const SECRET: u32 = 0o600;

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Absolute path.
    pub path: PathBuf,
    /// Permission bits; the owner is root.
    pub mode: u32,
    /// The whole contents.
    pub contents: Vec<u8>,
}

impl Rendered {
    fn public(path: impl Into<PathBuf>, text: String) -> Self {
        Self { path: path.into(), mode: PUBLIC, contents: text.into_bytes() }
    }

    fn secret(path: impl Into<PathBuf>, text: String) -> Self {
        Self { path: path.into(), mode: SECRET, contents: text.into_bytes() }
    }
}

/// Every file of a node called `name`, ordered by path; `initiator` is what a node whose image knows iSCSI is called
/// by targets unless the config says it.
pub fn render(config: &MachineConfig, name: &str, initiator: Option<&str>) -> Vec<Rendered> {
    let mut files = system::files(config, name);
    files.extend(network::files(&config.network));
    files.extend(registries::files(&config.registries));
    files.extend(kubelet::files(config, name));
    files.extend(initiator.map(|default| iscsi::initiator(&config.iscsi, default)));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files as `path mode` and contents, for comparison with what a person would write.
    fn rendered(document: &str) -> Vec<(String, u32, String)> {
        let config = MachineConfig::parse(document).unwrap();
        render(&config, "node-1", Some("iqn.2016-04.com.open-iscsi:0"))
            .into_iter()
            .map(|file| {
                (file.path.display().to_string(), file.mode, String::from_utf8(file.contents).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_node_without_config_keeps_the_images_network_and_has_no_api() {
        let files = rendered("");
        let paths: Vec<_> = files.iter().map(|(path, mode, _)| (path.as_str(), *mode)).collect();
        assert_eq!(
            paths,
            [
                ("/etc/hostname", 0o644),
                ("/etc/hosts", 0o644),
                ("/etc/iscsi/initiatorname.iscsi", 0o644),
                ("/run/cairn/kubelet/env", 0o644)
            ]
        );
        assert_eq!(files[0].2, "node-1\n");
        assert_eq!(files[2].2, "InitiatorName=iqn.2016-04.com.open-iscsi:0\n");
        assert!(
            render(&MachineConfig::default(), "a", None)
                .iter()
                .all(|file| !file.path.starts_with("/etc/iscsi"))
        );
    }

    #[test]
    fn every_table_has_its_files() {
        let files = rendered(
            r#"
            [node]
            labels = { zone = "a", disk = "ssd" }
            taints = ["dedicated=batch:NoSchedule", "gone:NoExecute"]
            [[network.interfaces]]
            mac = "52:54:00:12:34:56"
            addresses = ["192.0.2.7/24", "2001:db8::7/64"]
            gateways = ["192.0.2.1", "fe80::1"]
            mtu = 9000
            [network]
            dns = ["192.0.2.53"]
            search = ["example.org"]
            [time]
            servers = ["ntp1.example.org", "ntp2.example.org"]
            [cluster]
            endpoint = "https://api.example:6443"
            bootstrap_token = "abcdef.0123456789abcdef"
            ca = "CLUSTER CA"
            dns = ["10.96.0.10"]
            [api]
            client_ca = "CA"
            certificate = "CERT"
            key = "KEY"
            [registries."registry.example:5000"]
            mirrors = ["http://10.0.2.2:5000"]
            ca = "REG CA"
            insecure = true
            username = "user"
            password = "pass"
            [iscsi]
            initiator_name = "iqn.2026-11.org.example:node-1"
            [sysctl]
            "net.core.somaxconn" = "1024"
            "#,
        );
        let file = |path: &str| {
            let found = files.iter().find(|(name, ..)| name == path);
            let (_, mode, text) = found.unwrap_or_else(|| panic!("{path} in {files:#?}"));
            (*mode, text.as_str())
        };
        assert_eq!(
            file("/run/systemd/network/10-cairn-0.network"),
            (
                0o644,
                "[Match]\nMACAddress=52:54:00:12:34:56\nKind=!*\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDHCP=no\n\
                 IPv6AcceptRA=no\nLinkLocalAddressing=ipv6\nAddress=192.0.2.7/24\nAddress=2001:db8::7/64\n\
                 Gateway=192.0.2.1\nGateway=fe80::1\nDNS=192.0.2.53\nDomains=example.org\n"
            )
        );
        let names = file("/run/systemd/network/80-cairn.network.d/50-machine.conf");
        assert_eq!(names, (0o644, "[Network]\nDNS=192.0.2.53\nDomains=example.org\n"));
        assert_eq!(file("/etc/resolv.conf"), (0o644, "nameserver 192.0.2.53\nsearch example.org\n"));
        let time = file("/run/systemd/timesyncd.conf.d/50-cairn.conf");
        assert_eq!(time, (0o644, "[Time]\nNTP=ntp1.example.org ntp2.example.org\n"));
        assert_eq!(file("/run/sysctl.d/90-cairn.conf"), (0o644, "net.core.somaxconn = 1024\n"));
        assert_eq!(file("/run/cairn/api/key.pem"), (0o600, "KEY\n"));
        assert_eq!(
            file("/etc/cairn/certs.d/registry.example:5000/hosts.toml"),
            (
                0o600,
                "server = \"https://registry.example:5000\"\nca = \"/etc/cairn/certs.d/registry.example:5000/ca.pem\"\n\
                 skip_verify = true\n\n[header]\nauthorization = \"Basic dXNlcjpwYXNz\"\n\n\
                 [host.\"http://10.0.2.2:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
                 ca = \"/etc/cairn/certs.d/registry.example:5000/ca.pem\"\nskip_verify = true\n"
            )
        );
        assert_eq!(
            file("/run/cairn/kubelet/env").1,
            "KUBELET_HOSTNAME=node-1\nKUBELET_NODE_LABELS=disk=ssd,zone=a\n"
        );
        let overlay: serde_json::Value =
            serde_json::from_str(file("/run/cairn/kubelet/config.d/50-cairn.conf").1).unwrap();
        // Without it the kubelet lets no API server in: it has no other way to know its certificate.
        let ca = overlay["authentication"]["x509"]["clientCAFile"].as_str().unwrap();
        assert_eq!(file(ca), (0o644, "CLUSTER CA\n"));
        assert_eq!(overlay["clusterDNS"], serde_json::json!(["10.96.0.10"]));
        assert_eq!(
            overlay["registerWithTaints"][0],
            serde_json::json!({"key": "dedicated", "value": "batch", "effect": "NoSchedule"})
        );
        assert_eq!(
            overlay["registerWithTaints"][1],
            serde_json::json!({"key": "gone", "value": "", "effect": "NoExecute"})
        );
        let (mode, kubeconfig) = file("/run/cairn/kubelet/bootstrap.kubeconfig");
        let kubeconfig: serde_json::Value = serde_json::from_str(kubeconfig).unwrap();
        assert_eq!(
            (mode, &kubeconfig["users"][0]["user"]["token"]),
            (0o600, &"abcdef.0123456789abcdef".into())
        );
    }

    #[test]
    fn the_configs_initiator_name_goes_before_the_nodes_own() {
        let files = rendered("[iscsi]\ninitiator_name = 'iqn.2026-11.org.example:a'");
        assert!(
            files.contains(&(
                "/etc/iscsi/initiatorname.iscsi".into(),
                0o644,
                "InitiatorName=iqn.2026-11.org.example:a\n".into()
            )),
            "{files:?}"
        );
    }

    #[test]
    fn a_value_cannot_break_out_of_its_line() {
        let files = rendered("[network]\nsearch = ['a\\n[Match]']\n[node]\nlabels = { a = \"b\\nX=1\" }");
        let all: String = files.iter().map(|(.., text)| text.as_str()).collect();
        assert!(!all.contains("\nX=1"), "{all}");
    }
}
