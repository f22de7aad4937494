//! `vrf`: makes the pod's interface part of a routing domain of its own. Chained after the plugin that makes it.
//!
//! The domain is a link in the pod, made with its first interface and removed with its last. Being made part of it
//! costs an interface its routes, and sometimes its IPv6 addresses: they are put back, into the domain's table.

use crate::{
    interface,
    netlink::{
        device::{Kind, NewLink},
        link::Link,
        route::{RouteEntry, RouteSocket},
    },
    netns::NetNs,
    protocol::{error::CniError, request::Request, result::CniResult},
};
use rustix::io::Errno;
use serde::Deserialize;

const RT_SCOPE_UNIVERSE: u8 = 0;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(rename = "vrfname")]
    name: String,
    /// 0: one that no other domain of the pod has.
    table: u32,
}

fn load(request: &Request) -> Result<Document, CniError> {
    let document: Document = request.config()?;
    check_name(&document.name)?;
    Ok(document)
}

fn check_name(name: &str) -> Result<(), CniError> {
    if name.is_empty() {
        return Err(CniError::config("configuration is expected to have a valid vrf name: `vrfname`"));
    }
    if name.len() > 15 || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return Err(CniError::config(format!(
            "`vrfname` {name:?} is not an interface name of at most 15 characters"
        )));
    }
    Ok(())
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    load(request).map(drop)
}

/// The domain of that name; an error if it is something else.
fn find(route: &mut RouteSocket, name: &str) -> Result<Option<Link>, CniError> {
    let link = route.link(name).map_err(|e| e.during(format_args!("looking for {name:?}")))?;
    match link {
        Some(link) if link.kind != "vrf" => Err(CniError::internal(format!("{name:?} is not a VRF"))),
        link => Ok(link),
    }
}

fn create(route: &mut RouteSocket, config: &Document) -> Result<Link, CniError> {
    let links = route.links().map_err(|e| e.during("listing links"))?;
    let table = free_table(config.table, &links);
    let name = &config.name;
    let new = NewLink { name, kind: Kind::Vrf(table), parent: None, netns: None, mtu: None, mac: None };
    route.add_link(&new).map_err(|e| e.during(format_args!("could not add VRF {name}")))?;
    let link = interface::find(route, name)?;
    route.set_up(link.index, true).map_err(|e| e.during(format_args!("bringing {name:?} up")))?;
    Ok(link)
}

/// The table asked for, or the first that is no domain's, nor the kernel's own.
fn free_table(wanted: u32, links: &[Link]) -> u32 {
    const DEFAULT: u32 = 253;
    const LOCAL: u32 = 255;
    let free = |table: &u32| {
        !(DEFAULT..=LOCAL).contains(table) && !links.iter().any(|link| link.vrf_table() == Some(*table))
    };
    if wanted > 0 { wanted } else { (1..).find(free).unwrap_or(1) }
}

/// Makes the interface part of the domain; passes the previous result on.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = load(request)?;
    let previous = request
        .previous_result()?
        .ok_or_else(|| CniError::config("missing prevResult from earlier plugin"))?;
    NetNs::required(request.netns()?)?.enter(|| {
        let mut route = interface::open()?;
        let link = interface::find(&mut route, &request.attachment.ifname)?;
        if let Some(master) = link.master {
            let name = route.link_by_index(master).map(|link| link.name).unwrap_or_default();
            return Err(CniError::internal(format!(
                "interface {} has already a master set: {name}",
                link.name
            )));
        }
        let found = find(&mut route, &config.name)?;
        let made = found.is_none();
        let domain = match found {
            Some(domain) => domain,
            None => create(&mut route, &config)?,
        };
        let joined = join(&mut route, &config, &domain, &link);
        if joined.is_err() {
            let _ = route.set_master(link.index, 0);
            if made {
                let _ = route.delete_link(domain.index);
            }
        }
        joined
    })?;
    Ok(previous)
}

fn join(route: &mut RouteSocket, config: &Document, domain: &Link, link: &Link) -> Result<(), CniError> {
    let name = &link.name;
    let table = domain.vrf_table().unwrap_or_default();
    if config.table != 0 && table != config.table {
        return Err(CniError::internal(format!(
            "VRF {} already exist with different routing table {table}",
            domain.name
        )));
    }
    let listing = |what: &str| format!("listing {what} of {name:?}");
    let addresses = route.addresses(link.index).map_err(|e| e.during(listing("addresses")))?;
    let routes: Vec<RouteEntry> = route
        .routes()
        .map_err(|e| e.during(listing("routes")))?
        .into_iter()
        .filter(|r| r.is_main() && r.link == Some(link.index) && r.scope == RT_SCOPE_UNIVERSE)
        .collect();
    route
        .set_master(link.index, domain.index)
        .map_err(|e| e.during(format_args!("could not set vrf {} as master of {name}", domain.name)))?;
    let left = route.addresses(link.index).map_err(|e| e.during(listing("addresses")))?;
    for address in addresses.iter().map(|a| a.network) {
        if left.iter().any(|l| l.network == address) || is_link_local(address.address) {
            continue;
        }
        match route.add_address(link.index, address, false) {
            Err(error) if error.is(Errno::EXIST) => {}
            outcome => {
                outcome
                    .map_err(|e| e.during(format_args!("could not restore address {address} to {name}")))?;
            }
        }
    }
    // Those to networks come back with their addresses, and the others need them.
    let (near, far): (Vec<_>, Vec<_>) = routes.iter().partition(|r| r.gateway.is_none());
    for entry in near.into_iter().chain(far) {
        route
            .put_route(entry, table)
            .map_err(|e| e.during(format_args!("could not add route {} to table {table}", entry.dst)))?;
    }
    Ok(())
}

fn is_link_local(address: std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Takes the interface out of the domain, and removes the domain if it was the last.
pub fn del(request: &Request) -> Result<(), CniError> {
    let name: String = request.key("vrfname")?;
    // A name that is none was refused by ADD.
    if check_name(&name).is_err() {
        return Ok(());
    }
    let Some(netns) = NetNs::if_present(request.netns.as_deref())? else { return Ok(()) };
    netns.enter(|| {
        let mut route = interface::open()?;
        let Some(domain) = find(&mut route, &name)? else { return Ok(()) };
        let ifname = &request.attachment.ifname;
        let link = route.link(ifname).map_err(|e| e.during(format_args!("looking for {ifname:?}")))?;
        if let Some(link) = link.filter(|link| link.master == Some(domain.index)) {
            route
                .set_master(link.index, 0)
                .map_err(|e| e.during(format_args!("taking {ifname:?} out of {}", domain.name)))?;
        }
        let links = route.links().map_err(|e| e.during("listing links"))?;
        if links.iter().any(|link| link.master == Some(domain.index)) {
            return Ok(());
        }
        match route.delete_link(domain.index) {
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            outcome => outcome.map_err(|e| e.during(format_args!("removing {}", domain.name))),
        }
    })
}

/// The interface is part of the domain, which has the table asked for.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = load(request)?;
    request.previous_result()?.ok_or_else(|| CniError::config("missing prevResult from earlier plugin"))?;
    let ifname = &request.attachment.ifname;
    NetNs::required(request.netns()?)?.enter(|| {
        let mut route = interface::open()?;
        let domain = find(&mut route, &config.name)?
            .ok_or_else(|| CniError::internal(format!("VRF {} not found", config.name)))?;
        let link = interface::find(&mut route, ifname)?;
        if link.master != Some(domain.index) {
            return Err(CniError::internal(format!(
                "failed to find {ifname} associated to vrf {}",
                config.name
            )));
        }
        if config.table != 0 && domain.vrf_table() != Some(config.table) {
            return Err(CniError::internal(format!(
                "VRF {} has table {}, not {}",
                config.name,
                domain.vrf_table().unwrap_or_default(),
                config.table
            )));
        }
        Ok(())
    })
}

/// Domains go with the pod's namespace: nothing is left.
pub fn gc(request: &Request) -> Result<(), CniError> {
    read(request)
}

/// The configuration is good.
pub fn status(request: &Request) -> Result<(), CniError> {
    read(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_the_one_asked_for_or_nobodys() {
        let domain = |table| Link { details: Some(Kind::Vrf(table)), ..Link::default() };
        assert_eq!(free_table(7, &[domain(7)]), 7);
        assert_eq!(free_table(0, &[domain(1), domain(3)]), 2);
        let many: Vec<Link> = (1..=252).map(domain).collect();
        assert_eq!(free_table(0, &many), 256);
    }
}
