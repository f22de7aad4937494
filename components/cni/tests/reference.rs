//! The same configurations through the reference plugins and ours: results, links, addresses and routes agree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{GO_PLUGINS, Host, Namespace};
use serde_json::{Value, json};
use std::path::Path;

/// Names and hardware addresses that are made up anew each time.
fn without_chance(mut result: Value, pod: &Namespace) -> Value {
    for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
        interface["mac"] = json!("");
        for prefix in ["veth", "bwp"] {
            if interface["name"].as_str().unwrap().starts_with(prefix) {
                interface["name"] = json!(prefix);
            }
        }
        if interface["sandbox"] == json!(pod.path()) {
            interface["sandbox"] = json!("pod");
        }
    }
    result
}

/// What the kernel shows of a namespace, as far as it is not chance.
fn state(namespace: &Namespace) -> Value {
    let pick = |value: &Value, keys: &[&str]| -> Value {
        keys.iter()
            .map(|key| (key.to_string(), value[*key].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let mut links = Vec::new();
    for link in namespace.ip_json("-d addr show").as_array().unwrap() {
        let name = link["ifname"].as_str().unwrap();
        let mut own: Vec<Value> = link["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|a| a["scope"] != "link")
            .map(|a| pick(a, &["family", "local", "prefixlen", "broadcast", "scope"]))
            .collect();
        own.sort_by_key(Value::to_string);
        let name = ["veth", "bwp"].into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or(name);
        links.push(json!({"name": name, "addresses": own,
            "mtu": link["mtu"], "mode": link["linkinfo"]["info_data"]["mode"], "vlan": link["linkinfo"]["info_data"]["id"], "up": link["flags"].as_array().unwrap().contains(&"UP".into()),
            "kind": link["linkinfo"]["info_kind"], "master": link["master"],
            "hairpin": link["linkinfo"]["info_slave_data"]["hairpin"], "promisc": link["promiscuity"]}));
    }
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        for route in namespace.ip_json(&format!("{family} route show")).as_array().unwrap() {
            if route["dst"] != "fe80::/64" {
                let mut route = route.clone();
                if route["dev"].as_str().is_some_and(|device| device.starts_with("veth")) {
                    route["dev"] = json!("veth");
                }
                routes.push(pick(&route, &["dst", "gateway", "dev", "scope", "metric"]));
            }
        }
    }
    routes.sort_by_key(Value::to_string);
    json!({"links": links, "routes": routes, "queues": queues(namespace), "policy": policy(namespace)})
}

/// Rules that lead to tables of routes, and what is in the tables that plugins choose.
fn policy(namespace: &Namespace) -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        lines.push(namespace.ip(&format!("{family} rule show")));
        for table in 100..=102 {
            let output =
                namespace.command("ip").args([family, "route", "show", "table", &table.to_string()]).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            let mut shown: Vec<&str> =
                text.lines().map(str::trim).filter(|l| !l.contains("fe80::/64")).collect();
            shown.sort();
            lines.push(format!("{family} {table}: {shown:?}"));
        }
    }
    lines
}

/// Token buckets and what feeds them, as far as there is a `tc` program to show them.
fn queues(namespace: &Namespace) -> Vec<Value> {
    let Ok(output) = namespace.command("tc").args(["-j", "qdisc", "show"]).output() else {
        return Vec::new();
    };
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let wanted = |q: &&Value| q["kind"] == "tbf" || q["kind"] == "ingress";
    let shown = |q: &Value| {
        json!([
            q["kind"],
            q["handle"],
            q["options"]["rate"],
            q["options"]["burst"],
            q["options"]["lat"],
            q["options"]["limit"]
        ])
    };
    let mut queues: Vec<Value> = all.iter().filter(wanted).map(shown).collect();
    queues.sort_by_key(Value::to_string);
    queues
}

fn both(chain: impl Fn(&Host) -> Vec<Value>, label: &str) {
    let outcomes = [Host::new(), Host::with_go_plugins()].map(|host| {
        let pod = Namespace::new("pod");
        let mut previous = Value::Null;
        let mut configs = Vec::new();
        for mut config in chain(&host) {
            if !previous.is_null() {
                config["prevResult"] = previous.clone();
            }
            previous = host.cni("ADD", &config, &pod.name, &pod.path()).unwrap_or_else(|e| panic!("{label}: {e}"));
            configs.push(config);
        }
        let made = json!({"result": without_chance(previous.clone(), &pod), "pod": state(&pod), "host": state(&host.netns)});
        // A plugin that moves routes away leaves those before it without what they would find.
        let moved = configs.iter().rposition(|config| config["type"] == "sbr").unwrap_or(0);
        for config in &configs[moved..] {
            // Ours only: CHECK of the reference plugins fails on some of what their own ADD makes.
            if host.is_ours() && config["cniVersion"].as_str().unwrap() >= "0.4" {
                assert_eq!(host.check(config, &pod, &previous), "", "{label}");
            }
        }
        for config in configs.iter().rev() {
            host.del(config, &pod);
        }
        (made, json!({"pod": state(&pod), "host": state(&host.netns), "left": host.reservations()}))
    });
    let [(ours, our_rest), (theirs, their_rest)] = outcomes;
    assert_eq!(difference(&ours, &theirs), "", "{label}, after ADD");
    assert_eq!(difference(&our_rest, &their_rest), "", "{label}, after DEL");
}

/// Lines of the documents that are not in both, or nothing if they are equal.
fn difference(ours: &Value, theirs: &Value) -> String {
    let show = |v: &Value| serde_json::to_string_pretty(v).unwrap();
    let (ours, theirs) = (show(ours), show(theirs));
    if ours == theirs {
        return String::new();
    }
    let only = |a: &str, b: &str, whose: &str| -> String {
        let other: Vec<&str> = b.lines().collect();
        a.lines()
            .filter(|line| !other.contains(line))
            .map(|line| format!("{whose}: {}\n", line.trim()))
            .collect()
    };
    let lines = only(&ours, &theirs, "ours") + &only(&theirs, &ours, "theirs");
    if lines.is_empty() { format!("{ours}\n{theirs}") } else { lines }
}

#[test]
fn results_and_kernel_state_agree() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("bridge").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        both(|host| vec![host.network(json!({"cniVersion": version}))], version);
    }
    let settings = [
        json!({"mtu": 1300, "hairpinMode": false}),
        json!({"isDefaultGateway": false, "isGateway": true}),
        json!({"isDefaultGateway": false}),
        json!({"hairpinMode": false, "promiscMode": true}),
        json!({"bridge": "br-other", "ipam": {"routes": [{"dst": "192.0.2.0/24"}, {"dst": "2001:db8::/32"}]}}),
        json!({"ipam": {"ranges": [[{"subnet": "10.9.0.0/16", "rangeStart": "10.9.3.1", "gateway": "10.9.255.254"}]]}}),
        json!({"dns": {"nameservers": ["192.0.2.53"], "search": ["a"]}}),
    ];
    for settings in settings {
        both(|host| vec![host.network(settings.clone())], &settings.to_string());
    }
    both(|_| vec![json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"})], "loopback");
}

/// A link of that kind can be made on this kernel.
fn has_kind(kind: &str) -> bool {
    let probe = Namespace::new("probe");
    probe.ip("link add parent0 type veth peer name parent1");
    let made = match kind {
        "macvlan" | "ipvlan" => probe.ip_succeeds(&format!("link add link parent0 name probe0 type {kind}")),
        "vlan" => probe.ip_succeeds("link add link parent0 name probe0 type vlan id 5"),
        _ => probe.ip_succeeds(&format!("link add name probe0 type {kind}")),
    };
    if !made {
        println!("skipped in part: this kernel has no {kind}");
    }
    made
}

/// A network whose pods have an interface on the host's `uplink`.
fn on_uplink(host: &Host, kind: &str, settings: &Value) -> Value {
    host.netns.ip("link add uplink type veth peer name wire");
    host.netns.ip("link set uplink up");
    host.netns.ip("link set wire up");
    let mut network = host.network(json!({"type": kind, "master": "uplink"}));
    for key in ["bridge", "isDefaultGateway", "hairpinMode"] {
        network.as_object_mut().unwrap().remove(key);
    }
    lab::merge(&mut network, settings.clone());
    network
}

#[test]
fn interfaces_without_a_bridge_agree() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("ptp").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    let default = json!({"ipam": {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}});
    for settings in [json!({}), json!({"mtu": 1300}), default.clone()] {
        both(
            |host| {
                let mut network = host.network(json!({"type": "ptp"}));
                lab::merge(&mut network, settings.clone());
                vec![network]
            },
            &format!("ptp {settings}"),
        );
    }
    for (kind, settings) in [
        ("macvlan", json!({})),
        ("macvlan", json!({"mode": "private", "mtu": 1300})),
        ("macvlan", default.clone()),
        (
            "macvlan",
            json!({"mode": "vepa", "ipam": {"type": "static", "addresses": [{"address": "10.4.0.9/24", "gateway": "10.4.0.1"}], "dns": {"nameservers": ["192.0.2.53"]}}}),
        ),
        ("ipvlan", json!({})),
        ("ipvlan", json!({"mode": "l3", "mtu": 1300})),
        ("vlan", json!({"vlanId": 100})),
        ("vlan", json!({"vlanId": 5, "mtu": 1300, "cniVersion": "0.3.1"})),
        ("host-device", json!({"device": "uplink"})),
    ] {
        if kind != "host-device" && !has_kind(kind) {
            continue;
        }
        both(|host| vec![on_uplink(host, kind, &settings)], &format!("{kind} {settings}"));
    }
}

#[test]
fn tuning_agrees() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("tuning").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    both(
        |host| {
            let tuning = json!({
                "cniVersion": "1.0.0", "name": "pods", "type": "tuning", "mac": "02:00:00:00:00:77", "mtu": 1280,
                "promisc": true, "dataDir": host.directory.path().join("tuning"),
                "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}
            });
            vec![host.network(json!({})), tuning]
        },
        "tuning",
    );
}

#[test]
fn source_based_routing_agrees() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("sbr").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    for settings in [
        json!({}),
        json!({"isDefaultGateway": false, "isGateway": true}),
        json!({"ipam": {"routes": [{"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.77.0.7"}]}}),
    ] {
        both(
            |host| {
                vec![
                    host.network(settings.clone()),
                    json!({"cniVersion": "1.0.0", "name": "pods", "type": "sbr"}),
                ]
            },
            &format!("sbr {settings}"),
        );
    }
}

#[test]
fn errors_of_the_protocol_agree() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("bridge").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    let hosts = [Host::new(), Host::with_go_plugins()];
    let pod = Namespace::new("pod");
    for (command, id, change) in [
        ("PUT", "c", json!({})),
        ("ADD", "", json!({})),
        ("ADD", "../c", json!({})),
        ("ADD", "c", json!({"name": ""})),
        ("ADD", "c", json!({"name": "a b"})),
        ("ADD", "c", json!({"cniVersion": "9.9.9"})),
        ("CHECK", "c", json!({"cniVersion": "0.3.1"})),
    ] {
        let codes = hosts.each_ref().map(|host| {
            host.cni(command, &host.network(change.clone()), id, &pod.path()).unwrap_err()["code"].clone()
        });
        assert_eq!(codes[0], codes[1], "{command} {id:?} {change}");
    }
}

#[test]
fn either_takes_over_from_the_other() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("host-local").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    let (ours, theirs) = (Host::new(), Host::with_go_plugins());
    let mut config = ours.network(json!({}));
    config["type"] = json!("host-local");
    let nowhere = Path::new("/proc/self/ns/net");
    let add = |host: &Host, id| lab::addresses(&host.cni("ADD", &config, id, nowhere).unwrap());
    assert_eq!(add(&ours, "a"), ["10.77.0.2", "fd77::2"]);
    assert_eq!(add(&theirs, "b"), ["10.77.0.3", "fd77::3"]);
    assert_eq!(add(&ours, "c"), ["10.77.0.4", "fd77::4"]);
    theirs.cni("DEL", &config, "a", nowhere).unwrap();
    ours.cni("DEL", &config, "b", nowhere).unwrap();
    theirs.cni("CHECK", &config, "c", nowhere).unwrap();
    assert_eq!(ours.reservations(), ["10.77.0.4", "fd77::4"]);
}

#[test]
fn bandwidth_agrees() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("bandwidth").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    if !has_kind("ifb") {
        return;
    }
    let (received, sent) = (
        json!({"ingressRate": 100_000_000, "ingressBurst": 8_000_000}),
        json!({"egressRate": 1_000_000, "egressBurst": 800_000}),
    );
    let mut each = received.clone();
    lab::merge(&mut each, sent.clone());
    for limits in [received, sent, each] {
        both(
            |host| {
                let runtime = json!({"bandwidth": limits});
                let limit = json!({"cniVersion": "1.0.0", "name": "pods", "type": "bandwidth", "runtimeConfig": runtime});
                vec![host.network(json!({})), limit]
            },
            &limits.to_string(),
        );
    }
}
