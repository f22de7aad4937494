//! What is compared: configurations, and chains of them.

use super::{Case, Need, RECENT, Stage, effects::effects, leases::leases};
use crate::lab::{Host, merge};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink};

/// A network whose pods have an interface on the host's `uplink`.
fn on_uplink(host: &Host, kind: &str, settings: &Value) -> Value {
    host.netns.ip("link add uplink type veth peer name wire");
    host.netns.ip("link set uplink up");
    host.netns.ip("link set wire up");
    let mut network = host.network(json!({"type": kind, "master": "uplink"}));
    for key in ["bridge", "isDefaultGateway", "hairpinMode"] {
        network.as_object_mut().unwrap().remove(key);
    }
    merge(&mut network, settings.clone());
    network
}

pub(super) fn chained(kind: &str, settings: Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": kind});
    merge(&mut config, settings);
    config
}

/// Everything that is compared.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = bridges();
    cases.extend(interfaces());
    cases.extend(chains());
    cases.extend(effects());
    cases.extend(leases());
    cases
}

fn bridges() -> Vec<Case> {
    let bridge = |settings: Value| {
        Case::new("bridge", settings.to_string(), move |host: &Host| vec![host.network(settings.clone())])
    };
    let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"];
    let mut cases: Vec<Case> = versions.map(|version| bridge(json!({"cniVersion": version}))).into();
    cases.extend(
        [
            json!({"mtu": 1300, "hairpinMode": false}),
            json!({"isDefaultGateway": false, "isGateway": true}),
            json!({"isDefaultGateway": false}),
            json!({"hairpinMode": false, "promiscMode": true}),
            json!({"bridge": "br-other", "ipam": {"routes": [{"dst": "192.0.2.0/24"}, {"dst": "2001:db8::/32"}]}}),
            json!({"ipam": {"ranges": [[{"subnet": "10.9.0.0/16", "rangeStart": "10.9.3.1", "gateway": "10.9.255.254"}]]}}),
            json!({"dns": {"nameservers": ["192.0.2.53"], "search": ["a"]}}),
            json!({"args": {"cni": {"mac": "02:00:00:00:00:77"}}}),
            json!({"isDefaultGateway": false, "ipam": null}),
            json!({"enabledad": true}),
        ]
        .map(bridge),
    );
    cases.push(Case::new("bridge", "forceAddress", |host| {
        host.netns.ip("link add cni0 address 02:00:00:00:00:01 type bridge");
        host.netns.ip("addr add 10.78.0.1/24 dev cni0");
        host.netns.ip("addr add fd77::99/64 dev cni0 nodad");
        vec![host.network(json!({"forceAddress": true}))]
    }));
    cases.push(bridge(json!({"vlan": 100, "preserveDefaultVlan": true})).needs(&[Need::BridgeVlans]));
    for settings in [json!({"vlan": 100}), json!({"vlanTrunk": [{"id": 20}], "isDefaultGateway": false})] {
        let case =
            Case::new("bridge", format!("{settings} where ports are born in VLAN 7"), move |host: &Host| {
                host.netns.ip("link add cni0 type bridge vlan_filtering 1 vlan_default_pvid 7");
                vec![host.network(settings.clone())]
            });
        cases.push(case.needs(&[Need::BridgeVlans, RECENT]));
    }
    // Versions before those with `dummy` keep the default VLAN in any case, and know no trunks.
    for settings in [
        json!({"vlan": 100}),
        json!({"vlan": 100, "preserveDefaultVlan": false}),
        json!({"isDefaultGateway": false, "vlanTrunk": [{"minID": 10, "maxID": 12}, {"id": 20}]}),
        json!({"vlan": 5, "vlanTrunk": [{"id": 20}]}),
    ] {
        cases.push(bridge(settings).needs(&[Need::BridgeVlans, RECENT]));
    }
    // Since 1.1.0 of the specification and later versions of the reference.
    for settings in [
        json!({"cniVersion": "1.1.0"}),
        json!({"portIsolation": true}),
        json!({"disableContainerInterface": true, "isDefaultGateway": false, "ipam": null}),
        json!({"cniVersion": "1.1.0", "ipam": {"routes": [{"dst": "192.0.2.0/24", "mtu": 1400, "advmss": 1300, "priority": 7}]}}),
        json!({"cniVersion": "0.4.0", "ipam": {"routes": [{"dst": "192.0.2.0/24", "priority": 7}]}}),
    ] {
        cases.push(bridge(settings).needs(&[RECENT]));
    }
    cases.push(Case::new("bridge", "loopback", |_| {
        vec![json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"})]
    }));
    cases
}

fn interfaces() -> Vec<Case> {
    let default = json!({"ipam": {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}});
    let fixed = json!({"type": "static", "ranges": null, "addresses": [{"address": "10.4.0.9/24", "gateway": "10.4.0.1"}],
        "dns": {"nameservers": ["192.0.2.53"]}});
    let mut cases = Vec::new();
    for settings in [json!({}), json!({"mtu": 1300}), default.clone()] {
        cases.push(Case::new("interfaces", format!("ptp {settings}"), move |host| {
            let mut network = host.network(json!({"type": "ptp"}));
            merge(&mut network, settings.clone());
            vec![network]
        }));
    }
    cases.push(Case::new("interfaces", "ptp resolvConf", |host| {
        let path = host.directory.path().join("resolv.conf");
        let text =
            "# No comment\nnameserver 192.0.2.53\nsearch a b\ndomain example.org\noptions ndots:2 edns0\n";
        fs::write(&path, text).unwrap();
        vec![host.network(json!({"type": "ptp", "ipam": {"resolvConf": path}}))]
    }));
    for (kind, settings) in [
        ("macvlan", json!({})),
        ("macvlan", json!({"mode": "private", "mtu": 1300})),
        ("macvlan", json!({"mac": "02:00:00:00:00:78"})),
        ("macvlan", default.clone()),
        ("macvlan", json!({"mode": "vepa", "ipam": fixed})),
        ("macvlan", json!({"ipam": null})),
        ("macvlan", json!({"mode": "passthru"})),
        ("ipvlan", json!({})),
        ("ipvlan", json!({"mode": "l3", "mtu": 1300})),
        ("ipvlan", json!({"mode": "l3s", "ipam": fixed})),
        ("vlan", json!({"vlanId": 100})),
        ("vlan", json!({"vlanId": 5, "mtu": 1300, "cniVersion": "0.3.1"})),
    ] {
        let label = format!("{kind} {settings}");
        let case = Case::new("interfaces", label, move |host| vec![on_uplink(host, kind, &settings)]);
        cases.push(case.needs(&[Need::Kind(kind)]));
    }
    let queue = Case::new("interfaces", "macvlan bcqueuelen", |host| {
        vec![on_uplink(host, "macvlan", &json!({"bcqueuelen": 200}))]
    });
    cases.push(queue.needs(&[Need::Kind("macvlan"), RECENT]));
    for (kind, settings) in
        [("macvlan", json!({})), ("ipvlan", json!({"mode": "l3"})), ("vlan", json!({"vlanId": 100}))]
    {
        let case = Case::new("interfaces", format!("{kind} linkInContainer"), move |host| {
            let mut network = on_uplink(host, kind, &settings);
            merge(&mut network, json!({"master": "inner0", "linkInContainer": true}));
            vec![network]
        });
        cases.push(case.needs(&[Need::Kind(kind), RECENT]).prepared(a_link_in_the_pod));
    }
    for settings in [
        json!({"device": "uplink"}),
        json!({"hwaddr": "02:00:00:00:00:70", "mac": "02:00:00:00:00:70"}),
        // The first of all that are below, by name.
        json!({"kernelpath": "/sys/devices/virtual"}),
        json!({"device": "uplink", "ipam": null}),
    ] {
        let case = Case::new("interfaces", format!("host-device {settings}"), move |host| {
            let network = on_uplink(host, "host-device", &settings);
            host.netns.ip("link set uplink address 02:00:00:00:00:70");
            if settings["kernelpath"].is_string() {
                host.netns.ip("link add a0 type veth peer name b0");
            }
            vec![network]
        });
        cases.push(case);
    }
    // The result of 1.1.1 names no interface where a program has the device.
    for (settings, below, driver, recent) in [
        (json!({"pciBusID": "0000:00:03.0"}), "net/uplink", "e1000", None),
        (json!({"runtimeConfig": {"deviceID": "0000:00:03.0"}}), "virtio0/net/uplink", "virtio-pci", None),
        (json!({"pciBusID": "0000:00:03.0"}), "vfio-dev/vfio0", "vfio-pci", Some(RECENT)),
        (json!({"pciBusID": "0000:00:03.0", "ipam": null}), "uio/uio0", "uio_pci_generic", Some(RECENT)),
    ] {
        let case = Case::new("interfaces", format!("host-device {settings} of {driver}"), move |host| {
            let network = on_uplink(host, "host-device", &settings);
            let pci = host.sysfs().join("bus/pci");
            fs::create_dir_all(pci.join("devices/0000:00:03.0").join(below)).unwrap();
            fs::create_dir_all(pci.join("drivers").join(driver)).unwrap();
            symlink(format!("../../drivers/{driver}"), pci.join("devices/0000:00:03.0/driver")).unwrap();
            vec![network]
        });
        cases.push(case.needs(recent.as_slice()));
    }
    for settings in [json!({}), json!({"ipam": fixed})] {
        let case = Case::new("interfaces", format!("dummy {settings}"), move |host| {
            let mut network = host.network(json!({"type": "dummy"}));
            merge(&mut network, settings.clone());
            vec![network]
        });
        cases.push(case.needs(&[Need::Kind("dummy"), RECENT]));
    }
    for settings in [
        json!({}),
        json!({"mtu": 1400, "multiQueue": true, "mac": "02:00:00:00:00:31"}),
        json!({"owner": 1000, "group": 1001}),
        json!({"owner": 1000, "ipam": null}),
    ] {
        let case = Case::new("interfaces", format!("tap {settings}"), move |host| {
            let mut network = host.network(json!({"type": "tap", "bridge": ""}));
            merge(&mut network, settings.clone());
            vec![network]
        });
        cases.push(case.needs(&[Need::File("/dev/net/tun"), Need::Plugin("tap")]));
    }
    cases
}

fn a_link_in_the_pod(stage: &Stage) -> Vec<super::Running> {
    stage.pod.ip("link add inner0 type veth peer name inner1");
    stage.pod.ip("link set inner0 up");
    stage.pod.ip("link set inner1 up");
    Vec::new()
}

fn chains() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut chain = |group, kind: &'static str, first: Value, settings: Value, needs: &[Need]| {
        let case = Case::new(group, format!("{kind} {settings} after {first}"), move |host| {
            let mut settings = settings.clone();
            if kind == "tuning" {
                settings["dataDir"] = json!(host.directory.path().join("tuning"));
            }
            vec![host.network(first.clone()), chained(kind, settings)]
        });
        cases.push(case.needs(needs));
    };
    for settings in [
        json!({"mac": "02:00:00:00:00:77", "mtu": 1280, "promisc": true, "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}),
        json!({"allmulti": true}),
    ] {
        chain("tuning", "tuning", json!({}), settings, &[]);
    }
    chain("tuning", "tuning", json!({}), json!({"txQLen": 500}), &[RECENT]);
    for first in [
        json!({}),
        json!({"isDefaultGateway": false, "isGateway": true}),
        json!({"ipam": {"routes": [{"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.77.0.7"}]}}),
    ] {
        chain("routing", "sbr", first, json!({}), &[]);
    }
    chain("routing", "sbr", json!({}), json!({"table": 42}), &[RECENT]);
    for (first, settings) in [
        (json!({}), json!({"vrfname": "blue"})),
        (json!({}), json!({"vrfname": "blue", "table": 42})),
        (json!({"ipam": {"routes": [{"dst": "192.0.2.0/24"}]}}), json!({"vrfname": "red"})),
    ] {
        // Versions before those with `dummy` lose the routes that lead through a gateway.
        chain("routing", "vrf", first, settings, &[Need::Kind("vrf"), RECENT]);
    }
    let connected = json!({"isDefaultGateway": false, "isGateway": true});
    chain("routing", "vrf", connected, json!({"vrfname": "blue"}), &[Need::Kind("vrf")]);
    let received = json!({"ingressRate": 100_000_000, "ingressBurst": 8_000_000});
    let sent = json!({"egressRate": 1_000_000, "egressBurst": 800_000});
    let mut each = received.clone();
    merge(&mut each, sent.clone());
    for limits in [received, sent, each.clone()] {
        let runtime = json!({"runtimeConfig": {"bandwidth": limits}});
        chain("bandwidth", "bandwidth", json!({}), runtime, &[Need::Kind("ifb")]);
    }
    // Of limits in both places the network's own count.
    let both =
        json!({"ingressRate": 2_000_000, "ingressBurst": 1_600_000, "runtimeConfig": {"bandwidth": each}});
    chain("bandwidth", "bandwidth", json!({}), both, &[Need::Kind("ifb")]);
    let none = json!({"ingressRate": 0, "runtimeConfig": {"bandwidth": each}});
    chain("bandwidth", "bandwidth", json!({}), none, &[Need::Kind("ifb")]);
    each["shapedSubnets"] = json!(["10.0.0.0/8"]);
    chain("bandwidth", "bandwidth", json!({}), each, &[Need::Kind("ifb")]);
    cases
}
