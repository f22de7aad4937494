//! `ptp`: a veth pair between pod and host, routed, without a bridge.
//!
//! The pod sees nobody on its wire but the gateway: the route to its network that came with its address is replaced
//! by one through the gateway. The host has the gateway's address on its end and a route to each of the pod's.

use crate::{
    interface::{self, Shared},
    masquerade,
    netlink::{
        link::Link,
        route::{NewRoute, RouteSocket},
    },
    netns::NetNs,
    network::{IpNetwork, bits},
    pod::{self, Detection},
    protocol::{
        error::{CniError, Code},
        request::{Command, Request},
        result::{CniResult, Interface},
    },
    sysctl, veth,
};
use rustix::io::Errno;
use serde::Deserialize;
use std::net::IpAddr;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    ip_masq: bool,
    ip_masq_backend: String,
    mtu: i64,
}

#[derive(Debug)]
struct PtpConfig {
    shared: Shared,
    masquerade: bool,
    mtu: Option<u32>,
}

impl PtpConfig {
    fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        masquerade::check_backend(&document.ip_masq_backend)?;
        let mtu = interface::mtu(document.mtu)?;
        Ok(Self { shared: request.config()?, masquerade: document.ip_masq, mtu })
    }
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    PtpConfig::load(request).map(drop)
}

/// Attaches the pod; on failure all that was made is undone.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = PtpConfig::load(request)?;
    let ipam = config.shared.ipam(request)?;
    let ipam = ipam.ok_or_else(|| CniError::config("`ipam` is missing: this plugin needs one"))?;
    let netns = NetNs::required(request.netns()?)?;
    let mut result = ipam.add(request)?;
    let outcome = attach(request, &config, &netns, &mut result);
    if let Err(error) = outcome {
        let _ = masquerade::remove(request);
        if let Err(failure) = ipam.run(Command::Del, request) {
            eprintln!("ptp: undoing a failed ADD: {failure}");
        }
        return Err(error);
    }
    Ok(result)
}

fn attach(
    request: &Request,
    config: &PtpConfig,
    netns: &NetNs,
    result: &mut CniResult,
) -> Result<(), CniError> {
    if result.ips.is_empty() {
        return Err(CniError::internal("IPAM plugin returned missing IP config"));
    }
    if let Some(ip) = result.ips.iter().find(|ip| ip.gateway.is_none()) {
        return Err(CniError::config(format!(
            "ptp needs a gateway for each address, and {} has none",
            ip.address
        )));
    }
    for parameter in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let ipv4 = parameter.starts_with("net/ipv4");
        if result.ips.iter().any(|ip| ip.address.address.is_ipv4() == ipv4) {
            sysctl::ensure(parameter, "1").map_err(|e| {
                CniError::new(Code::Io, format!("could not enable IP forwarding: {parameter}: {e}"))
            })?;
        }
    }
    for ip in &mut result.ips {
        ip.interface = Some(1);
    }
    let mut route = interface::open()?;
    let host = veth::create(&mut route, None, netns, &request.attachment.ifname, None, config.mtu)?;
    let outcome = connect(request, config, netns, &mut route, &host, result);
    if outcome.is_err() {
        let _ = route.delete_link(host.index);
    }
    outcome
}

fn connect(
    request: &Request,
    config: &PtpConfig,
    netns: &NetNs,
    route: &mut RouteSocket,
    host: &Link,
    result: &mut CniResult,
) -> Result<(), CniError> {
    let name = &host.name;
    route.set_up(host.index, true).map_err(|e| e.during(format_args!("bringing {name:?} up")))?;
    let mut pod = pod::configure(netns, &request.attachment.ifname, result, Detection::Unneeded)?;
    netns.enter(|| {
        let mut route = interface::open()?;
        for (network, gateway, address) in triples(result) {
            reroute(&mut route, &pod.link, network, gateway, address)?;
        }
        Ok(())
    })?;
    for (_, gateway, address) in triples(result) {
        if gateway.is_ipv6() {
            let _ = sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0");
        }
        route
            .add_address(host.index, single(gateway), false)
            .map_err(|e| e.during(format_args!("failed to add IP addr ({gateway}) to veth {name:?}")))?;
        const RT_SCOPE_HOST: u8 = 254;
        let scope = address.is_ipv4().then_some(RT_SCOPE_HOST);
        match route.add_route(&NewRoute { scope, ..to(single(address), host.index) }) {
            Err(error) if error.is(Errno::EXIST) => {}
            outcome => {
                outcome.map_err(|e| e.during(format_args!("failed to add route {address} dev {name:?}")))?;
            }
        }
    }
    if config.masquerade {
        masquerade::add(request, result)?;
    }
    pod.announce(netns, &result.ips);
    let sandbox = netns.path().display().to_string();
    let shown = |link: &Link| Interface {
        name: link.name.clone(),
        mac: link.mac.to_string(),
        ..Interface::default()
    };
    result.interfaces = vec![shown(host), Interface { sandbox, ..shown(&pod.link) }];
    if !config.shared.dns().is_empty() {
        result.dns = config.shared.dns().clone();
    }
    Ok(())
}

/// Network, gateway and address of each family's addresses.
fn triples(result: &CniResult) -> Vec<(IpNetwork, IpAddr, IpAddr)> {
    let one = |ip: &crate::protocol::result::IpConfig| {
        Some((ip.address.network(), ip.gateway?, ip.address.address))
    };
    result.ips.iter().filter_map(one).collect()
}

/// In the pod: only the gateway is on the wire, all else of the network is behind it.
fn reroute(
    route: &mut RouteSocket,
    link: &Link,
    network: IpNetwork,
    gateway: IpAddr,
    address: IpAddr,
) -> Result<(), CniError> {
    let failed = |what: &str, dst: IpNetwork| format!("failed to {what} route {dst} in the pod");
    match route.delete_link_route(network, link.index) {
        // A network of one address has no route of its own.
        Err(error) if error.is(Errno::SRCH) => {}
        outcome => outcome.map_err(|e| e.during(failed("delete", network)))?,
    }
    let source = Some(address);
    let near = NewRoute { source, ..to(single(gateway), link.index) };
    let far = NewRoute { source, gateway: Some(gateway), ..to(network, link.index) };
    for new in [near, far] {
        match route.add_route(&new) {
            Err(error) if error.is(Errno::EXIST) => {}
            outcome => outcome.map_err(|e| e.during(failed("add", new.dst)))?,
        }
    }
    Ok(())
}

fn single(address: IpAddr) -> IpNetwork {
    IpNetwork { address, prefix: bits(address) }
}

fn to(dst: IpNetwork, link: u32) -> NewRoute {
    NewRoute {
        dst,
        gateway: None,
        link,
        table: None,
        priority: None,
        scope: None,
        source: None,
        mtu: None,
        advmss: None,
    }
}

/// Detaches the pod.
pub fn del(request: &Request) -> Result<(), CniError> {
    let unmasked = masquerade::remove(request);
    interface::del(request, interface::remove(request))?;
    unmasked
}

/// Interface, addresses, routes and rules are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = PtpConfig::load(request)?;
    interface::check(request, Some("veth"))?;
    if config.masquerade {
        masquerade::check(request, &request.previous_result()?.unwrap_or_default())?;
    }
    Ok(())
}

/// Removes rules, and has the IPAM plugin free addresses, of attachments that are no more.
pub fn gc(request: &Request) -> Result<(), CniError> {
    let rules = masquerade::retain(request);
    interface::gc(request)?;
    rules
}

/// The configuration is good, nf_tables does what masquerading needs, and the IPAM plugin is well.
pub fn status(request: &Request) -> Result<(), CniError> {
    if PtpConfig::load(request)?.masquerade {
        masquerade::probe().map_err(|e| CniError { code: Code::NotAvailable, ..e })?;
    }
    interface::status(request)
}
