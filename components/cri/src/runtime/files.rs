//! The files a pod's containers find in `/etc`: `resolv.conf`, `hostname`, and `hosts` where the kubelet gives none.

use cairn_contract::cri;
use std::{fmt::Write, fs, io, path::Path};

/// Writes them into a pod's state directory.
pub(super) fn write(directory: &Path, config: &cri::PodSandboxConfig, node_network: bool) -> io::Result<()> {
    let resolv = match &config.dns_config {
        Some(dns) => resolv_conf(dns),
        // A pod without a DNS configuration resolves as the node does.
        None => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    fs::write(directory.join("resolv.conf"), resolv)?;
    let hostname = if node_network {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        config.hostname.clone()
    };
    fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
    let node_hosts = node_network.then(|| fs::read_to_string("/etc/hosts").ok()).flatten();
    let hosts =
        node_hosts.unwrap_or_else(|| "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n".to_owned());
    fs::write(directory.join("hosts"), hosts)
}

fn resolv_conf(dns: &cri::DnsConfig) -> String {
    let mut text = String::new();
    let mut line = |key: &str, words: &[String]| {
        if !words.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key} {}", words.join(" "));
        }
    };
    line("search", &dns.searches);
    for server in &dns.servers {
        line("nameserver", std::slice::from_ref(server));
    }
    line("options", &dns.options);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_what_the_resolver_reads() {
        let dns = cri::DnsConfig {
            servers: vec!["10.0.0.10".into(), "fd00::a".into()],
            searches: vec!["svc".into(), "local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search svc local\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n"
        );
    }
}
