//! Rules of nf_tables and iptables are compared by what they do: who reaches whom, and under which address.

use super::{Case, Effect, Need, RECENT, Stage, cases::chained};
use crate::lab::{Namespace, eventually, merge};
use serde_json::{Value, json};
use std::{
    io,
    net::{IpAddr, UdpSocket},
    thread,
    time::Duration,
};

/// From where, how, and whom.
type Ask<'a> = (&'a Namespace, fn(&Namespace, &str, u16) -> io::Result<IpAddr>, &'a str, u16);

/// Under which addresses servers see who asks. All ask at once: who is not answered takes a while to notice.
fn seen<const N: usize>(asks: [Ask<'_>; N]) -> [Value; N] {
    thread::scope(|scope| {
        let asking = asks.map(|(from, ask, address, port)| scope.spawn(move || ask(from, address, port)));
        asking.map(|one| match one.join().unwrap() {
            Ok(source) => json!(source.to_string()),
            Err(_) => json!("not reached"),
        })
    })
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
    for (settings, recent) in [
        (json!({"backend": "iptables"}), None),
        (json!({"backend": "nftables"}), None),
        (json!({"snat": false}), None),
        (json!({"masqAll": true}), Some(RECENT)),
        (json!({"conditionsV4": ["!", "-s", "192.0.2.2/32"], "conditionsV6": ["-d", "2001:db8::/64"]}), None),
    ] {
        let case = Case::new("effects", format!("portmap {settings}"), move |host| {
            let mut mapped = json!({"runtimeConfig": {"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
                {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]}});
            merge(&mut mapped, settings.clone());
            vec![host.network(json!({"ipMasq": true})), chained("portmap", mapped)]
        });
        cases.push(case.needs(&tables).needs(recent.as_slice()).effect(forwarded));
    }
    for (settings, recent) in [
        (json!({}), None),
        (json!({"ingressPolicy": "same-bridge", "backend": "iptables"}), None),
        (json!({"ingressPolicy": "isolated", "backend": "iptables"}), Some(RECENT)),
    ] {
        let case = Case::new("effects", format!("firewall {settings}"), move |host| {
            vec![host.network(json!({})), chained("firewall", settings.clone())]
        });
        cases.push(case.needs(&tables).needs(recent.as_slice()).effect(filtered));
    }
    let rules = [Need::Program("nft"), Need::BridgeRules];
    for (checked, needs, effect) in [(false, &[][..], unchecked as Effect), (true, &rules, spoofed)] {
        let case = Case::new("effects", format!("macspoofchk {checked}"), move |host| {
            vec![host.network(json!({"macspoofchk": checked}))]
        });
        cases.push(case.needs(needs).effect(effect));
    }
    cases
}

/// Under which address the world sees the pod. It knows no way to pods.
fn masqueraded(stage: &Stage) -> Value {
    let world = stage.world.as_ref().unwrap();
    if stage.pod.ip("link show").contains("eth0") {
        world.echo(80);
        let pod = &stage.pod;
        return json!(seen([
            (pod, Namespace::tcp, "192.0.2.2", 80),
            (pod, Namespace::udp, "2001:db8::2", 80)
        ]));
    }
    // What is left of the rules would hide whoever has the address next.
    json!([])
}

/// Who reaches the forwarded ports, and under which address.
fn forwarded(stage: &Stage) -> Value {
    let Stage { host, world, pod } = stage;
    let world = world.as_ref().unwrap();
    let host = &host.netns;
    if !pod.ip("link show").contains("eth0") {
        return json!(seen([
            (world, Namespace::tcp, "192.0.2.1", 8080),
            (host, Namespace::tcp, "127.0.0.1", 8080)
        ]));
    }
    pod.echo(80);
    // The reference looks for other holders of the bridge's own address, and cannot use it until it has done so.
    eventually("the bridge has its address", || {
        !host.ip("-6 addr show cni0").contains("fd77::1/64 scope global tentative")
    });
    let found = seen([
        (world, Namespace::tcp, "192.0.2.1", 8080),
        (world, Namespace::tcp, "2001:db8::1", 8080),
        (world, Namespace::udp, "192.0.2.1", 8080),
        (world, Namespace::tcp, "192.0.2.1", 8081),
        (pod, Namespace::tcp, "192.0.2.1", 8080),
        (pod, Namespace::tcp, "2001:db8::1", 8080),
        (host, Namespace::tcp, "127.0.0.1", 8080),
        (host, Namespace::tcp, "192.0.2.1", 8080),
    ]);
    json!({"world": found[..4], "itself": found[4..6], "host": found[6..]})
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
    let found = json!(seen([
        (world, Namespace::tcp, "10.77.0.2", 80),
        (&other, Namespace::tcp, "10.77.0.2", 80),
        (pod, Namespace::tcp, "fd78::2", 80)
    ]));
    for config in [&mut firewall, &mut network] {
        host.del(config, &other);
    }
    found
}

/// Which frames of the pod get out: those under a forged hardware address, those under its own.
fn spoofed(stage: &Stage) -> Value {
    let Stage { host, pod, .. } = stage;
    if !pod.ip("link show").contains("eth0") {
        return json!("no pod");
    }
    let address = |namespace: &Namespace, link: &str| {
        let shown = namespace.ip_json(&format!("link show {link}"));
        shown[0]["address"].as_str().unwrap().to_owned()
    };
    let (bridge, own) = (address(&host.netns, "cni0"), address(pod, "eth0"));
    let server = host.netns.enter(|| UdpSocket::bind("10.77.0.1:81")).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    for (word, mac) in [("forged", "02:00:00:00:00:99"), ("own", own.as_str())] {
        pod.ip(&format!("link set eth0 address {mac}"));
        // The way is told, not asked for: only frames that go out count, not answers that find back.
        pod.ip(&format!("neigh replace 10.77.0.1 lladdr {bridge} dev eth0"));
        let send = || UdpSocket::bind("10.77.0.2:0")?.send_to(word.as_bytes(), "10.77.0.1:81");
        pod.enter(send).unwrap();
    }
    // The one comes before the other, if it comes at all.
    let (mut heard, mut buffer) = (Vec::new(), [0; 10]);
    while heard.last().is_none_or(|last| last != "own") {
        let Ok(length) = server.recv(&mut buffer) else { break };
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    assert_eq!(heard.last().map(String::as_str), Some("own"), "{heard:?}");
    json!(heard)
}

/// The same where nothing looks: what is forged does get out.
fn unchecked(stage: &Stage) -> Value {
    let heard = spoofed(stage);
    assert!(heard == "no pod" || heard == json!(["forged", "own"]), "{heard}");
    heard
}
