//! Rules of nf_tables and iptables are compared by what they do: who reaches whom, and under which address.

use super::{Case, Need, Stage, cases::chained};
use crate::lab::{Namespace, merge};
use serde_json::{Value, json};

fn seen(outcome: std::io::Result<std::net::IpAddr>) -> Value {
    outcome.map_or(json!("not reached"), |source| json!(source.to_string()))
}

pub(super) fn effects() -> Vec<Case> {
    let tables = [Need::Program("iptables"), Need::Program("ip6tables")];
    let mut cases = Vec::new();
    for (kind, settings) in [
        ("bridge", json!({"ipMasq": true})),
        ("bridge", json!({"ipMasq": true, "ipMasqBackend": "nftables"})),
        ("ptp", json!({"ipMasq": true, "ipam": {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}})),
    ] {
        let case = Case::new("effects", format!("{kind} {settings}"), move |host| {
            let mut network = host.network(json!({"type": kind}));
            merge(&mut network, settings.clone());
            vec![network]
        });
        cases.push(case.needs(&tables).effect(masqueraded));
    }
    for settings in [json!({"backend": "iptables"}), json!({"backend": "nftables"}), json!({"snat": false})] {
        let case = Case::new("effects", format!("portmap {settings}"), move |host| {
            let mut mapped = json!({"runtimeConfig": {"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
                {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]}});
            merge(&mut mapped, settings.clone());
            vec![host.network(json!({"ipMasq": true})), chained("portmap", mapped)]
        });
        cases.push(case.needs(&tables).effect(forwarded));
    }
    for settings in [json!({}), json!({"ingressPolicy": "same-bridge", "backend": "iptables"})] {
        let case = Case::new("effects", format!("firewall {settings}"), move |host| {
            vec![host.network(json!({})), chained("firewall", settings.clone())]
        });
        cases.push(case.needs(&tables).effect(filtered));
    }
    let spoofing =
        Case::new("effects", "macspoofchk", |host| vec![host.network(json!({"macspoofchk": true}))]);
    cases.push(spoofing.needs(&[Need::Program("nft"), Need::BridgeRules]).effect(spoofed));
    cases
}

/// Under which address the world sees the pod. It knows no way to pods.
fn masqueraded(stage: &Stage) -> Value {
    let world = stage.world.as_ref().unwrap();
    if stage.pod.ip("link show").contains("eth0") {
        world.echo(80);
        return json!([seen(stage.pod.tcp("192.0.2.2", 80)), seen(stage.pod.udp("2001:db8::2", 80))]);
    }
    // What is left of the rules would hide whoever has the address next.
    json!([])
}

/// Who reaches the forwarded ports, and under which address.
fn forwarded(stage: &Stage) -> Value {
    let Stage { host, world, pod } = stage;
    let world = world.as_ref().unwrap();
    if !pod.ip("link show").contains("eth0") {
        return json!([seen(world.tcp("192.0.2.1", 8080)), seen(host.netns.tcp("127.0.0.1", 8080))]);
    }
    pod.echo(80);
    json!({
        "world": [seen(world.tcp("192.0.2.1", 8080)), seen(world.tcp("2001:db8::1", 8080)),
                  seen(world.udp("192.0.2.1", 8080)), seen(world.tcp("192.0.2.1", 8081))],
        "itself": [seen(pod.tcp("192.0.2.1", 8080)), seen(pod.tcp("2001:db8::1", 8080))],
        "host": [seen(host.netns.tcp("127.0.0.1", 8080)), seen(host.netns.tcp("192.0.2.1", 8080))],
    })
}

/// Whether a pod of another bridge that keeps its pods apart reaches this one, and whether the world does.
fn filtered(stage: &Stage) -> Value {
    let Stage { host, world, pod } = stage;
    let world = world.as_ref().unwrap();
    if !pod.ip("link show").contains("eth0") {
        return json!([]);
    }
    let other = Namespace::new("other");
    let mut network = host.network(json!({"name": "others", "bridge": "cni1",
        "ipam": {"ranges": [[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd78::/64"}]]}}));
    let result = host.add(&network, &other);
    let mut firewall =
        chained("firewall", json!({"name": "others", "ingressPolicy": "same-bridge", "prevResult": result}));
    host.add(&firewall, &other);
    world.ip("route add default via 192.0.2.1");
    pod.echo(80);
    other.echo(80);
    let found = json!([
        seen(world.tcp("10.77.0.2", 80)),
        seen(other.tcp("10.77.0.2", 80)),
        seen(pod.tcp("fd78::2", 80))
    ]);
    for config in [&mut firewall, &mut network] {
        host.del(config, &other);
    }
    found
}

/// Whether frames under another hardware address than the pod's own get through.
fn spoofed(stage: &Stage) -> Value {
    let Stage { host, pod, .. } = stage;
    if !pod.ip("link show").contains("eth0") {
        return json!([]);
    }
    host.netns.echo(81);
    let own = seen(pod.tcp("10.77.0.1", 81));
    pod.ip("link set eth0 address 02:00:00:00:00:99");
    let false_one = seen(pod.tcp("10.77.0.1", 81));
    json!([own, false_one])
}
