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
        if interface["name"].as_str().unwrap().starts_with("veth") {
            interface["name"] = json!("veth");
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
        links.push(json!({"name": if name.starts_with("veth") { "veth" } else { name }, "addresses": own,
            "mtu": link["mtu"], "up": link["flags"].as_array().unwrap().contains(&"UP".into()),
            "kind": link["linkinfo"]["info_kind"], "master": link["master"],
            "hairpin": link["linkinfo"]["info_slave_data"]["hairpin"], "promisc": link["promiscuity"]}));
    }
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        for route in namespace.ip_json(&format!("{family} route show")).as_array().unwrap() {
            if route["dst"] != "fe80::/64" {
                routes.push(pick(route, &["dst", "gateway", "dev", "scope", "metric"]));
            }
        }
    }
    routes.sort_by_key(Value::to_string);
    json!({"links": links, "routes": routes})
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
        for config in configs.iter().rev() {
            // Ours only: CHECK of the reference plugins fails on some of what their own ADD makes.
            if host.is_ours() && !config["cniVersion"].as_str().unwrap().starts_with("0.3") {
                assert_eq!(host.check(config, &pod, &previous), "", "{label}");
            }
            host.del(config, &pod);
        }
        (made, json!({"pod": state(&pod), "host": state(&host.netns), "left": host.reservations()}))
    });
    let [(ours, our_rest), (theirs, their_rest)] = outcomes;
    let show = |v: &Value| serde_json::to_string_pretty(v).unwrap();
    assert_eq!(show(&ours), show(&theirs), "{label}, after ADD");
    assert_eq!(show(&our_rest), show(&their_rest), "{label}, after DEL");
}

#[test]
fn results_and_kernel_state_agree() {
    need_lab!();
    if !Path::new(GO_PLUGINS).join("bridge").exists() {
        println!("skipped: no reference plugins in {GO_PLUGINS} (package containernetworking-plugins)");
        return;
    }
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
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
