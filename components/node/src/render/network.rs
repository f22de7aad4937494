//! systemd-networkd's files (`systemd.network(5)`) and the first resolv.conf.

use super::Rendered;
use super::system::one_line;
use cairn_contract::machine::{Interface, Network};
use std::fmt::Write;

pub(super) fn files(network: &Network) -> Vec<Rendered> {
    let directory = "/run/systemd/network";
    let mut files: Vec<_> = network
        .interfaces
        .iter()
        .enumerate()
        .map(|(index, interface)| {
            Rendered::public(
                format!("{directory}/10-cairn-{index}.network"),
                one_interface(interface, network),
            )
        })
        .collect();
    if !network.dns.is_empty() || !network.search.is_empty() {
        // Interfaces without a table keep the image's DHCP; only the names are added.
        let path = format!("{directory}/80-cairn.network.d/50-machine.conf");
        files.push(Rendered::public(path, format!("[Network]\n{}", names(network))));
        let servers = network.dns.iter().map(ToString::to_string).collect::<Vec<_>>();
        let search = network.search.iter().map(|domain| one_line(domain)).collect::<Vec<_>>();
        files.push(Rendered::public("/etc/resolv.conf", crate::resolver::resolv_conf(&servers, &search)));
    }
    files
}

fn one_interface(interface: &Interface, network: &Network) -> String {
    let mut text = String::from("[Match]\n");
    if let Some(mac) = &interface.mac {
        // Some virtual interfaces share the MAC address of their parent.
        let _ = write!(text, "MACAddress={}\nKind=!*\n\n", one_line(mac));
    }
    if let Some(name) = &interface.name {
        let _ = write!(text, "Name={}\n\n", one_line(name));
    }
    if let Some(mtu) = interface.mtu {
        let _ = write!(text, "[Link]\nMTUBytes={mtu}\n\n");
    }
    let dhcp = if interface.dhcp { "yes" } else { "no" };
    let _ = write!(text, "[Network]\nDHCP={dhcp}\n{}", addressing(interface.dhcp));
    for address in &interface.addresses {
        let _ = writeln!(text, "Address={address}");
    }
    for gateway in &interface.gateways {
        let _ = writeln!(text, "Gateway={gateway}");
    }
    text + &names(network)
}

fn addressing(router_advertisements: bool) -> String {
    let accept = if router_advertisements { "yes" } else { "no" };
    format!("IPv6AcceptRA={accept}\nLinkLocalAddressing=ipv6\n")
}

fn names(network: &Network) -> String {
    let mut text = String::new();
    for server in &network.dns {
        let _ = writeln!(text, "DNS={server}");
    }
    if !network.search.is_empty() {
        let domains: Vec<_> = network.search.iter().map(|domain| one_line(domain)).collect();
        let _ = writeln!(text, "Domains={}", domains.join(" "));
    }
    text
}
