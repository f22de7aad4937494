//! Configurations that make no sense: ADD refuses them, saying what is wrong, and leaves nothing; DEL has nothing against
//! them, for a runtime that cannot take a pod apart keeps it for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{Host, Namespace, merge};
use serde_json::{Value, json};
use std::{io::Write, process::Stdio};

/// The specification's codes.
const UNSUPPORTED_FIELD: u64 = 2;
const INVALID_CONFIG: u64 = 7;

/// Plugin, what is wrong with its configuration, the code of the error and a part of its message.
fn mistakes() -> Vec<(&'static str, Value, u64, &'static str)> {
    let ranges = |ranges: Value| json!({"ipam": {"ranges": ranges}});
    let mapping = |mapping: Value| json!({"runtimeConfig": {"portMappings": [mapping]}});
    vec![
        ("bridge", json!({"mtu": 3}), INVALID_CONFIG, "invalid mtu 3"),
        ("bridge", json!({"mtu": "1500"}), INVALID_CONFIG, "invalid type: string"),
        ("bridge", json!({"promiscMode": true}), INVALID_CONFIG, "hairpin mode and promiscuous mode"),
        ("bridge", json!({"vlan": 5000}), INVALID_CONFIG, "invalid VLAN ID 5000"),
        ("bridge", json!({"vlanTrunk": [{"minID": 5}]}), INVALID_CONFIG, "one is missing"),
        ("bridge", json!({"bridge": "x/y"}), INVALID_CONFIG, "not an interface name"),
        ("bridge", json!({"ipMasq": true, "ipMasqBackend": "x"}), INVALID_CONFIG, "ipmasq backend"),
        ("bridge", json!({"macspoofchk": true, "args": {"cni": {"mac": "x"}}}), INVALID_CONFIG, "`x`"),
        ("bridge", json!({"disableContainerInterface": true}), INVALID_CONFIG, "cannot use IPAM"),
        ("bridge", json!({"dns": "192.0.2.1"}), INVALID_CONFIG, "invalid type"),
        ("bridge", ranges(json!([])), INVALID_CONFIG, "no IP ranges"),
        ("bridge", ranges(json!([[{"subnet": "10.1.0.1/24"}]])), INVALID_CONFIG, "host bits"),
        ("bridge", json!({"runtimeConfig": {"ips": ["x"]}}), INVALID_CONFIG, "cannot understand ip"),
        (
            "bridge",
            json!({"ipam": {"type": "static", "addresses": [{"address": "x"}]}}),
            INVALID_CONFIG,
            "CIDR",
        ),
        ("ptp", json!({"mtu": -1}), INVALID_CONFIG, "invalid mtu"),
        ("macvlan", json!({"mode": "x"}), INVALID_CONFIG, "unknown macvlan mode"),
        ("macvlan", json!({"mac": "x"}), INVALID_CONFIG, "`x`"),
        ("ipvlan", json!({"mode": "x"}), INVALID_CONFIG, "unknown ipvlan mode"),
        ("vlan", json!({"master": "lo", "vlanId": 5000}), INVALID_CONFIG, "invalid VLAN ID"),
        ("tap", json!({"mtu": 3}), INVALID_CONFIG, "invalid mtu"),
        ("host-device", json!({}), INVALID_CONFIG, "specify either"),
        ("sriov", json!({"deviceID": ""}), INVALID_CONFIG, "deviceID"),
        ("tuning", json!({"mac": "x"}), INVALID_CONFIG, "`x`"),
        ("tuning", json!({"mtu": -1}), INVALID_CONFIG, "out of range"),
        ("tuning", json!({"sysctl": {"kernel.panic": "1"}}), INVALID_CONFIG, "invalid net sysctl"),
        ("firewall", json!({"ingressPolicy": "x"}), INVALID_CONFIG, "unknown ingress policy"),
        ("firewall", json!({"backend": "firewalld"}), UNSUPPORTED_FIELD, "firewalld"),
        ("sbr", json!({"table": -1}), INVALID_CONFIG, "not the number of a routing table"),
        ("sbr", json!({"gateways": "x"}), INVALID_CONFIG, "invalid type"),
        ("vrf", json!({}), INVALID_CONFIG, "vrfname"),
        ("vrf", json!({"vrfname": "a/b"}), INVALID_CONFIG, "not an interface name"),
        (
            "portmap",
            mapping(json!({"hostPort": 0, "containerPort": 80})),
            INVALID_CONFIG,
            "Invalid host port",
        ),
        ("portmap", json!({"conditionsV4": ["-p", "tcp"]}), UNSUPPORTED_FIELD, "conditionsV4"),
        ("bandwidth", json!({"ingressRate": 1000}), INVALID_CONFIG, "burst must also be set"),
    ]
}

#[test]
fn add_refuses_what_makes_no_sense_and_del_does_not_mind() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    // The bridge is the network's, and stays.
    let links = |namespace: &Namespace| {
        let all = namespace.ip_json("link show");
        all.as_array().unwrap().iter().filter(|link| link["ifname"] != "cni0").count()
    };
    for (plugin, wrong, code, part) in mistakes() {
        let mut network = host.network(json!({"type": plugin,
            "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}],
                "ips": [{"interface": 0, "address": "10.77.0.2/24"}]}}));
        merge(&mut network, wrong.clone());
        let error = host.cni("ADD", &network, "c1", &pod.path()).unwrap_err();
        let message = error["msg"].as_str().unwrap();
        assert!(error["code"] == code && message.contains(part), "{plugin} {wrong}: {error}");
        for netns in [pod.path(), "/run/netns/cairn-gone".into(), "".into()] {
            let removed = host.cni("DEL", &network, "c1", &netns);
            assert!(removed.is_ok(), "{plugin} {wrong}, DEL in {netns:?}: {removed:?}");
        }
        assert_eq!([links(&host.netns), links(&pod)], [1, 1], "{plugin} {wrong}: more than lo");
        assert!(host.reservations().is_empty(), "{plugin} {wrong}");
    }
}

#[test]
fn keys_that_nobody_knows_are_passed_over() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let unknown = json!({"of": {"a": ["later", 1, null]}});
    let network = host
        .network(json!({"later": unknown, "ipam": {"later": unknown}, "runtimeConfig": unknown,
        "args": {"cni": unknown}}));
    let result = host.add(&network, &pod);
    assert_eq!(host.check(&network, &pod, &result), "");
    host.del(&network, &pod);
    assert!(host.reservations().is_empty());
}

#[test]
fn nobodys_pod_is_in_our_own_namespace() {
    need_lab!();
    let host = Host::new();
    let own = host.netns.path();
    for plugin in ["loopback", "bridge", "ptp", "dummy", "tuning", "host-local"] {
        let network = host.network(json!({"type": plugin, "mtu": 1400}));
        let error = host.cni("ADD", &network, "c1", &own).unwrap_err();
        assert_eq!(error["code"], 8, "{plugin}: {error}");
        assert!(host.reservations().is_empty(), "{plugin}");
        // As after the end of a process whose number another has: what is here is not the pod's.
        host.cni("DEL", &network, "c1", &own).unwrap();
        assert!(host.netns.ip("link show lo").contains("LOOPBACK,UP"), "{plugin}");
    }
    // Unless the runtime knows better.
    let config = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
    let mut told = host.netns.command(host.directory.path().join("bin/loopback"));
    told.envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "lo"), ("CNI_PATH", "/n")]);
    told.env("CNI_NETNS", &own).env("CNI_NETNS_OVERRIDE", "true").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut told = told.spawn().unwrap();
    told.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    assert!(told.wait().unwrap().success());
}
