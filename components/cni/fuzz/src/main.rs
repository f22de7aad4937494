//! Random network configurations, environments and results for the parsers of every plugin, and random servers for the
//! DHCP client.
//!
//! `cargo run --release --manifest-path components/cni/fuzz/Cargo.toml -- SECONDS [SEED]`. No coverage and no nightly
//! compiler: real configurations are mutated as JSON (keys that plugins know, values at the edges) and as bytes, which
//! gets past the JSON parser. A panic prints the input and ends the run with status 1. What is accepted must survive
//! being printed in every version of the specification and being read back.

mod leases;

use cairn_cni::{
    plugin::{self, Plugin},
    protocol::{
        error::CniError,
        request::{Environment, answer_version},
        result::CniResult,
        version::SpecVersion,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// One good configuration a plugin, and then some.
fn seeds() -> Vec<Value> {
    let result = json!({"cniVersion": "1.1.0",
        "interfaces": [{"name": "cni0", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "sandbox": "/run/netns/x", "mtu": 1400}],
        "ips": [{"interface": 1, "address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "priority": 5, "table": 7, "scope": 253}, {"dst": "::/0"}],
        "dns": {"nameservers": ["10.0.0.53"], "domain": "a", "search": ["a", "b"], "options": ["ndots:5"]}});
    let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::5/64"}, "dns": {}});
    let host_local = json!({"type": "host-local", "dataDir": "/d", "resolvConf": "/r",
        "ranges": [[{"subnet": "10.1.0.0/16", "rangeStart": "10.1.2.0", "rangeEnd": "10.1.3.0", "gateway": "10.1.0.9"}], [{"subnet": "fd00::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}]});
    let simple = json!({"type": "host-local", "subnet": "10.1.0.0/30", "rangeStart": "10.1.0.1", "rangeEnd": "10.1.0.2", "gateway": "10.1.0.1"});
    let fixed = json!({"type": "static", "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}], "routes": [{"dst": "::/0", "gw": "fd00::1"}], "dns": {}});
    let capabilities = json!({"mac": "02:00:00:00:00:07", "deviceID": "0000:03:00.0", "ips": ["10.1.0.7/24", "fd00::7"],
        "ipRanges": [[{"subnet": "10.9.0.0/24"}]], "bandwidth": {"ingressRate": 8000, "ingressBurst": 8000, "egressRate": 9, "egressBurst": 9},
        "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "::1"}]});
    let mut seeds = Vec::new();
    for (kind, own) in [
        (
            "bridge",
            json!({"bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "forceAddress": true, "ipMasq": true,
            "ipMasqBackend": "nftables", "mtu": 1400, "hairpinMode": true, "promiscMode": false, "vlan": 7, "vlanTrunk": [{"id": 5}, {"minID": 10, "maxID": 20}],
            "preserveDefaultVlan": true, "portIsolation": true, "macspoofchk": true, "enabledad": true, "disableContainerInterface": false, "ipam": host_local}),
        ),
        ("ptp", json!({"ipMasq": true, "mtu": 1300, "ipam": simple})),
        (
            "macvlan",
            json!({"master": "eth0", "mode": "vepa", "mtu": 1300, "mac": "02:00:00:00:00:09", "bcqueuelen": 5, "linkInContainer": true, "ipam": fixed}),
        ),
        ("ipvlan", json!({"master": "eth0", "mode": "l3s", "ipam": host_local})),
        ("vlan", json!({"master": "eth0", "vlanId": 5, "ipam": host_local})),
        (
            "host-device",
            json!({"device": "eth1", "hwaddr": "02:00:00:00:00:08", "kernelpath": "/sys/devices/x", "pciBusID": "0000:03:00.0"}),
        ),
        ("dummy", json!({"ipam": fixed})),
        (
            "tap",
            json!({"mtu": 1300, "mac": "02:00:00:00:00:09", "multiQueue": true, "owner": 5, "group": 6, "selinuxContext": "a:b", "bridge": "br"}),
        ),
        ("host-local", json!({"ipam": host_local})),
        ("static", json!({"ipam": fixed})),
        (
            "portmap",
            json!({"snat": true, "masqAll": true, "backend": "nftables", "markMasqBit": 5, "conditionsV4": ["!", "-s", "10.0.0.0/8"], "conditionsV6": ["ip6", "daddr", "fd00::/8"]}),
        ),
        ("bandwidth", json!({"ingressRate": 8000, "ingressBurst": 8000})),
        (
            "tuning",
            json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mac": "02:00:00:00:00:09", "mtu": 1300, "promisc": true, "allmulti": true, "txQLen": 5, "dataDir": "/d"}),
        ),
        (
            "firewall",
            json!({"backend": "nftables", "iptablesAdminChainName": "CNI-ADMIN", "ingressPolicy": "isolated"}),
        ),
        ("sbr", json!({"table": 7, "gateways": ["10.1.0.1", "fd00::1"], "addSourceHints": true})),
        ("vrf", json!({"vrfname": "blue", "table": 9})),
        (
            "dhcp",
            json!({"ipam": {"type": "dhcp", "daemonSocketPath": "/s", "families": ["ipv4", "ipv6"], "provide": [{"option": "host-name", "value": "x"}, {"option": "12", "fromArg": "K8S_POD_NAME"}], "request": [{"option": "routers"}, {"skipDefault": true}], "priority": 5}}),
        ),
        (
            "sriov",
            json!({"deviceID": "0000:03:02.1", "vlan": 5, "vlanQoS": 1, "vlanProto": "802.1q", "spoofchk": "on", "trust": "off", "min_tx_rate": 1, "max_tx_rate": 5, "link_state": "auto"}),
        ),
        ("loopback", json!({})),
    ] {
        for (version, previous) in [("1.1.0", &result), ("0.2.0", &old)] {
            let mut seed = json!({"cniVersion": version, "name": "pods", "type": kind, "prevResult": previous, "runtimeConfig": capabilities,
                "args": {"cni": {"mac": "02:00:00:00:00:0a", "ips": ["10.1.0.8"], "sysctl": {"net.core.somaxconn": "5"}}},
                "cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}]});
            for (key, value) in own.as_object().into_iter().flatten() {
                seed[key] = value.clone();
            }
            seeds.push(seed);
        }
    }
    seeds
}

fn edges() -> Vec<Value> {
    let mut edges: Vec<Value> = [
        "",
        " ",
        ".",
        "..",
        "/",
        "a/b",
        "eth0",
        "a-name-far-too-long-for-it",
        "0",
        "-1",
        "1e9",
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:1.2.3.4",
        "10.0.0.0/0",
        "10.0.0.0/32",
        "10.0.0.0/31",
        "10.0.0.0/33",
        "fd00::/0",
        "fd00::/127",
        "fd00::/128",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/1",
        "255.255.255.255/32",
        "1.2.3.4/+5",
        "02:00:00:00:00:01",
        "02-00-00-00-00-01",
        "ff:ff:ff:ff:ff:ff:ff:ff",
        "é",
        "\u{0}",
        "\u{1F600}",
        "on",
        "off",
        "auto",
        "host-local",
        "static",
        "dhcp",
        "tcp",
        "SCTP",
        "!",
        "-s",
        "ip saddr",
        "net.ipv4.x",
        "net/../x",
        "1.1.0",
        "0.1.0",
        "9.9.9",
    ]
    .into_iter()
    .map(Value::from)
    .collect();
    edges.extend(
        [
            0i64,
            1,
            -1,
            7,
            8,
            67,
            68,
            253,
            255,
            4094,
            4095,
            65_535,
            65_536,
            i64::from(i32::MAX),
            i64::from(u32::MAX),
            i64::MAX,
            i64::MIN,
        ]
        .map(Value::from),
    );
    edges.extend([
        json!(u64::MAX),
        json!(1.5),
        json!(1e300),
        json!(true),
        json!(false),
        Value::Null,
        json!([]),
        json!({}),
        json!([[]]),
        json!([{}]),
        json!([null]),
    ]);
    edges
}

/// Visits a node at random and changes it.
fn mutate(value: &mut Value, random: &mut Random, seeds: &[Value], edges: &[Value]) {
    let deeper = random.below(4) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = random.below(map.len());
            let key = map.keys().nth(at).cloned().unwrap_or_default();
            match random.below(12) {
                0 => drop(map.remove(&key)),
                1 => {
                    if let Some(other) = random.one(seeds).as_object()
                        && let Some((key, value)) = other.iter().nth(random.below(other.len()))
                    {
                        map.insert(key.clone(), value.clone());
                    }
                }
                _ => {
                    if let Some(member) = map.get_mut(&key) {
                        mutate(member, random, seeds, edges);
                    }
                }
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => mutate(&mut items[at], random, seeds, edges),
            }
        }
        Value::String(text) if random.below(2) == 0 => {
            let mut bytes = std::mem::take(text).into_bytes();
            scramble(&mut bytes, random);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        other => *other = random.one(edges).clone(),
    }
}

fn scramble(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 if at < bytes.len() => drop(bytes.remove(at)),
            1 => bytes.insert(at, *random.one(b"0123456789abcdef:./-,;\"{}[] \\\xff")),
            2 => bytes.truncate(at),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ => {
                let piece = bytes[at..].to_vec();
                bytes.extend(piece);
            }
        }
    }
}

fn environment(random: &mut Random) -> Environment {
    let mut environment = Environment {
        command: (*random.one(&["ADD", "DEL", "CHECK", "GC", "STATUS", "ADD"])).into(),
        container_id: "c1".into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: (*random
            .one(&["", "IgnoreUnknown=1;MAC=02:00:00:00:00:05;IP=10.1.0.6/24,fd00::6;GATEWAY=10.1.0.1"]))
        .into(),
        path: "/opt/cni/bin".into(),
        netns_override: false,
    };
    if random.below(4) == 0 {
        let field = match random.below(3) {
            0 => &mut environment.args,
            1 => &mut environment.ifname,
            _ => &mut environment.container_id,
        };
        let mut bytes = std::mem::take(field).into_bytes();
        scramble(&mut bytes, random);
        *field = String::from_utf8_lossy(&bytes).into_owned();
    }
    environment
}

/// Code of the error, or 0.
fn exercise(plugin: Plugin, environment: &Environment, text: &[u8]) -> u32 {
    let _ = answer_version(text);
    let _ = CniError::from_json(text);
    let outcome = plugin::read(plugin, environment, text.to_vec());
    let results = [
        serde_json::from_slice::<CniResult>(text).ok(),
        outcome.as_ref().ok().and_then(|r| r.previous_result().ok()?),
    ];
    for result in results.into_iter().flatten() {
        for version in SpecVersion::ALL {
            let printed = result.to_json(version);
            let again: CniResult = serde_json::from_str(&printed).expect("what is printed can be read");
            assert_eq!(again.to_json(version), printed, "and is the same");
        }
    }
    match outcome {
        Ok(request) => {
            let _ = request.valid_attachments();
            0
        }
        Err(error) => {
            assert!(!error.message.is_empty(), "an error says why");
            let document: Value =
                serde_json::from_str(&error.to_json(answer_version(text))).expect("errors are JSON");
            assert_eq!(document["code"], error.code.number());
            error.code.number()
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(60);
    let seed: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (seeds, edges) = (seeds(), edges());
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let start = Instant::now();
    let mut runs = 0u64;
    let mut outcomes: BTreeMap<u32, u64> = BTreeMap::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..1000 {
            let mut config = random.one(&seeds).clone();
            let kind = config["type"].as_str().unwrap_or_default().to_owned();
            for _ in 0..=random.below(6) {
                mutate(&mut config, &mut random, &seeds, &edges);
            }
            let mut text = config.to_string().into_bytes();
            if random.below(10) == 0 {
                scramble(&mut text, &mut random);
            }
            let plugin = Plugin::by_name(&kind).unwrap_or_else(|| *random.one(&Plugin::ALL));
            let environment = environment(&mut random);
            match catch_unwind(AssertUnwindSafe(|| exercise(plugin, &environment, &text))) {
                Ok(code) => *outcomes.entry(code).or_default() += 1,
                Err(_) => {
                    eprintln!("{plugin:?} {environment:?}\n{}", String::from_utf8_lossy(&text));
                    return ExitCode::FAILURE;
                }
            }
            if catch_unwind(AssertUnwindSafe(|| leases::live(&mut random))).is_err() {
                return ExitCode::FAILURE;
            }
            runs += 1;
        }
    }
    println!(
        "{runs} configurations and as many leases in {} s (seed {seed}); outcomes by error code, 0 accepted: {outcomes:?}",
        start.elapsed().as_secs()
    );
    ExitCode::SUCCESS
}
