//! `sbr`: source based routing. Chained after a plugin that gives the pod an interface, in a pod that has several:
//! what is sent from an address of this one goes by the routes of this one.
//!
//! Each address gets a table of routes of its own and a rule that leads there. The interface's routes move from the
//! main table to that one, so that it is not taken for what other interfaces send.

use crate::{
    interface,
    netlink::{
        link::Link,
        policy::PolicyRule,
        route::{NewRoute, RouteEntry, RouteSocket},
    },
    netns::NetNs,
    network::{IpNetwork, canonical},
    protocol::{
        error::CniError,
        request::Request,
        result::{CniResult, IpConfig},
    },
};
use rustix::{
    fd::AsFd,
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::Deserialize;
use std::net::IpAddr;

/// Where the search for a free table begins.
const FIRST_TABLE: u32 = 100;
const RT_SCOPE_LINK: u8 = 253;
const RT_TABLE_MAIN: u32 = 254;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    table: Option<i64>,
    gateways: Vec<String>,
    add_source_hints: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct SbrConfig {
    /// Only rules, which lead to this table.
    table: Option<u32>,
    /// Instead of the addresses' own gateways, at most one a family.
    gateways: Vec<IpAddr>,
    /// Leave the routes to the networks of the addresses in the main table.
    keep_networks: bool,
}

impl SbrConfig {
    fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        let table = document.table.map(|table| {
            u32::try_from(table).ok().filter(|table| *table > 0).ok_or_else(|| {
                CniError::config(format!("`table` {table} is not the number of a routing table"))
            })
        });
        let mut gateways: Vec<IpAddr> = Vec::new();
        for text in &document.gateways {
            let gateway: IpAddr = text
                .parse()
                .map_err(|_| CniError::config(format!("`gateways`: {text:?} is not an address")))?;
            let gateway = canonical(gateway);
            if gateways.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                return Err(CniError::config("`gateways` has more than one address of a family"));
            }
            gateways.push(gateway);
        }
        Ok(Self { table: table.transpose()?, gateways, keep_networks: document.add_source_hints })
    }

    fn has_gateway_like(&self, address: IpAddr) -> bool {
        self.gateways.iter().any(|gateway| gateway.is_ipv4() == address.is_ipv4())
    }

    fn gateway(&self, ip: &IpConfig) -> Option<IpAddr> {
        let same = |gateway: &&IpAddr| gateway.is_ipv4() == ip.address.address.is_ipv4();
        self.gateways.iter().find(same).copied().or(ip.gateway)
    }
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    SbrConfig::load(request).map(drop)
}

/// Addresses of the interface, in order.
fn addresses(request: &Request, result: &CniResult) -> Result<Vec<IpConfig>, CniError> {
    let ifname = &request.attachment.ifname;
    if result.ips.is_empty() {
        return Err(CniError::config(format!("No IP addresses supplied on interface: {ifname}")));
    }
    let ours = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|index| result.interfaces.get(index));
        interface.is_none_or(|interface| interface.name == *ifname)
    };
    Ok(result.ips.iter().filter(ours).cloned().collect())
}

/// Makes rules and moves routes; passes the previous result on.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = SbrConfig::load(request)?;
    let previous = request
        .previous_result()?
        .ok_or_else(|| CniError::config("This plugin must be called as chained plugin"))?;
    let ips = addresses(request, &previous)?;
    in_turn(request, |route| {
        let outcome = match config.table {
            Some(table) => ips.iter().try_for_each(|ip| add_rule(route, ip, table)),
            None => divert(route, request, &config, &ips),
        };
        outcome.inspect_err(|_| {
            let _ = remove_rules(
                route,
                &ips.iter().map(|ip| ip.address.address).collect::<Vec<_>>(),
                config.table,
            );
        })
    })?;
    Ok(previous)
}

/// Runs `work` in the pod while no other run of this plugin is there: tables are searched, then taken.
fn in_turn<T>(
    request: &Request,
    work: impl FnOnce(&mut RouteSocket) -> Result<T, CniError>,
) -> Result<T, CniError> {
    let netns = NetNs::required(request.netns()?)?;
    rustix::io::retry_on_intr(|| flock(netns.as_fd(), FlockOperation::LockExclusive))
        .map_err(|e| CniError::io("locking", netns.path(), &e.into()))?;
    netns.enter(|| work(&mut interface::open()?))
}

fn add_rule(route: &mut RouteSocket, ip: &IpConfig, table: u32) -> Result<(), CniError> {
    let address = ip.address.address;
    match route.add_rule(&PolicyRule::from_address(address, table)) {
        Err(error) if error.is(Errno::EXIST) => Ok(()),
        outcome => {
            outcome.map_err(|e| e.during(format_args!("adding a rule from {address} to table {table}")))
        }
    }
}

fn divert(
    route: &mut RouteSocket,
    request: &Request,
    config: &SbrConfig,
    ips: &[IpConfig],
) -> Result<(), CniError> {
    let rules = route.rules().map_err(|e| e.during("listing rules"))?;
    let routes = route.routes().map_err(|e| e.during("listing routes"))?;
    let link = interface::find(route, &request.attachment.ifname)?;
    let own: Vec<&RouteEntry> = routes.iter().filter(|r| r.is_main() && r.link == Some(link.index)).collect();
    let free = |from: u32| {
        let taken = |t: &u32| rules.iter().any(|r| r.table == *t) || routes.iter().any(|r| r.table == *t);
        (from..).find(|table| !taken(table)).unwrap_or(from)
    };
    let mut table = free(FIRST_TABLE);
    for ip in ips {
        add_rule(route, ip, table)?;
        if let Some(gateway) = config.gateway(ip) {
            add_default(route, &link, ip, gateway, table)?;
        }
        let inside = |address: Option<IpAddr>| address.is_some_and(|address| ip.address.contains(address));
        // A gateway of the configuration is not to be undone by the default route that there was.
        let replaced = |r: &RouteEntry| r.dst.prefix == 0 && config.has_gateway_like(r.dst.address);
        let copied = own.iter().filter(|r| {
            (inside(r.source) || inside(r.gateway) || (r.source.is_none() && r.gateway.is_none()))
                && !replaced(r)
        });
        for entry in copied {
            route
                .put_route(entry, table)
                .map_err(|e| e.during(format_args!("copying route {} to table {table}", entry.dst)))?;
        }
        table = free(table + 1);
    }
    if config.keep_networks {
        for ip in ips {
            hint(route, &link, ip)?;
        }
    }
    for entry in own.iter().filter(|r| !(config.keep_networks && is_network(r, ips))) {
        match route.delete_route(entry) {
            // Went with another.
            Err(error) if error.is(Errno::SRCH) => {}
            outcome => outcome
                .map_err(|e| e.during(format_args!("removing route {} from the main table", entry.dst)))?,
        }
    }
    Ok(())
}

/// The route to the network of one of the addresses.
fn is_network(route: &RouteEntry, ips: &[IpConfig]) -> bool {
    route.gateway.is_none() && ips.iter().any(|ip| ip.address.network() == route.dst)
}

fn add_default(
    route: &mut RouteSocket,
    link: &Link,
    ip: &IpConfig,
    gateway: IpAddr,
    table: u32,
) -> Result<(), CniError> {
    let new = NewRoute {
        dst: IpNetwork::everything(ip.address.address),
        gateway: Some(gateway),
        link: link.index,
        table: Some(table),
        priority: None,
        scope: None,
        source: None,
        mtu: None,
        advmss: None,
    };
    match route.add_route(&new) {
        Err(error) if error.is(Errno::EXIST) => Ok(()),
        outcome => outcome
            .map_err(|e| e.during(format_args!("Failed to add default route to {gateway} in table {table}"))),
    }
}

/// The route to the network of an address, in the main table, with that address as source.
fn hint(route: &mut RouteSocket, link: &Link, ip: &IpConfig) -> Result<(), CniError> {
    const RTPROT_BOOT: u8 = 3;
    let entry = RouteEntry {
        dst: ip.address.network(),
        gateway: None,
        link: Some(link.index),
        table: RT_TABLE_MAIN,
        priority: 0,
        scope: if ip.address.address.is_ipv4() { RT_SCOPE_LINK } else { 0 },
        protocol: RTPROT_BOOT,
        source: Some(ip.address.address),
        metrics: None,
    };
    route
        .put_route(&entry, RT_TABLE_MAIN)
        .map_err(|e| e.during(format_args!("adding route {} src {}", entry.dst, ip.address.address)))
}

/// Removes the rules that lead from `addresses` to `table`, or to any.
fn remove_rules(route: &mut RouteSocket, addresses: &[IpAddr], table: Option<u32>) -> Result<(), CniError> {
    let rules = route.rules().map_err(|e| e.during("listing rules"))?;
    for rule in rules {
        let ours = rule.source.is_some_and(|source| addresses.contains(&source.address));
        if !ours || table.is_some_and(|table| table != rule.table) {
            continue;
        }
        match route.delete_rule(&rule) {
            Err(error) if error.is(Errno::NOENT) => {}
            outcome => outcome.map_err(|e| e.during("removing a rule"))?,
        }
    }
    Ok(())
}

/// Removes the rules of the interface's addresses. Its routes go with it.
pub fn del(request: &Request) -> Result<(), CniError> {
    // A table that makes no sense was refused by ADD.
    let table = request.key::<Option<i64>>("table")?.and_then(|number| u32::try_from(number).ok());
    let Some(netns) = NetNs::if_present(request.netns.as_deref())? else { return Ok(()) };
    netns.enter(|| {
        let mut route = interface::open()?;
        let ifname = &request.attachment.ifname;
        let link = route.link(ifname).map_err(|e| e.during(format_args!("looking for {ifname:?}")))?;
        let Some(link) = link else { return Ok(()) };
        let addresses = route
            .addresses(link.index)
            .map_err(|e| e.during(format_args!("listing addresses of {ifname:?}")))?;
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.network.address).collect();
        remove_rules(&mut route, &addresses, table)
    })
}

/// Every address has its rule, and the table it leads to a default route through the gateway.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = SbrConfig::load(request)?;
    let previous =
        request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    let ips = addresses(request, &previous)?;
    NetNs::required(request.netns()?)?.enter(|| {
        let mut route = interface::open()?;
        let rules = route.rules().map_err(|e| e.during("listing rules"))?;
        let routes = route.routes().map_err(|e| e.during("listing routes"))?;
        let link = interface::find(&mut route, &request.attachment.ifname)?;
        for ip in &ips {
            let address = ip.address.address;
            let wanted = PolicyRule::from_address(address, 0).source;
            let rule = rules
                .iter()
                .find(|rule| rule.source == wanted && config.table.is_none_or(|table| table == rule.table));
            let rule = rule.ok_or_else(|| {
                CniError::internal(format!("no rule leads from {address} to a table of routes"))
            })?;
            let Some(gateway) = config.gateway(ip).filter(|_| config.table.is_none()) else { continue };
            let there = routes.iter().any(|r| {
                r.table == rule.table
                    && r.dst == IpNetwork::everything(address)
                    && r.gateway == Some(gateway)
                    && r.link == Some(link.index)
            });
            if !there {
                return Err(CniError::internal(format!(
                    "table {} has no default route through {gateway} for {address}",
                    rule.table
                )));
            }
        }
        Ok(())
    })
}

/// Rules go with the pod's namespace: nothing is left.
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
    use crate::protocol::request::Environment;
    use serde_json::{Value, json};

    fn load(settings: Value) -> Result<SbrConfig, CniError> {
        let mut config = json!({"cniVersion": "1.1.0", "name": "n", "type": "sbr"});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let environment =
            Environment { command: "STATUS".into(), path: "/".into(), ..Environment::default() };
        SbrConfig::load(&Request::parse(&environment, config.to_string().into_bytes()).unwrap())
    }

    #[test]
    fn gateways_are_one_a_family_and_tables_numbers() {
        let config = load(json!({"table": 7, "gateways": ["10.0.0.1", "fd00::1"]})).unwrap();
        assert_eq!((config.table, config.gateways.len()), (Some(7), 2));
        for wrong in [
            json!({"gateways": ["10.0.0.1", "10.0.0.2"]}),
            json!({"gateways": ["gw"]}),
            json!({"table": -1}),
            json!({"table": 0}),
            json!({"table": 5_000_000_000i64}),
            json!({"table": "main"}),
        ] {
            assert_eq!(load(wrong.clone()).unwrap_err().code.number(), 7, "{wrong}");
        }
    }
}
