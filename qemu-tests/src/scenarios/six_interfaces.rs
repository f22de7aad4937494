//! A pod with more networks than the default one, asked for by annotation.

use crate::{
    guest::network::NETWORKS_ANNOTATION,
    guest::{host::Host, pod::Container},
    peer::{self, ECHO_PORT, Peer},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "six-interfaces",
    title: "a pod has six interfaces on five kinds of network, asked for by annotation, and each works",
    requirements: &["ra2.ntw.003", "ra2.ntw.004", "ra2.ntw.006", "ra2.ntw.007", "ra2.ntw.015", "ra2.ntw.016"],
    needs: Needs::Shared,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

/// Hardware address of the node's first card.
const FIRST_CARD: &str = "52:54:00:ca:17:01";
/// What is asked for of one network, besides the network.
const WANTED_IP: &str = "203.0.113.77";
const WANTED_MAC: &str = "02:ca:17:00:00:77";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();

    context.step("define five networks on the node");
    let host = Host::look(&guest, probe).await?;
    let cards = (guest.card(FIRST_CARD).await?, guest.card(peer::NODE_MAC).await?);
    let networks = networks(&cards.0, &cards.1);
    for (name, plugins) in &networks {
        host.define_network(name, plugins).await?;
    }

    context.step("a pod asks for all of them");
    let asked = json!([
        { "name": "side", "interface": "data0", "ips": [WANTED_IP], "mac": WANTED_MAC },
        { "name": "outside", "default-route": [Peer::address(false), Peer::address(true)] },
        { "name": "inner" }, { "name": "routed" }, { "name": "tagged" }
    ]);
    let pod = guest.pod("many").annotation(NETWORKS_ANNOTATION, &asked.to_string()).run().await?;
    let first =
        pod.container("main", &probe.reference).args(["serve", "--tcp", "80", "--udp", "80"]).start().await?;
    let other =
        guest.pod("also").annotation(NETWORKS_ANNOTATION, "side@data0,outside,inner,routed").run().await?;
    let second = other.container("main", &probe.reference).args(["pause"]).start().await?;

    context.step("the runtime reports six interfaces, and the pod has them");
    let wanted = BTreeSet::from(["eth0", "data0", "net2", "net3", "net4", "net5"].map(str::to_owned));
    let status = pod.interfaces().await?;
    let reported = status.iter().map(|one| one.interface.clone()).collect();
    check_equal("the interfaces of the network status", &reported, &wanted)?;
    check_equal("the interfaces in the pod", &inside(&first, &program).await?, &wanted)?;
    check_equal("the default one", &status.iter().filter(|one| one.default).count(), &1)?;
    let side = pod.interface("data0").await?;
    check_equal("the hardware address asked for", &side.mac.as_str(), &WANTED_MAC)?;
    check_equal("the address asked for", &side.address(false)?.to_string().as_str(), &WANTED_IP)?;
    check_equal("the pod's addresses for the kubelet", &pod.addresses().await?, &status[0].ips)?;

    context.step("the plugins find all of them as they made them");
    for (interface, state) in pod.network_check().await? {
        check_equal(&format!("the state of {interface}"), &state.as_str(), &"OK")?;
    }

    context.step("statistics are of every interface");
    let stats = pod.stats().await?.linux.and_then(|linux| linux.network).unwrap_or_default();
    let counted = stats.interfaces.iter().map(|one| one.name.clone()).collect();
    check_equal("the interfaces of the statistics", &counted, &wanted)?;
    check_equal("the default one", &stats.default_interface.unwrap_or_default().name.as_str(), &"eth0")?;

    for one in status.iter().filter(|one| one.interface != "net5") {
        context.step(format!("another pod reaches it on {} ({})", one.interface, one.name));
        for ip in one.ips.iter().map(ToString::to_string) {
            second.until_ok(&[&program, "ping", &ip]).await?;
            for protocol in ["tcp", "udp"] {
                second.until_ok(&[&program, "dial", protocol, &ip, "80", "hello"]).await?;
            }
        }
    }

    context.step("its default route goes where it was asked to go");
    let routes = first.exec(&[&program, "ifconfig"]).await?.success()?;
    check_default_route(&routes, "net2")?;
    for ipv6 in [false, true] {
        let (ip, port) = (Peer::address(ipv6).to_string(), ECHO_PORT.to_string());
        first.until_ok(&[&program, "dial", "tcp", &ip, &port, "hello"]).await?;
    }

    context.step("a network that is not there is named");
    let refused = guest.pod("wrong").annotation(NETWORKS_ANNOTATION, "nowhere").run().await;
    match refused {
        Err(Stop::Failed(message)) => check(
            [NETWORKS_ANNOTATION, "cairn-test/nowhere", "there are"]
                .iter()
                .all(|part| message.contains(part)),
            || format!("the error is `{message}`"),
        )?,
        _ => return Err(Stop::failed("a pod got a network that is not there")),
    }
    check_equal("the number of pods", &guest.pods().await?.len(), &3)?;

    context.step("remove the pods and the definitions");
    pod.remove().await?;
    other.remove().await?;
    for (name, _) in &networks {
        host.undefine_network(name).await?;
    }
    host.leave().await
}

/// Five networks of four further kinds; the default one is a bridge, too.
fn networks(first_card: &str, second_card: &str) -> Vec<(&'static str, Value)> {
    let ipam = |ranges: &[&str], routes: Value| {
        let ranges: Vec<Value> = ranges.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        json!({ "type": "host-local", "ranges": ranges, "routes": routes })
    };
    let dialled = json!({ "type": "host-local", "ranges": [
        [{ "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100", "rangeEnd": "192.0.2.119" }],
        [{ "subnet": "2001:db8:17::/64", "rangeStart": "2001:db8:17::100", "rangeEnd": "2001:db8:17::119" }]
    ] });
    vec![
        (
            "side",
            json!([{ "type": "bridge", "bridge": "cni-side", "capabilities": { "ips": true, "mac": true },
                     "ipam": ipam(&["203.0.113.0/25", "2001:db8:19::/64"], json!([])) }]),
        ),
        ("outside", json!([{ "type": "macvlan", "master": second_card, "ipam": dialled }])),
        (
            "inner",
            json!([{ "type": "ipvlan", "mode": "l3", "master": first_card, "ipam": ipam(&["203.0.113.128/26", "2001:db8:20::/64"], json!([])) }]),
        ),
        (
            "routed",
            json!([{ "type": "ptp", "ipam": ipam(&["198.51.100.0/24", "2001:db8:18::/64"], json!([])) }]),
        ),
        (
            "tagged",
            json!([{ "type": "vlan", "master": second_card, "vlanId": 17, "ipam": ipam(&["203.0.113.192/26"], json!([])) }]),
        ),
    ]
}

/// Interfaces inside the pod, without the loopback.
async fn inside(container: &Container, program: &str) -> Result<BTreeSet<String>, Stop> {
    let text = container.exec(&[program, "cat", "/proc/net/dev"]).await?.success()?;
    let names = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    Ok(names.filter(|name| name != "lo").collect())
}

/// Every default route in the probe's account goes through `interface`.
fn check_default_route(account: &str, interface: &str) -> Result<(), Stop> {
    let account: Value =
        serde_json::from_str(account).map_err(|error| Stop::failed(format!("ifconfig: {error}")))?;
    let routes = account["routes"].as_array().cloned().unwrap_or_default();
    let defaults: Vec<&Value> = routes
        .iter()
        .filter(|route| matches!(route["destination"].as_str(), Some("0.0.0.0/0" | "::/0")))
        .collect();
    check(defaults.len() == 2 && defaults.iter().all(|route| route["interface"] == interface), || {
        format!("the default routes are {defaults:?}, and were to go through {interface}")
    })
}
