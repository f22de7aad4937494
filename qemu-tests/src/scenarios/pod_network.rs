//! Pods reach each other and the node, on both families.

use crate::{
    guest::{Guest, identity::HOST_FROM_GUEST},
    scenario::{Context, Needs, Scenario, Stop, check},
};
use std::net::IpAddr;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "pod-network",
    title: "pods reach pods, the node and beyond, on IPv4 and IPv6",
    requirements: &["ra2.ntw.002", "ra2.ntw.013", "ra2.k8s.010"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

const POD_PORT: &str = "8080";
const NODE_PORT: &str = "18080";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let echo = |port| ["serve", "--tcp", port, "--udp", port];

    context.step("run a server pod, a server on the node, and a client pod");
    let server = guest.pod("server").run().await?;
    server.container("main", &probe.reference).args(echo(POD_PORT)).start().await?;
    let on_node = guest.pod("node-server").on_host().run().await?;
    on_node.container("main", &probe.reference).args(echo(NODE_PORT)).start().await?;
    let client_pod = guest.pod("client").run().await?;
    let client = client_pod.container("main", &probe.reference).args(["pause"]).start().await?;

    let addresses = client_pod.addresses().await?;
    check(addresses.iter().all(|a| !a.is_unspecified()), || format!("pod addresses {addresses:?}"))?;
    for ipv6 in [false, true] {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let pod = server.address(ipv6).await?.to_string();
        context.step(format!("ping from pod to pod, {family}"));
        client.until_ok(&[&program, "ping", &pod]).await?;
        for protocol in ["tcp", "udp"] {
            context.step(format!("{protocol} from pod to pod, {family}"));
            client.until_ok(&[&program, "dial", protocol, &pod, POD_PORT, "hello"]).await?;
        }
    }
    for (family, node) in node_addresses(&guest).await? {
        context.step(format!("TCP and UDP from pod to node, {family}"));
        for protocol in ["tcp", "udp"] {
            client.until_ok(&[&program, "dial", protocol, &node.to_string(), NODE_PORT, "hello"]).await?;
        }
    }
    context.step("TCP from pod through the node to the registry, IPv4");
    let registry = format!("http://{HOST_FROM_GUEST}:{}/v2/", context.lab().registry.address().port());
    client.until_ok(&[&program, "http", "get", &registry]).await?;

    context.step("remove the pods");
    for pod in [client_pod, on_node, server] {
        pod.remove().await?;
    }
    Ok(())
}

/// The node's addresses on its network card, one a family.
async fn node_addresses(guest: &Guest) -> Result<Vec<(&'static str, IpAddr)>, Stop> {
    let status = guest.status().await?;
    let all: Vec<IpAddr> = status
        .interfaces
        .iter()
        .filter(|interface| interface.mac.eq_ignore_ascii_case("52:54:00:ca:17:01"))
        .flat_map(|interface| &interface.addresses)
        .filter_map(|address| address.split('/').next()?.parse().ok())
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    let first = |ipv6| all.iter().copied().find(|address: &IpAddr| address.is_ipv6() == ipv6);
    match (first(false), first(true)) {
        (Some(v4), Some(v6)) => Ok(vec![("IPv4", v4), ("IPv6", v6)]),
        _ => Err(Stop::failed(format!("the node lacks an address of one family: {all:?}"))),
    }
}
