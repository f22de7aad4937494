//! Plugins that make one interface: what the comparison with the reference cannot show, and what they refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use lab::{Host, Namespace};
use serde_json::{Value, json};

/// A host with a link `uplink` whose other end is up, too.
fn host() -> Host {
    let host = Host::new();
    host.netns.ip("link add uplink type veth peer name wire");
    host.netns.ip("link set uplink up");
    host.netns.ip("link set wire up");
    host
}

#[test]
fn a_tap_is_made_configured_and_removed() {
    need_lab!();
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("skipped: no /dev/net/tun");
        return;
    }
    let host = host();
    let pod = Namespace::new("pod");
    let network = host
        .network(json!({"type": "tap", "bridge": "", "mtu": 1400, "mac": "02:00:00:00:00:31", "owner": 1000,
        "ipam": {"type": "static", "ranges": null, "addresses": [{"address": "10.5.0.2/24"}]}}));
    let result = host.add(&network, &pod);
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:31");
    let link = &pod.ip_json("-d link show eth0")[0];
    assert_eq!((&link["mtu"], &link["linkinfo"]["info_data"]["type"]), (&json!(1400), &json!("tap")));
    assert_eq!(host.check(&network, &pod, &result), "");
    pod.ip("addr del 10.5.0.2/24 dev eth0");
    assert!(host.check(&network, &pod, &result).contains("10.5.0.2"));
    host.del(&network, &pod);
    host.del(&network, &pod);
    assert!(!pod.ip_succeeds("link show eth0"));
}

#[test]
fn a_device_comes_back_under_its_name() {
    need_lab!();
    let host = host();
    let pod = Namespace::new("pod");
    let network = host.network(json!({"type": "host-device", "device": "uplink"}));
    let result = host.add(&network, &pod);
    assert!(!host.netns.ip_succeeds("link show uplink"));
    assert_eq!(host.check(&network, &pod, &result), "");
    host.del(&network, &pod);
    assert!(host.netns.ip_succeeds("link show uplink") && host.reservations().is_empty());
    host.del(&network, &pod);
    // A pod's own interface is not taken for a device of ours.
    pod.ip("link add eth0 type veth peer name eth1");
    assert!(host.cni("DEL", &network, &pod.name, &pod.path()).is_err());
}

/// What the host shows of its links.
fn links(host: &Host) -> Value {
    host.netns.ip_json("link show")
}

#[test]
fn a_device_that_cannot_be_lent_is_left_as_it_was() {
    need_lab!();
    let host = host();
    host.netns.ip("link add cni0 type bridge");
    host.netns.ip("link set cni0 up");
    let pod = Namespace::new("pod");
    let before = links(&host);
    for device in ["lo", "cni0"] {
        let network = host.network(json!({"type": "host-device", "device": device}));
        let error = host.cni("ADD", &network, "c1", &pod.path()).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("moving it"), "{error}");
        assert_eq!(links(&host), before, "{device}");
    }
    // It was lent, and there is no address for it: it is back, up and under the alias it had.
    host.netns.ip("link set uplink alias mine");
    let full = json!({"type": "host-device", "device": "uplink",
        "ipam": {"ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/126", "rangeEnd": "fd77::1"}]]}});
    let error = host.cni("ADD", &host.network(full), "c1", &pod.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("no IP addresses available"), "{error}");
    let uplink = &host.netns.ip_json("link show uplink")[0];
    assert!(
        uplink["flags"].as_array().unwrap().contains(&json!("UP")) && uplink["ifalias"] == "mine",
        "{uplink}"
    );
}

#[test]
fn a_device_whose_name_is_taken_comes_back_under_another() {
    need_lab!();
    let host = host();
    let pod = Namespace::new("pod");
    let network = host.network(json!({"type": "host-device", "device": "uplink"}));
    let mac = host.add(&network, &pod)["interfaces"][0]["mac"].clone();
    host.netns.ip("link add uplink type veth peer name other");
    host.del(&network, &pod);
    let returned =
        links(&host).as_array().unwrap().iter().find(|link| link["address"] == mac).cloned().unwrap();
    assert!(
        returned["ifname"].as_str().unwrap().starts_with("dev") && returned["ifalias"].is_null(),
        "{returned}"
    );
}

#[test]
fn an_ipv6_address_that_somebody_has_is_refused() {
    need_lab!();
    let host = host();
    let fixed = json!({"type": "macvlan", "master": "uplink",
        "ipam": {"type": "static", "ranges": null, "addresses": [{"address": "fd77::9/64"}]}});
    let network = host.network(fixed);
    let (one, two) = (Namespace::new("one"), Namespace::new("two"));
    // Asking takes a second, after a while of up to one more.
    for pod in [&one, &two] {
        pod.ipv6_default("router_solicitation_delay", "0");
    }
    host.add(&network, &one);
    let error = host.cni("ADD", &network, &two.name, &two.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("somebody else has fd77::9/64"), "{error}");
    assert!(!two.ip_succeeds("link show eth0"));
    host.del(&network, &one);
    let result = host.add(&network, &two);
    assert_eq!(host.check(&network, &two, &result), "");
    host.del(&network, &two);
    // Where the kernel is told not to look, nobody does.
    for pod in [&one, &two] {
        pod.ipv6_default("accept_dad", "0");
        host.add(&network, pod);
    }
}

#[test]
fn without_carrier_nobody_is_asked_and_the_address_is_given() {
    need_lab!();
    let host = host();
    host.netns.ip("link set wire down");
    let pod = Namespace::new("pod");
    let result = host.add(&host.network(json!({"type": "macvlan", "master": "uplink"})), &pod);
    assert_eq!(result["ips"][1]["address"], "fd77::2/64");
    assert!(pod.ip("-6 addr show eth0").contains("fd77::2/64 scope global tentative"));
}

#[test]
fn check_sees_another_mode() {
    need_lab!();
    let host = host();
    let pod = Namespace::new("pod");
    pod.detect_nothing();
    let mut network = host.network(json!({"type": "macvlan", "master": "uplink", "mode": "private"}));
    let result = host.add(&network, &pod);
    assert_eq!(host.check(&network, &pod, &result), "");
    network["mode"] = json!("vepa");
    let message = host.check(&network, &pod, &result);
    assert!(message.contains("is a macvlan in mode private, not a macvlan in mode vepa"), "{message}");
}

#[test]
fn a_routed_pod_reaches_the_host_and_another() {
    need_lab!();
    let host = Host::new();
    let (one, two) = (Namespace::new("one"), Namespace::new("two"));
    let routes =
        json!({"type": "ptp", "ipMasq": true, "ipam": {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}});
    let network = host.network(routes);
    let result = host.add(&network, &one);
    host.add(&network, &two);
    two.echo(80);
    host.netns.echo(81);
    assert_eq!(one.tcp("10.77.0.3", 80).unwrap().to_string(), "10.77.0.2");
    assert_eq!(one.udp("fd77::3", 80).unwrap().to_string(), "fd77::2");
    assert_eq!(one.tcp("10.77.0.1", 81).unwrap().to_string(), "10.77.0.2");
    assert_eq!(host.check(&network, &one, &result), "");
    host.del(&network, &one);
    host.del(&network, &one);
    assert_ne!(host.check(&network, &one, &result), "");
}

#[test]
fn mistakes_have_their_codes_and_leave_nothing() {
    need_lab!();
    let host = host();
    let pod = Namespace::new("pod");
    for (settings, code, part) in [
        (json!({"type": "macvlan", "master": "uplink", "mode": "loud"}), 7, "unknown macvlan mode"),
        (json!({"type": "macvlan", "master": "none"}), 999, "none"),
        (json!({"type": "macvlan"}), 999, "no default route interface"),
        (json!({"type": "macvlan", "master": "uplink", "mtu": 9000}), 7, "invalid MTU 9000"),
        (json!({"type": "macvlan", "master": "uplink", "mac": "x"}), 7, "hardware address"),
        (json!({"type": "ipvlan", "master": "uplink", "mode": "l4"}), 7, "unknown ipvlan mode"),
        (json!({"type": "ipvlan", "master": "uplink", "ipam": null}), 7, "`ipam` is missing"),
        (json!({"type": "vlan", "vlanId": 5}), 7, "\"master\" field is required"),
        (json!({"type": "vlan", "master": "uplink", "vlanId": 4095}), 7, "invalid VLAN ID 4095"),
        (json!({"type": "vlan", "master": "uplink", "vlanId": "5"}), 7, "invalid type"),
        (json!({"type": "host-device"}), 7, "\"pciBusID\""),
        (json!({"type": "host-device", "device": "none"}), 999, "Link not found"),
        (json!({"type": "host-device", "pciBusID": "../x"}), 7, "../x"),
        (json!({"type": "host-device", "kernelpath": "/etc"}), 7, "/sys/devices/"),
        (json!({"type": "dummy", "ipam": null}), 7, "`ipam` is missing"),
        (json!({"type": "tap", "mtu": -1}), 7, "invalid mtu"),
        (json!({"type": "tap", "bridge": "none"}), 999, "Link not found"),
        (json!({"type": "ptp", "ipam": null}), 7, "`ipam` is missing"),
        (json!({"type": "ptp", "ipMasqBackend": "pf"}), 7, "pf"),
        (json!({"type": "tuning"}), 7, "prevResult"),
        (json!({"type": "tuning", "sysctl": {"kernel.hostname": "x"}, "prevResult": {}}), 7, "sysctl key"),
        (
            json!({"type": "tuning", "mtu": 1, "dataDir": "/run/cairn-cni-test", "prevResult": {}}),
            999,
            "eth0",
        ),
        (json!({"type": "bandwidth", "ingressRate": 8000}), 7, "burst must also be set"),
        (json!({"type": "bandwidth", "ingressRate": 8000, "ingressBurst": 8000}), 7, "chained"),
        (json!({"type": "static", "ipam": {"addresses": [{"address": "10.0.0.1"}]}}), 7, "CIDR"),
    ] {
        let before: Vec<Value> = [&host.netns, &pod].map(|n| n.ip_json("link show")).into();
        let error = host.cni("ADD", &host.network(settings.clone()), "c1", &pod.path()).unwrap_err();
        let message = error["msg"].as_str().unwrap();
        assert!(error["code"] == code && message.contains(part), "{settings}: {error}");
        let after: Vec<Value> = [&host.netns, &pod].map(|n| n.ip_json("link show")).into();
        assert_eq!(before, after, "{settings}");
        assert!(host.reservations().is_empty(), "{settings}");
    }
    // The name is taken, or the range is exhausted, once the interface is half made.
    let full = json!({"type": "macvlan", "master": "uplink",
        "ipam": {"ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/126", "rangeEnd": "fd77::1"}]]}});
    let error = host.cni("ADD", &host.network(full), "c1", &pod.path()).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("no IP addresses available"), "{error}");
    assert!(!pod.ip_succeeds("link show eth0") && host.reservations().is_empty());
    pod.ip("link add eth0 type veth peer name eth1");
    for kind in ["macvlan", "ptp", "tap", "host-device"] {
        let network = host.network(json!({"type": kind, "master": "uplink", "device": "uplink"}));
        let error = host.cni("ADD", &network, "c1", &pod.path()).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("already exists"), "{kind}: {error}");
        assert!(host.reservations().is_empty() && host.netns.ip_succeeds("link show uplink"), "{kind}");
    }
    let links = pod.ip_json("link show");
    assert_eq!(links.as_array().unwrap().len(), 3, "{links}");
}
