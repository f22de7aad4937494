//! Name servers: from what networkd learned to `/etc/resolv.conf`.
//!
//! networkd keeps what DHCP, router advertisements and its own files gave it in `/run/systemd/netif/state`,
//! and leaves resolv.conf to systemd-resolved. The image has no resolved (one daemon and 10 MB less), so
//! `cairn-node serve` writes the file.

use std::fmt::Write;

/// networkd's summary of all links (`sd_network_get_dns(3)` reads it too).
pub const NETWORKD_STATE: &str = "/run/systemd/netif/state";
/// What glibc and the pods' sandboxes read.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The resolv.conf for networkd's state; `None` while it knows no server.
pub fn from_networkd(state: &str) -> Option<String> {
    let words = |key: &str| -> Vec<String> {
        let line = state.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    // A server may carry a port, an interface and a TLS name: `192.0.2.1:53%eth0#name`. libc wants the
    // address; link-local addresses keep their interface.
    let address = |server: String| -> Option<String> {
        let bare = server.split('#').next()?;
        let (host, zone) = bare.split_once('%').map_or((bare, None), |(host, zone)| (host, Some(zone)));
        let host = host
            .parse::<std::net::SocketAddr>()
            .map_or_else(|_| host.parse().ok(), |socket| Some(socket.ip()))?;
        Some(match (host, zone) {
            (std::net::IpAddr::V6(ip), Some(zone)) if ip.is_unicast_link_local() => format!("{ip}%{zone}"),
            (ip, _) => ip.to_string(),
        })
    };
    let servers: Vec<_> = words("DNS").into_iter().filter_map(address).collect();
    (!servers.is_empty()).then(|| resolv_conf(&servers, &words("DOMAINS")))
}

/// Renders the file. libc uses the first three servers; more are written for those who read them all.
pub fn resolv_conf(servers: &[String], search: &[String]) -> String {
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networkds_state_becomes_a_resolv_conf() {
        let state = "# This is private data. Do not parse.\nOPER_STATE=routable\nDNS=10.0.2.3 fec0::3 fe80::1%eth0 192.0.2.1:5353#dns.example\nDOMAINS=example.org\n";
        assert_eq!(
            from_networkd(state).unwrap(),
            "nameserver 10.0.2.3\nnameserver fec0::3\nnameserver fe80::1%eth0\nnameserver 192.0.2.1\nsearch example.org\n"
        );
        assert_eq!(from_networkd("OPER_STATE=carrier\nDNS=\n"), None);
        assert_eq!(from_networkd(""), None);
    }
}
