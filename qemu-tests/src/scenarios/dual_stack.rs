//! The node's own addresses.

use crate::guest::identity::NODE_NAME;
use crate::scenario::{Context, Needs, Scenario, Stop, check, check_equal};
use std::{net::IpAddr, time::Duration};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "dual-stack",
    title: "the node takes its name, an IPv4 and a routable IPv6 address",
    requirements: &["ra2.ch.007", "ra2.k8s.010"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.step("wait for addresses of both families");
    let guest = context.guest()?;
    let deadline = guest.pace().deadline(Duration::from_secs(20));
    loop {
        let status = guest.status().await?;
        check_equal("the node's name", &status.name.as_str(), &NODE_NAME)?;
        let addresses: Vec<IpAddr> = status
            .interfaces
            .iter()
            // Pods' bridges have addresses too; the network card has a hardware address of ours.
            .filter(|interface| interface.mac.eq_ignore_ascii_case("52:54:00:ca:17:01"))
            .flat_map(|interface| &interface.addresses)
            .filter_map(|address| address.split('/').next()?.parse().ok())
            .collect();
        let ipv4 = addresses.iter().any(IpAddr::is_ipv4);
        // QEMU's router advertises a site-local prefix (fec0::/64); link-local does not count.
        let ipv6 =
            addresses.iter().any(|address| matches!(address, IpAddr::V6(v6) if !v6.is_unicast_link_local()));
        if ipv4 && ipv6 {
            return Ok(());
        }
        check(deadline.is_open(), || {
            format!("the network card has only {addresses:?}: {:?}", status.interfaces)
        })?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
