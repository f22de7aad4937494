//! The pod's side of a plugin that gives a pod an interface: what happens, and is checked, inside its network
//! namespace. Shared by all plugins that make one.

use crate::{
    announce::Announcer,
    netlink::{
        link::Link,
        route::{NewRoute, RouteSocket},
    },
    netns::NetNs,
    protocol::{
        error::{CniError, Code},
        result::{CniResult, IpConfig},
    },
    sysctl,
};
use rustix::io::Errno;
use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

const DAD_DEADLINE: Duration = Duration::from_secs(5);

/// Duplicate address detection (RFC 4862, 5.4) for the pod's IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detection {
    /// None for those that it is given: on its wire there is nobody but the host.
    Unneeded,
    /// None at all: on its wire are those whom the same allocator serves.
    Off,
    /// Also where the kernel was told to do without.
    On,
    /// If the kernel was not told to do without (`accept_dad`).
    AsTheKernelHasIt,
}

impl Detection {
    /// Whether the addresses that are given to the interface are looked for on its wire.
    fn happens(self) -> bool {
        matches!(self, Self::On | Self::AsTheKernelHasIt)
    }
}

/// The pod's interface, found and brought up.
pub(crate) struct PodInterface {
    pub(crate) link: Link,
    route: RouteSocket,
}

impl PodInterface {
    /// Tells the neighbours that the addresses are here now: the kernel does when the hardware address is set, also
    /// to what it is, with the parameters that [`prepare`] sets. Where it cannot be set, the frames are sent from
    /// here; that is the slower way, because closing a packet socket waits for a grace period of RCU.
    pub(crate) fn announce(&mut self, netns: &NetNs, ips: &[IpConfig]) {
        if self.route.set_mac(self.link.index, self.link.mac).is_ok() {
            return;
        }
        let link = &self.link;
        let Ok(announcer) = netns.enter(|| {
            Announcer::new(link.index, link.mac).map_err(|e| CniError::new(Code::Io, e.to_string()))
        }) else {
            return;
        };
        for ip in ips {
            // A neighbour that misses this finds out by itself, later.
            let _ = announcer.announce(ip.address.address);
        }
    }
}

/// Finds the interface; layer 2 brings it up unless told not to.
pub(crate) fn bring_up(netns: &NetNs, name: &str, leave_down: bool) -> Result<PodInterface, CniError> {
    netns.enter(|| {
        let mut route = open()?;
        let link = find(&mut route, name)?;
        if !leave_down {
            route.set_up(link.index, true).map_err(|e| e.during(format_args!("bringing {name:?} up")))?;
        }
        Ok(PodInterface { link, route })
    })
}

/// Gives the interface its addresses and routes.
pub(crate) fn configure(
    netns: &NetNs,
    name: &str,
    result: &CniResult,
    detection: Detection,
) -> Result<PodInterface, CniError> {
    netns.enter(|| {
        let mut route = open()?;
        let link = find(&mut route, name)?;
        prepare(name, &result.ips, detection)?;
        for ip in &result.ips {
            route
                .add_address(link.index, ip.address, detection.happens())
                .map_err(|e| e.during(format_args!("adding {} to {name:?}", ip.address)))?;
        }
        route.set_up(link.index, true).map_err(|e| e.during(format_args!("bringing {name:?} up")))?;
        if detection.happens() && result.ips.iter().any(|ip| ip.address.address.is_ipv6()) {
            settle(&mut route, &link)?;
        }
        for wanted in new_routes(result, link.index) {
            match route.add_route(&wanted) {
                Err(error) if error.is(Errno::EXIST) => {}
                outcome => outcome.map_err(|e| {
                    let via = wanted.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                    e.during(format_args!("adding route {}{via} dev {name}", wanted.dst))
                })?,
            }
        }
        Ok(PodInterface { link, route })
    })
}

/// Routes as the kernel is told: without a next hop of their own they go by the first gateway of their family.
fn new_routes(result: &CniResult, link: u32) -> Vec<NewRoute> {
    let gateway = |ipv4: bool| result.ips.iter().filter_map(|ip| ip.gateway).find(|g| g.is_ipv4() == ipv4);
    result
        .routes
        .iter()
        .map(|route| NewRoute {
            dst: route.dst,
            gateway: route.gw.or_else(|| gateway(route.dst.address.is_ipv4())),
            link,
            table: route.table,
            priority: route.priority,
            scope: route.scope,
            source: None,
            mtu: route.mtu,
            advmss: route.advmss,
        })
        .collect()
}

fn prepare(name: &str, ips: &[IpConfig], detection: Detection) -> Result<(), CniError> {
    let set =
        |parameter: &str, value| sysctl::ensure(&format!("net/{}", parameter.replace('*', name)), value);
    // That neighbours hear of later changes, too. A kernel without the parameter does without.
    let _ = set("ipv4/conf/*/arp_notify", "1");
    let _ = match detection {
        Detection::Off => set("ipv6/conf/*/accept_dad", "0"),
        Detection::On => set("ipv6/conf/*/enhanced_dad", "1").and(set("ipv6/conf/*/accept_dad", "1")),
        Detection::Unneeded | Detection::AsTheKernelHasIt => Ok(()),
    };
    if !ips.iter().any(|ip| ip.address.address.is_ipv6()) {
        return Ok(());
    }
    for interface in ["lo", name] {
        let parameter = format!("net/ipv6/conf/{interface}/disable_ipv6");
        sysctl::ensure(&parameter, "0").map_err(|e| {
            CniError::new(
                Code::Io,
                format!("failed to enable IPv6 for interface {interface:?} ({parameter}): {e}"),
            )
        })?;
    }
    let _ = set("ipv6/conf/*/keep_addr_on_down", "1");
    let _ = set("ipv6/conf/*/ndisc_notify", "1");
    Ok(())
}

/// Waits for duplicate address detection. On a link without carrier there is nobody to ask, so nothing to wait for in
/// the end: the kernel looks when there is one.
fn settle(route: &mut RouteSocket, link: &Link) -> Result<(), CniError> {
    // That of a tap comes with the program that opens it, which runs once this is done.
    if link.kind == "tun" {
        return Ok(());
    }
    let deadline = Instant::now() + DAD_DEADLINE;
    loop {
        let addresses = route
            .addresses(link.index)
            .map_err(|e| e.during(format_args!("listing addresses of {:?}", link.name)))?;
        if let Some(duplicate) = addresses.iter().find(|a| a.duplicate) {
            return Err(CniError::internal(format!(
                "failed to settle addresses for {:?}: somebody else has {}",
                link.name, duplicate.network
            )));
        }
        if !addresses.iter().any(|a| a.tentative) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let now = route.link_by_index(link.index);
            if now.is_ok_and(|now| !now.running) {
                return Ok(());
            }
            return Err(CniError::internal(format!(
                "failed to settle addresses for {:?}: still tentative after {} s",
                link.name,
                DAD_DEADLINE.as_secs()
            )));
        }
        sleep(Duration::from_millis(10));
    }
}

/// Removes the interface, if it is there.
pub(crate) fn remove(netns: &NetNs, name: &str) -> Result<(), CniError> {
    netns.enter(|| {
        let mut route = open()?;
        let Some(link) = route.link(name).map_err(|e| e.during(format_args!("looking for {name:?}")))? else {
            return Ok(());
        };
        match route.part_with_link(link.index) {
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            outcome => outcome.map_err(|e| e.during(format_args!("removing {name:?}"))),
        }
    })
}

/// The interface has the addresses and routes of `result`. Returns it.
pub(crate) fn check(netns: &NetNs, name: &str, result: &CniResult) -> Result<Link, CniError> {
    netns.enter(|| {
        let mut route = open()?;
        let link = find(&mut route, name)?;
        let addresses = route
            .addresses(link.index)
            .map_err(|e| e.during(format_args!("listing addresses of {name:?}")))?;
        for ip in &result.ips {
            if !addresses.iter().any(|a| a.network == ip.address) {
                return Err(CniError::internal(format!(
                    "Failed to match addr {} on interface {name}",
                    ip.address
                )));
            }
        }
        if !result.routes.is_empty() {
            let routes = route.routes().map_err(|e| e.during("listing routes"))?;
            for wanted in new_routes(result, link.index) {
                check_route(&wanted, &routes)?;
            }
        }
        Ok(link)
    })
}

fn check_route(wanted: &NewRoute, routes: &[crate::netlink::route::RouteEntry]) -> Result<(), CniError> {
    const MAIN: u32 = 254;
    let table = wanted.table.filter(|t| *t != 0).unwrap_or(MAIN);
    let dst = wanted.dst.network();
    let same = |r: &&crate::netlink::route::RouteEntry| r.dst == dst && r.table == table;
    let found: Vec<_> = routes.iter().filter(same).collect();
    let via = |gateway: Option<IpAddr>| gateway.map_or("no gateway".to_owned(), |g| format!("gateway {g}"));
    match found.first() {
        None => Err(CniError::internal(format!("Expected Route {dst} not found"))),
        Some(_) if found.iter().any(|r| r.gateway == wanted.gateway && r.link == Some(wanted.link)) => Ok(()),
        Some(other) => Err(CniError::internal(format!(
            "Expected Route {dst} through {} is through {}",
            via(wanted.gateway),
            via(other.gateway)
        ))),
    }
}

fn open() -> Result<RouteSocket, CniError> {
    RouteSocket::open().map_err(|e| e.during("opening rtnetlink in the pod"))
}

fn find(route: &mut RouteSocket, name: &str) -> Result<Link, CniError> {
    route
        .link(name)
        .map_err(|e| e.during(format_args!("looking for {name:?} in the pod")))?
        .ok_or_else(|| CniError::internal(format!("Interface name {name} not found in the pod")))
}
