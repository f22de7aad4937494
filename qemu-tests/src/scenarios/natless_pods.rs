//! Pods that are not hidden behind the node: the outside sees their own addresses.

use crate::{
    guest::host::Host,
    guest::network::NETWORKS_ANNOTATION,
    peer::{self, ECHO_PORT, Peer, Protocol},
    scenario::{Context, Needs, Scenario, Stop, check},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "natless-pods",
    title: "macvlan, ipvlan and routed pods reach the outside and are reached from it without NAT",
    requirements: &["ra2.ntw.011", "ra2.ntw.013"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

const POD_PORT: u16 = 8080;

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let patience = guest.pace().scale(Duration::from_secs(15));
    let host = Host::look(&guest, probe).await?;
    let card = guest.card(peer::NODE_MAC).await?;
    for (kind, plugin) in networks(&card) {
        context.step(format!("a pod on a {kind} network"));
        host.define_network("outside", &json!([plugin])).await?;
        let pod = guest.pod(kind).annotation(NETWORKS_ANNOTATION, "outside").run().await?;
        let port = POD_PORT.to_string();
        let container =
            pod.container("main", &probe.reference).args(["serve", "--tcp", &port, "--udp", &port]);
        let container = container.start().await?;
        let interface = pod.interface("net1").await?;
        for ipv6 in [false, true] {
            let (own, outside) = (interface.address(ipv6)?, Peer::address(ipv6));
            context.step(format!("{kind}: {own} pings {outside}"));
            container.until_ok(&[&program, "ping", &outside.to_string()]).await?;
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                context.step(format!("{kind}: {outside} hears {own} over {}", protocol.name()));
                let peer = context.node()?.peer()?;
                peer.heard();
                let (ip, port) = (outside.to_string(), ECHO_PORT.to_string());
                container.until_ok(&[&program, "dial", protocol.name(), &ip, &port, "hello"]).await?;
                let heard = peer.heard();
                let own_words = heard.iter().filter(|one| one.protocol == protocol);
                check(
                    !heard.is_empty()
                        && own_words.clone().count() > 0
                        && own_words.clone().all(|one| one.from.ip() == own),
                    || format!("the outside heard {heard:?}, not {own}"),
                )?;
                let pod_server = SocketAddr::new(own, POD_PORT);
                let reached = peer.ask(protocol, pod_server, "hello", patience).await;
                check(reached, || format!("{outside} does not reach {} {pod_server}", protocol.name()))?;
            }
        }
        pod.remove().await?;
        host.undefine_network("outside").await?;
    }
    host.leave().await
}

/// Three ways out. The first two have addresses of the wire's own networks, the third has networks of its own behind the
/// node, which the neighbour knows to be its way there.
fn networks(card: &str) -> [(&'static str, Value); 3] {
    let on_wire = json!({ "type": "host-local", "ranges": [
        [{ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.120", "rangeEnd": "192.0.2.139" }],
        [{ "subnet": "2001:db8:17::/64", "rangeStart": "2001:db8:17::120", "rangeEnd": "2001:db8:17::139" }]
    ] });
    let routed = json!({ "type": "host-local",
        "ranges": [[{ "subnet": "198.51.100.0/24" }], [{ "subnet": "2001:db8:18::/64" }]],
        "routes": [{ "dst": "192.0.2.0/24" }, { "dst": "2001:db8:17::/64" }] });
    [
        ("macvlan", json!({ "type": "macvlan", "master": card, "ipam": on_wire })),
        ("ipvlan", json!({ "type": "ipvlan", "master": card, "ipam": on_wire })),
        ("ptp", json!({ "type": "ptp", "ipMasq": false, "ipam": routed })),
    ]
}
