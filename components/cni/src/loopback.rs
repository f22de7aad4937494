//! `loopback`: brings `lo` up in the pod.

use crate::{
    netlink::{link::Link, route::RouteSocket},
    netns::NetNs,
    protocol::{
        error::CniError,
        request::Request,
        result::{CniResult, Interface, IpConfig},
    },
};

const LO: &str = "lo";

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    request.previous_result().map(drop)
}

/// Brings `lo` up. The result is `prevResult`, if there was one, or `lo` and its addresses.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let previous = request.previous_result()?;
    let path = request.netns()?;
    let addresses = NetNs::required(path)?.enter(|| {
        let mut route = open()?;
        let lo = link(&mut route)?;
        route.set_up(lo.index, true).map_err(|e| e.during("bringing lo up"))?;
        route.addresses(lo.index).map_err(|e| e.during("listing addresses of lo"))
    })?;
    if let Some(foreign) = addresses.iter().find(|a| !a.network.address.is_loopback()) {
        let message =
            format!("loopback interface found with non-loopback address {}", foreign.network.address);
        return Err(CniError::internal(message));
    }
    if let Some(previous) = previous {
        return Ok(previous);
    }
    // The first of each family, IPv4 first.
    let first = |ipv4: bool| addresses.iter().find(|a| a.network.address.is_ipv4() == ipv4);
    let ip = |network| IpConfig { version: None, interface: Some(0), address: network, gateway: None };
    Ok(CniResult {
        interfaces: vec![Interface {
            name: LO.to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            sandbox: path.display().to_string(),
            ..Interface::default()
        }],
        ips: [first(true), first(false)].into_iter().flatten().map(|a| ip(a.network)).collect(),
        ..CniResult::default()
    })
}

/// Brings `lo` down, if its namespace is still there.
pub fn del(request: &Request) -> Result<(), CniError> {
    let Some(netns) = NetNs::if_present(request.netns.as_deref())? else { return Ok(()) };
    netns.enter(|| {
        let mut route = open()?;
        let lo = link(&mut route)?;
        route.set_up(lo.index, false).map_err(|e| e.during("bringing lo down"))
    })
}

/// `lo` is up.
pub fn check(request: &Request) -> Result<(), CniError> {
    NetNs::required(request.netns()?)?.enter(|| {
        if link(&mut open()?)?.up { Ok(()) } else { Err(CniError::internal("loopback interface is down")) }
    })
}

fn open() -> Result<RouteSocket, CniError> {
    RouteSocket::open().map_err(|e| e.during("opening rtnetlink"))
}

fn link(route: &mut RouteSocket) -> Result<Link, CniError> {
    route
        .link(LO)
        .map_err(|e| e.during("looking for lo"))?
        .ok_or_else(|| CniError::internal("there is no lo"))
}
