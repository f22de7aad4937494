//! The host's side of `bridge`: the bridge itself, its ports, its addresses.

use super::config::BridgeConfig;
use crate::{
    netlink::{link::Link, route::RouteSocket},
    netns::NetNs,
    network::IpNetwork,
    protocol::error::{CniError, Code},
    sysctl,
    veth::{self, random_mac},
};
use rustix::io::Errno;
use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// The reference plugin gives a port this long to come up, in all.
const PORT_DEADLINE: Duration = Duration::from_millis(2550);

/// Makes the bridge, or takes the one there is, and brings it up.
pub(super) fn ensure_bridge(route: &mut RouteSocket, config: &BridgeConfig) -> Result<Link, CniError> {
    let name = &config.bridge;
    let mut found = bridge(route, name)?;
    if found.is_none() {
        match route.add_bridge(name, random_mac()?, config.mtu, config.vlan_filtering()) {
            // Another ADD was faster.
            Err(error) if error.is(Errno::EXIST) => {}
            outcome => outcome.map_err(|e| e.during(format_args!("creating bridge {name:?}")))?,
        }
        found = bridge(route, name)?;
    }
    let link =
        found.ok_or_else(|| CniError::internal(format!("bridge {name:?} vanished while it was set up")))?;
    // The pods' routes are ours to set; a router advertisement from a pod is not to be believed.
    let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
    let during =
        |e: crate::netlink::socket::NetlinkError| e.during(format_args!("bringing bridge {name:?} up"));
    if config.promiscuous && !link.promiscuous {
        route.set_up_promiscuous(link.index).map_err(during)?;
    } else if !link.up {
        route.set_up(link.index, true).map_err(during)?;
    }
    Ok(link)
}

/// The bridge of that name; an error if it is something else.
pub(super) fn bridge(route: &mut RouteSocket, name: &str) -> Result<Option<Link>, CniError> {
    let link = route.link(name).map_err(|e| e.during(format_args!("looking for bridge {name:?}")))?;
    match link {
        Some(link) if link.kind != "bridge" => {
            Err(CniError::internal(format!("{name:?} already exists but is not a bridge")))
        }
        link => Ok(link),
    }
}

/// A veth pair: one end a port of the bridge and up, the other in the pod under its final name. Returns the host's.
pub(super) fn add_port(
    route: &mut RouteSocket,
    bridge: &Link,
    netns: &NetNs,
    pod_name: &str,
    config: &BridgeConfig,
) -> Result<Link, CniError> {
    let link = veth::create(route, Some(bridge.index), netns, pod_name, config.mac, config.mtu)?;
    let outcome = set_up_port(route, bridge, &link, config);
    if let Err(error) = outcome {
        let _ = route.delete_link(link.index);
        return Err(error);
    }
    Ok(link)
}

fn set_up_port(
    route: &mut RouteSocket,
    bridge: &Link,
    port: &Link,
    config: &BridgeConfig,
) -> Result<(), CniError> {
    let name = &port.name;
    if config.vlan_filtering() {
        set_vlans(route, bridge, port, config)?;
    }
    route
        .start_port(port.index, config.hairpin, config.isolated)
        .map_err(|e| e.during(format_args!("bringing port {name:?} up")))
}

fn set_vlans(
    route: &mut RouteSocket,
    bridge: &Link,
    port: &Link,
    config: &BridgeConfig,
) -> Result<(), CniError> {
    const DEFAULT: u16 = 1;
    let mut set = |vlan, member, untagged| {
        route
            .set_port_vlan(port.index, vlan, member, untagged)
            .map_err(|e| e.during(format_args!("setting VLAN {vlan} of port {:?}", port.name)))
    };
    // Without a native VLAN of its own, a trunk port has the kernel's, whatever new ports of this bridge have.
    let native = config.vlan.unwrap_or(DEFAULT);
    let given = bridge.default_vlan.unwrap_or(DEFAULT);
    if !config.preserve_default_vlan && given != native && given != 0 {
        set(given, false, false)?;
    }
    for vlan in &config.trunk {
        set(*vlan, true, false)?;
    }
    set(native, true, true)
}

/// The link that carries gateway addresses: the bridge, or with a VLAN a veth pair from a port in that VLAN.
pub(super) fn gateway_link(
    route: &mut RouteSocket,
    bridge: &Link,
    config: &BridgeConfig,
) -> Result<Option<Link>, CniError> {
    let Some(vlan) = config.vlan else { return Ok(None) };
    let name = format!("{}.{vlan}", bridge.name);
    let look = |route: &mut RouteSocket| {
        route.link(&name).map_err(|e| e.during(format_args!("looking for {name:?}")))
    };
    if let Some(link) = look(route)? {
        return Ok(Some(link));
    }
    let here = NetNs::required(Path::new("/proc/thread-self/ns/net"))?;
    let plain = BridgeConfig {
        hairpin: false,
        isolated: false,
        mac: None,
        trunk: Default::default(),
        ..config.clone()
    };
    add_port(route, bridge, &here, &name, &plain)?;
    let link =
        look(route)?.ok_or_else(|| CniError::internal(format!("{name:?} vanished while it was set up")))?;
    route.set_up(link.index, true).map_err(|e| e.during(format_args!("bringing {name:?} up")))?;
    Ok(Some(link))
}

/// Gives the link a gateway address. Another address in its way is replaced if `force`, and else an error.
pub(super) fn ensure_address(
    route: &mut RouteSocket,
    link: &Link,
    gateway: IpNetwork,
    force: bool,
) -> Result<(), CniError> {
    let name = &link.name;
    let present =
        route.addresses(link.index).map_err(|e| e.during(format_args!("listing addresses of {name:?}")))?;
    let family =
        present.iter().map(|a| a.network).filter(|n| n.address.is_ipv4() == gateway.address.is_ipv4());
    for other in family {
        if other == gateway {
            return Ok(());
        }
        // Several IPv6 networks may live on one bridge, several IPv4 ones may not: the reference's rule.
        let in_the_way =
            other.address.is_ipv4() || other.contains(gateway.address) || gateway.contains(other.address);
        if in_the_way && !force {
            let message = format!("{name:?} already has an IP address different from {gateway}");
            return Err(CniError::internal(message)
                .details(format!("it has {other}; `forceAddress` would replace it")));
        }
        if in_the_way {
            route
                .delete_address(link.index, other)
                .map_err(|e| e.during(format_args!("removing {other} from {name:?}")))?;
        }
    }
    if gateway.address.is_ipv6() {
        let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0");
    }
    match route.add_address(link.index, gateway, false) {
        Err(error) if error.is(Errno::EXIST) => {}
        outcome => outcome.map_err(|e| e.during(format_args!("adding {gateway} to {name:?}")))?,
    }
    // A bridge that we did not make takes the lowest hardware address of its ports, until told otherwise.
    route
        .set_mac(link.index, link.mac)
        .map_err(|e| e.during(format_args!("fixing the hardware address of {name:?}")))
}

/// Makes the machine a router for the family of `gateway`.
pub(super) fn enable_forwarding(gateway: IpNetwork) -> Result<(), CniError> {
    let parameter =
        if gateway.address.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
    sysctl::ensure(parameter, "1")
        .map_err(|e| CniError::new(Code::Io, format!("failed to enable forwarding: {parameter}: {e}")))
}

/// Waits until the port passes frames. Returns it as it is then.
pub(super) fn wait_for_port(route: &mut RouteSocket, port: &Link) -> Result<Link, CniError> {
    let deadline = Instant::now() + PORT_DEADLINE;
    let mut pause = Duration::from_micros(200);
    loop {
        let now = route
            .link_by_index(port.index)
            .map_err(|e| e.during(format_args!("looking at port {:?}", port.name)))?;
        if now.running && now.port.is_some_and(|port| port.enabled) {
            return Ok(now);
        }
        if Instant::now() > deadline {
            return Err(CniError::internal(format!(
                "bridge port in error state: {:?} does not come up",
                port.name
            )));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
