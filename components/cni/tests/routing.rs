//! `sbr`, `vrf`, and what GC finds of `bandwidth` and `tuning`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{Host, Namespace};
use serde_json::{Value, json};

fn chained(kind: &str, settings: Value, result: &Value) -> Value {
    let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": kind, "prevResult": result});
    lab::merge(&mut config, settings);
    config
}

#[test]
fn each_source_has_its_own_way() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let result = host.add(&host.network(json!({})), &pod);
    let sbr = chained("sbr", json!({}), &result);
    assert_eq!(host.add(&sbr, &pod)["ips"], result["ips"]);
    assert_eq!(host.check(&sbr, &pod, &result), "");
    // Nothing is left where other interfaces' packets look, and what has the address goes its way.
    assert_eq!(pod.ip("-4 route show table main").trim(), "");
    let way = pod.ip("route get 192.0.2.1 from 10.77.0.2");
    assert!(way.contains("via 10.77.0.1") && way.contains("table 100"), "{way}");
    let way = pod.ip("route get 2001:db8::1 from fd77::2");
    assert!(way.contains("via fd77::1") && way.contains("table 101"), "{way}");
    pod.ip("route del default table 100");
    assert!(host.check(&sbr, &pod, &result).contains("no default route"));
    host.del(&sbr, &pod);
    host.del(&sbr, &pod);
    assert!(!pod.ip("rule show").contains("10.77.0.2") && !pod.ip("-6 rule show").contains("fd77::2"));
    assert!(host.check(&sbr, &pod, &result).contains("no rule"));
    let gone = host.cni("DEL", &sbr, "c", "/run/netns/none".as_ref());
    assert!(gone.is_ok(), "{gone:?}");
}

#[test]
fn a_gateway_of_the_configuration_and_a_table_that_is_given() {
    need_lab!();
    let host = Host::new();
    let (pod, other) = (Namespace::new("pod"), Namespace::new("other"));
    let network = host.network(json!({}));
    let result = host.add(&network, &pod);
    let sbr = chained("sbr", json!({"gateways": ["10.77.0.254"], "addSourceHints": true}), &result);
    host.add(&sbr, &pod);
    assert!(pod.ip("route show table 100").contains("default via 10.77.0.254"));
    assert!(
        pod.ip("-4 route show").contains("10.77.0.0/24 dev eth0")
            && !pod.ip("-4 route show").contains("default")
    );
    assert_eq!(host.check(&sbr, &pod, &result), "");
    let result = host.add(&network, &other);
    let before = other.ip("-4 route show");
    let sbr = chained("sbr", json!({"table": 500}), &result);
    host.add(&sbr, &other);
    assert_eq!(other.ip("-4 route show"), before, "only rules are made");
    assert!(other.ip("rule show").contains("from 10.77.0.3 lookup 500"));
    host.del(&sbr, &other);
    assert!(!other.ip("rule show").contains("500"));
}

#[test]
fn an_interface_joins_a_domain_with_its_addresses_and_routes() {
    need_lab!();
    let probe = Namespace::new("probe");
    if !probe.ip_succeeds("link add vrf0 type vrf table 10") {
        println!("skipped: this kernel has no vrf");
        return;
    }
    let host = Host::new();
    let pod = Namespace::new("pod");
    let result = host.add(&host.network(json!({})), &pod);
    let vrf = chained("vrf", json!({"vrfname": "blue"}), &result);
    host.add(&vrf, &pod);
    assert_eq!(host.check(&vrf, &pod, &result), "");
    let table = pod.ip("route show vrf blue");
    assert!(table.contains("default via 10.77.0.1"), "{table}");
    assert!(pod.ip("-6 addr show dev eth0").contains("fd77::2"));
    assert!(host.cni("ADD", &vrf, "again", &pod.path()).is_err());
    host.del(&vrf, &pod);
    host.del(&vrf, &pod);
    assert!(!pod.ip_succeeds("link show blue"));
}

#[test]
fn limits_of_a_pod_are_compared_whole_and_not_taken_away_by_another_add() {
    need_lab!();
    if !Namespace::new("probe").ip_succeeds("link add i0 type ifb") {
        println!("skipped: this kernel has no ifb");
        return;
    }
    let host = Host::new();
    let pod = Namespace::new("pod");
    let result = host.add(&host.network(json!({})), &pod);
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 800_000});
    let bandwidth = chained("bandwidth", limits, &result);
    host.add(&bandwidth, &pod);
    assert_eq!(host.check(&bandwidth, &pod, &result), "");
    let sent = chained("bandwidth", json!({"egressRate": 4_000_000, "egressBurst": 800_000}), &result);
    let error = host.cni("ADD", &sent, &pod.name, &pod.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("adding link"), "{error}");
    assert_eq!(
        host.netns.ip("link show type ifb").matches("bwp").count(),
        1,
        "what it did not make it leaves"
    );
    assert_eq!(host.check(&bandwidth, &pod, &result), "");
    // Rate and limit as before, and another burst.
    let veth = result["interfaces"][1]["name"].as_str().unwrap();
    let mut tc = host.netns.about("tc");
    tc.args([
        "qdisc", "replace", "dev", veth, "root", "handle", "1:", "tbf", "rate", "8mbit", "burst", "50000",
        "limit", "125000",
    ]);
    if !tc.status().is_ok_and(|status| status.success()) {
        println!("skipped in part: no `tc` program");
        return;
    }
    let message = host.check(&bandwidth, &pod, &result);
    assert!(message.contains("limit 125000 and a burst of 50000, not"), "{message}");
}

#[test]
fn what_cannot_be_put_back_does_not_keep_the_pod() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let result = host.add(&host.network(json!({})), &pod);
    let records = host.directory.path().join("tuning");
    let tuning = chained("tuning", json!({"mtu": 1400, "dataDir": records}), &result);
    host.add(&tuning, &pod);
    let record = records.join(format!("{}_eth0.json", pod.name));
    std::fs::write(&record, r#"{"network": "pods", "mtu": 1}"#).unwrap();
    host.del(&tuning, &pod);
    assert!(!record.exists());
    assert!(pod.ip("link show eth0").contains("mtu 1400"));
}

#[test]
fn garbage_collection_finds_queues_and_records() {
    need_lab!();
    let host = Host::new();
    let pods = ["a", "b"].map(Namespace::new);
    let has_ifb = Namespace::new("probe").ip_succeeds("link add i0 type ifb");
    let records = host.directory.path().join("tuning");
    let mut configs = Vec::new();
    for pod in &pods {
        let result = host.add(&host.network(json!({})), pod);
        let tuning = chained("tuning", json!({"mtu": 1300, "dataDir": records}), &result);
        host.add(&tuning, pod);
        configs.push(tuning);
        if has_ifb {
            let limits = json!({"egressRate": 1_000_000, "egressBurst": 800_000});
            let bandwidth = chained("bandwidth", limits, &result);
            host.add(&bandwidth, pod);
            configs.push(bandwidth);
        }
    }
    if !has_ifb {
        println!("skipped in part: this kernel has no ifb");
    }
    std::fs::write(records.join("other_eth0.json"), r#"{"network": "elsewhere", "mtu": 1500}"#).unwrap();
    std::fs::write(records.join("old_eth0.json"), r#"{"mtu": 1500}"#).unwrap();
    let left = || {
        let mut names: Vec<String> = std::fs::read_dir(&records)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let links = || host.netns.ip("link show type ifb").matches("bwp").count();
    for (valid, files, queues) in [(1, 3, 1), (0, 2, 0)] {
        let valid: Vec<Value> =
            pods[..valid].iter().map(|pod| json!({"containerID": pod.name, "ifname": "eth0"})).collect();
        for config in &configs {
            let mut gc = config.clone();
            gc["cni.dev/valid-attachments"] = json!(valid);
            host.cni("GC", &gc, "", "".as_ref()).unwrap();
        }
        assert_eq!(left().len(), files, "{:?}", left());
        assert!(!has_ifb || links() == queues, "{} links", links());
    }
    assert_eq!(left(), ["old_eth0.json", "other_eth0.json"]);
}

#[test]
fn mistakes_have_the_codes_of_the_specification_and_leave_nothing() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let nowhere = std::path::Path::new("/run/netns/cairn-there-is-none");
    let fine = json!({});
    for (kind, settings, netns, code, part) in [
        ("bridge", json!({"unheardOf": {"of": 1}, "cniVersion": "9.0.0"}), pod.path(), 1, "incompatible"),
        ("bridge", fine.clone(), nowhere.to_owned(), 8, "failed to open netns"),
        ("ptp", fine.clone(), nowhere.to_owned(), 8, "failed to open netns"),
        ("bridge", json!({"name": "a b"}), pod.path(), 7, "network name"),
        ("bridge", json!({"ipam": {"type": "../evil"}}), pod.path(), 7, "invalid plugin type"),
        ("bridge", json!({"ipam": {"type": "unheard-of"}}), pod.path(), 999, "failed to find plugin"),
        (
            "bridge",
            json!({"ipam": {"ranges": [[{"subnet": "10.77.0.0/30", "rangeStart": "10.77.0.9"}]]}}),
            pod.path(),
            7,
            "10.77.0.9",
        ),
        (
            "bridge",
            json!({"ipam": {"ranges": [[{"subnet": "10.77.0.0/33"}]]}}),
            pod.path(),
            7,
            "10.77.0.0/33",
        ),
        ("firewall", json!({"backend": "firewalld", "prevResult": {}}), pod.path(), 2, "firewalld"),
        ("firewall", json!({"backend": "pf", "prevResult": {}}), pod.path(), 7, "pf"),
        (
            "firewall",
            json!({"ingressPolicy": "closed", "prevResult": {}}),
            pod.path(),
            7,
            "unknown ingress policy",
        ),
        ("firewall", json!({"ingressPolicy": "isolated", "prevResult": {}}), pod.path(), 7, "bridge"),
        ("firewall", fine.clone(), pod.path(), 7, "prevResult"),
        ("sbr", json!({"prevResult": {}}), pod.path(), 7, "No IP addresses"),
        ("sbr", fine.clone(), pod.path(), 7, "chained"),
        ("vrf", fine.clone(), pod.path(), 7, "vrfname"),
        ("vrf", json!({"vrfname": "blue"}), pod.path(), 7, "prevResult"),
        ("vrf", json!({"vrfname": "blue", "prevResult": {}}), pod.path(), 999, "eth0"),
        (
            "portmap",
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 70_000, "containerPort": 80, "protocol": "tcp"}]}, "prevResult": {}}),
            pod.path(),
            7,
            "70000",
        ),
        (
            "portmap",
            json!({"runtimeConfig": {"portMappings": "x"}, "prevResult": {}}),
            pod.path(),
            7,
            "invalid type",
        ),
    ] {
        let mut network = host.network(json!({"type": kind}));
        lab::merge(&mut network, settings.clone());
        let error = host.cni("ADD", &network, "c1", &netns).unwrap_err();
        let message = format!("{} {}", error["msg"], error["details"]);
        assert!(error["code"] == code && message.contains(part), "{kind} {settings}: {error}");
        assert!(host.reservations().is_empty(), "{kind} {settings}");
        assert_eq!(pod.ip_json("link show").as_array().unwrap().len(), 1, "{kind} {settings}");
        assert_eq!(host.netns.ip("link show type veth"), "", "{kind} {settings}");
    }
    // What the reference does not know it does not mind, and nor do we.
    let network = host.network(json!({"unheardOf": {"of": 1}, "ipam": {"unheardOf": 1}}));
    host.add(&network, &pod);
    let again = host.cni("ADD", &network, "c2", &pod.path()).unwrap_err();
    assert!(again["msg"].as_str().unwrap().contains("already exists"), "{again}");
    assert_eq!(host.reservations().len(), 2, "the second took nothing");
    host.del(&network, &pod);
    assert!(host.reservations().is_empty());
}
