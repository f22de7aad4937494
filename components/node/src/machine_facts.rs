//! What the kernel knows about this machine: interfaces, memory, identity. Read from /sys and /proc.

use sha2::{Digest, Sha256};
use std::path::Path;
use std::{fs, net::IpAddr};

/// A physical or virtual network interface with its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Kernel name.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// Addresses with prefix length, `192.0.2.7/24`; loopback and link-local ones left out.
    pub addresses: Vec<String>,
}

/// Physical Ethernet interfaces, by name: those with a device behind them.
pub fn interfaces() -> Vec<Interface> {
    let mut found: Vec<_> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let mac = first_line(&entry.path().join("address"));
            Some(Interface { addresses: addresses(&name), name, mac })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Host name of a machine whose config gives none: the end of the first MAC address tells nodes apart.
pub fn default_name(interfaces: &[Interface]) -> String {
    let digits: String =
        interfaces.first().map(|interface| interface.mac.replace(':', "")).unwrap_or_default();
    match digits.len() {
        12 => format!("cairn-{}", &digits[6..].to_lowercase()),
        _ => "cairn".to_owned(),
    }
}

/// iSCSI initiator name of a machine whose config gives none: the same at every boot, another on every node. A
/// machine id is nothing to show on the network (machine-id(5)), so it is hashed.
pub fn default_initiator(machine_id: &str) -> String {
    let digest = Sha256::digest(format!("cairn iscsi initiator {machine_id}"));
    format!("iqn.2016-04.com.open-iscsi:{}", hex::encode(&digest[..6]))
}

/// Total and available memory in bytes.
pub fn memory() -> (u64, u64) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = |key: &str| -> u64 {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    (kibibytes("MemTotal") * 1024, kibibytes("MemAvailable") * 1024)
}

/// The root hash on the kernel command line; empty if the root is not verified.
pub fn root_hash() -> String {
    let text = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix("roothash="))
        .next_back()
        .unwrap_or_default()
        .to_owned()
}

/// First line of a file; empty if it cannot be read.
pub fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Microseconds since the kernel started (CLOCK_BOOTTIME).
pub fn boot_usec() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

fn addresses(name: &str) -> Vec<String> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut found = v4_addresses(&v4, &v4_networks(&routes, name));
    found.extend(v6_addresses(&v6, name));
    found
}

/// Connected IPv4 networks of an interface from /proc/net/route: (network, prefix length).
fn v4_networks(routes: &str, name: &str) -> Vec<(u32, u32)> {
    let hex = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    let connected = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (&interface, &destination, &gateway, &mask) =
            (fields.first()?, fields.get(1)?, fields.get(2)?, fields.get(7)?);
        (interface == name && gateway == "00000000" && mask != "00000000")
            .then(|| Some((hex(destination)?, hex(mask)?.count_ones())))?
    };
    routes.lines().skip(1).filter_map(connected).collect()
}

/// Local IPv4 addresses (`/32 host LOCAL` in /proc/net/fib_trie) inside the given networks.
fn v4_addresses(trie: &str, networks: &[(u32, u32)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut last = "";
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        } else if line == "/32 host LOCAL"
            && let Ok(IpAddr::V4(ip)) = last.parse()
        {
            let bits = ip.to_bits();
            let inside = |&&(network, length): &&(u32, u32)| {
                (bits ^ network).checked_shr(32 - length).unwrap_or(0) == 0
            };
            if let Some((_, length)) = networks.iter().filter(inside).max_by_key(|network| network.1) {
                let text = format!("{ip}/{length}");
                if !found.contains(&text) {
                    found.push(text);
                }
            }
        }
    }
    found
}

/// Global IPv6 addresses of an interface from /proc/net/if_inet6.
fn v6_addresses(table: &str, name: &str) -> Vec<String> {
    let global = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [address, _, length, scope, _, interface] = fields.as_slice() else { return None };
        let ip =
            std::net::Ipv6Addr::from(u128::from_str_radix(address, 16).ok().filter(|_| address.len() == 32)?);
        let length = u8::from_str_radix(length, 16).ok()?;
        // Of host and link scope are the addresses that lead nowhere else (RFC 4007; the kernel prints its own bits).
        (*interface == name && !matches!(*scope, "10" | "20")).then(|| format!("{ip}/{length}"))
    };
    table.lines().filter_map(global).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_mac() {
        let one = Interface { mac: "52:54:00:AB:cd:ef".into(), ..Interface::default() };
        assert_eq!(default_name(&[one]), "cairn-abcdef");
        assert_eq!(default_name(&[]), "cairn");
    }

    #[test]
    fn addresses_are_read_from_the_kernels_tables() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            ens3\t00000000\t0202000A\t0003\t0\t0\t1024\t00000000\t0\t0\t0\nens3\t0002000A\t00000000\t0001\t0\t0\t1024\t00FFFFFF\t0\t0\t0\n";
        let networks = v4_networks(routes, "ens3");
        assert_eq!(networks, [(0x0a00_0200, 24)]);
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n           |-- 10.0.2.0\n              /24 link UNICAST\n           |-- 10.0.2.15\n              /32 host LOCAL\n        |-- 127.0.0.1\n           /32 host LOCAL\n";
        assert_eq!(v4_addresses(trie, &networks), ["10.0.2.15/24"]);
        let table = "fec00000000000005054 02 40 40 00 ens3\nfe800000000000005054000000000001 02 40 20 80 ens3\nfec00000000000005054000000000001 02 40 00 00 ens3\n";
        assert_eq!(v6_addresses(table, "ens3"), ["fec0::5054:0:0:1/64"]);
    }
}
