//! `firewall` and `macspoofchk`: who gets through, who does not, and what is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use cairn_cni::{
    netlink::{
        nftables::Generation,
        socket::{Family, Socket},
    },
    ruleset::{FORWARDED, Ruleset},
};
use lab::{Host, Namespace};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::io;

/// A network on a bridge of its own, and `firewall` chained after it.
struct Network {
    bridge: Value,
    firewall: Value,
}

impl Network {
    fn new(host: &Host, name: &str, number: u8, policy: &str) -> Self {
        let ranges =
            json!([[{"subnet": format!("10.{number}.0.0/24")}], [{"subnet": format!("fd00:{number}::/64")}]]);
        let bridge =
            host.network(json!({"name": name, "bridge": format!("br-{name}"), "ipam": {"ranges": ranges}}));
        let firewall =
            json!({"cniVersion": "1.0.0", "name": name, "type": "firewall", "ingressPolicy": policy});
        Self { bridge, firewall }
    }

    /// Attaches a pod; the result.
    fn attach(&mut self, host: &Host, pod: &Namespace) -> Value {
        let result = host.add(&self.bridge, pod);
        self.firewall["prevResult"] = result.clone();
        assert_eq!(host.add(&self.firewall, pod), result, "the result is passed on");
        result
    }
}

fn filter_rules(host: &Host) -> String {
    let output = host.netns.command("nft").args(["list", "table", "inet", "cairn_cni"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pods_of_other_bridges_are_kept_out() {
    need_lab!();
    let host = Host::new();
    let world = host.neighbour();
    world.ip("route add default via 192.0.2.1");
    world.ip("-6 route add default via 2001:db8::1");
    let (mut one, mut two, mut open) = (
        Network::new(&host, "one", 81, "same-bridge"),
        Network::new(&host, "two", 82, "same-bridge"),
        Network::new(&host, "open", 83, "open"),
    );
    let pods = ["a", "b", "c", "d"].map(Namespace::new);
    let result = one.attach(&host, &pods[0]);
    one.attach(&host, &pods[1]);
    two.attach(&host, &pods[2]);
    open.attach(&host, &pods[3]);
    for namespace in pods.iter().chain([&world]) {
        namespace.echo(80);
    }
    for (same, other, outside, of_open) in [
        ("10.81.0.3", "10.82.0.2", "192.0.2.2", "10.83.0.2"),
        ("fd00:81::3", "fd00:82::2", "2001:db8::2", "fd00:83::2"),
    ] {
        pods[0].tcp(same, 80).unwrap();
        pods[0].tcp(outside, 80).unwrap();
        pods[0].tcp(of_open, 80).unwrap();
        assert!(pods[0].tcp(other, 80).is_err(), "{other} is on another bridge that keeps apart");
        world.tcp(same, 80).unwrap();
    }
    assert_eq!(host.check(&one.firewall, &pods[0], &result), "");

    // What the operator says comes before what pods may: replies included.
    let rule = "add rule inet cairn_cni admin ip daddr 192.0.2.2 tcp dport 80 drop";
    if host.netns.command("nft").arg(rule).status().is_ok_and(|s| s.success()) {
        assert!(pods[0].tcp("192.0.2.2", 80).is_err());
        one.attach(&host, &Namespace::new("late"));
        assert!(pods[0].tcp("192.0.2.2", 80).is_err(), "the operator's rule outlives an ADD");
    }

    host.del(&two.firewall, &pods[2]);
    host.del(&two.firewall, &pods[2]);
    pods[0].tcp("10.82.0.2", 80).unwrap();
    host.del(&one.firewall, &pods[0]);
    assert!(host.check(&one.firewall, &pods[0], &result).contains("forwarded"));
}

#[test]
fn a_pod_that_comes_while_the_last_one_goes_keeps_the_bridges_rules() {
    need_lab!();
    if !std::path::Path::new("/usr/sbin/nft").exists() {
        println!("skipped: no `nft` program");
        return;
    }
    let host = Host::new();
    let nowhere = "/run/netns/cairn-there-is-none".as_ref();
    let config = json!({"cniVersion": "1.0.0", "name": "one", "type": "firewall", "ingressPolicy": "same-bridge",
        "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "br-one"}], "ips": [{"address": "10.81.0.2/24"}]}});
    host.cni("ADD", &config, "pod-0", nowhere).unwrap();
    for round in 0..15 {
        let (goes, comes) = (format!("pod-{round}"), format!("pod-{}", round + 1));
        std::thread::scope(|scope| {
            scope.spawn(|| host.cni("DEL", &config, &goes, nowhere).unwrap());
            scope.spawn(|| host.cni("ADD", &config, &comes, nowhere).unwrap());
        });
        let rules = filter_rules(&host);
        assert_eq!(rules.matches("one bridge br-one").count(), 2, "round {round}: {rules}");
    }
}

#[test]
fn what_was_decided_on_other_rules_than_there_are_is_refused() {
    need_lab!();
    let probe = Namespace::new("probe");
    let outcome = probe.enter(|| {
        let mut socket = Socket::open(Family::Netfilter).map_err(io::Error::other)?;
        let mut commit = |generation| socket.transaction(vec![FORWARDED.flush()], Some(generation));
        let of = || Generation::of(&mut Socket::open(Family::Netfilter).unwrap()).unwrap();
        let mut ruleset = Ruleset::open().map_err(io::Error::other)?;
        ruleset.probe(&[FORWARDED]).map_err(io::Error::other)?;
        let before = of();
        // Somebody else changes something.
        ruleset.probe(&[FORWARDED]).map_err(io::Error::other)?;
        assert!(commit(before).is_err_and(|error| error.is(Errno::RESTART)));
        commit(of()).map_err(io::Error::other)
    });
    outcome.unwrap();
}

#[test]
fn garbage_of_the_firewall_is_collected_with_the_bridges_rules() {
    need_lab!();
    if !std::path::Path::new("/usr/sbin/nft").exists() {
        println!("skipped: no `nft` program");
        return;
    }
    let host = Host::new();
    let mut network = Network::new(&host, "one", 84, "isolated");
    let pods = ["a", "b"].map(Namespace::new);
    for pod in &pods {
        network.attach(&host, pod);
    }
    let mut gc = network.firewall.clone();
    gc["cniVersion"] = json!("1.1.0");
    gc["cni.dev/valid-attachments"] = json!([{"containerID": pods[1].name, "ifname": "eth0"}]);
    host.cni("GC", &gc, "", "".as_ref()).unwrap();
    let rules = filter_rules(&host);
    assert!(!rules.contains(&pods[0].name) && rules.contains(&pods[1].name), "{rules}");
    assert_eq!(rules.matches("one bridge br-one").count(), 3, "{rules}");
    gc["cni.dev/valid-attachments"] = json!([]);
    host.cni("GC", &gc, "", "".as_ref()).unwrap();
    assert!(!filter_rules(&host).contains("one "), "{}", filter_rules(&host));
    host.cni("STATUS", &gc, "", "".as_ref()).unwrap();
}

#[test]
fn frames_under_a_false_address_are_dropped() {
    need_lab!();
    let host = Host::new();
    let pod = Namespace::new("pod");
    let network = host.network(json!({"macspoofchk": true, "cniVersion": "1.1.0"}));
    if let Err(error) = host.cni("STATUS", &network, "", "".as_ref()) {
        println!("skipped: {error}");
        return;
    }
    let result = host.add(&network, &pod);
    host.netns.echo(80);
    pod.tcp("10.77.0.1", 80).unwrap();
    assert_eq!(host.check(&network, &pod, &result), "");
    let own = result["interfaces"][2]["mac"].as_str().unwrap();
    pod.ip("link set eth0 address 02:00:00:00:00:99");
    assert!(pod.tcp("10.77.0.1", 80).is_err());
    pod.ip(&format!("link set eth0 address {own}"));
    pod.tcp("10.77.0.1", 80).unwrap();
    host.del(&network, &pod);
    host.del(&network, &pod);
    let rules = host.netns.command("nft").args(["list", "table", "bridge", "cairn_cni"]).output();
    let rules = rules.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    assert!(!rules.contains(&pod.name), "{rules}");
}

#[test]
fn an_address_with_a_new_owner_is_announced() {
    need_lab!();
    let host = Host::new();
    let network = host.network(json!({"ipam": {"type": "static", "ranges": null, "addresses": [
        {"address": "10.77.0.9/24", "gateway": "10.77.0.1"}, {"address": "fd77::9/64", "gateway": "fd77::1"}]}}));
    let (first, second, watcher) =
        (Namespace::new("first"), Namespace::new("second"), Namespace::new("watcher"));
    let hardware = |result: &Value| result["interfaces"][2]["mac"].as_str().unwrap().to_owned();
    let known = |address: &str| {
        let shown = watcher.ip(&format!("neigh show {address}"));
        shown.split_whitespace().skip_while(|w| *w != "lladdr").nth(1).unwrap_or_default().to_owned()
    };
    host.add(&host.network(json!({})), &watcher);
    let result = host.add(&network, &first);
    first.echo(80);
    for address in ["10.77.0.9", "fd77::9"] {
        watcher.tcp(address, 80).unwrap();
        assert_eq!(known(address), hardware(&result));
    }
    host.del(&network, &first);
    let result = host.add(&network, &second);
    for address in ["10.77.0.9", "fd77::9"] {
        // Announced before ADD was done; what the bridge delivers takes a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while known(address) != hardware(&result) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(known(address), hardware(&result), "{address}");
    }
}
