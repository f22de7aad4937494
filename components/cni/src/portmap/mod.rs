//! `portmap`: ports of the host forwarded to the pod. Chained after a plugin that gives the pod its addresses.
//!
//! A connection to a host port has its destination rewritten where it arrives, or where this machine sends it.
//! Its source is rewritten, too, where the answer would otherwise take another way back: when the pod calls
//! itself, when another pod of its network does (they talk over the bridge, past us), and from 127.0.0.1.

pub mod config;

use crate::{
    netlink::{
        conntrack,
        nftables::{Chain, Field, Rule, Transport},
        route::RouteSocket,
    },
    network::{IpNetwork, bits},
    protocol::{
        error::{CniError, Code},
        request::Request,
        result::CniResult,
    },
    ruleset::{HAIRPIN, HOSTPORTS, Owner, Ruleset},
    sysctl,
};
use config::{PortmapConfig, pod_addresses};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const CHAINS: [Chain; 2] = [HOSTPORTS, HAIRPIN];

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    PortmapConfig::load(request).map(drop)
}

/// Forwards the ports; passes the previous result on.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = PortmapConfig::load(request)?;
    let previous =
        request.previous_result()?.ok_or_else(|| CniError::config("must be called as chained plugin"))?;
    if config.mappings.is_empty() {
        return Ok(previous);
    }
    let pods = pod_addresses(&previous, &request.attachment.ifname);
    let mut ruleset = Ruleset::open()?;
    ruleset.replace(&CHAINS, &owner(request), &rules(&config, &pods))?;
    for pod in &pods {
        let ipv4 = pod.address.is_ipv4();
        let udp: Vec<u16> = config
            .mappings
            .iter()
            .filter(|m| m.transport == Transport::Udp && m.is_for(ipv4))
            .map(|m| m.host_port)
            .collect();
        if udp.is_empty() {
            continue;
        }
        if let Err(error) = conntrack::forget_udp_flows(ruleset.socket(), ipv4, &udp) {
            eprintln!("portmap: stale UDP flows to {} may live on: {error}", pod.address);
        }
    }
    if config.snat
        && let Some(pod) = pods.iter().find(|pod| pod.address.is_ipv4())
    {
        route_localnet(pod.address)?;
    }
    Ok(previous)
}

/// Removes every rule of the attachment, whatever the configuration says about ports now.
pub fn del(request: &Request) -> Result<(), CniError> {
    Ruleset::open()?.remove(&CHAINS, &owner(request))
}

/// The rules are exactly those that ADD would make.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = PortmapConfig::load(request)?;
    let previous =
        request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    if config.mappings.is_empty() {
        return Ok(());
    }
    let pods = pod_addresses(&previous, &request.attachment.ifname);
    Ruleset::open()?.check(&CHAINS, &owner(request), &rules(&config, &pods))
}

/// Removes rules of attachments that are no more.
pub fn gc(request: &Request) -> Result<(), CniError> {
    Ruleset::open()?.retain(&CHAINS, &request.network, &request.valid_attachments()?)
}

/// The configuration is good and nf_tables does what the rules need.
pub fn status(request: &Request) -> Result<(), CniError> {
    PortmapConfig::load(request)?;
    Ruleset::open()?.probe(&CHAINS).map_err(|e| CniError { code: Code::NotAvailable, ..e })
}

fn owner(request: &Request) -> Owner {
    Owner::new(&request.network, &request.attachment)
}

fn rules(config: &PortmapConfig, pods: &[IpNetwork]) -> Vec<(Chain, Rule)> {
    let mut rules = Vec::new();
    for pod in pods {
        let ipv4 = pod.address.is_ipv4();
        let mappings: Vec<_> = config.mappings.iter().filter(|m| m.is_for(ipv4)).collect();
        for mapping in &mappings {
            let mut rule = Rule::new().family(pod.address);
            for condition in config.conditions.iter().filter(|c| c.network.address.is_ipv4() == ipv4) {
                rule = rule.address(condition.field, condition.network, condition.inside);
            }
            // What nobody could answer stays with this machine's own listeners: ::1 never, 127/8 without SNAT.
            let loopback = if ipv4 {
                IpNetwork { address: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8 }
            } else {
                host(Ipv6Addr::LOCALHOST.into())
            };
            if !ipv4 || !config.snat {
                rule = rule.address(Field::Destination, loopback, false);
            }
            if let Some(host_ip) = mapping.host_ip {
                rule = rule.address(Field::Destination, host(host_ip), true);
            }
            let rule = rule.destination_port(mapping.transport, mapping.host_port);
            rules.push((HOSTPORTS, rule.dnat(pod.address, mapping.container_port)));
        }
        if config.snat && !mappings.is_empty() {
            rules.extend(hairpin(config, *pod).map(|rule| (HAIRPIN, rule)));
        }
    }
    rules
}

fn hairpin(config: &PortmapConfig, pod: IpNetwork) -> impl Iterator<Item = Rule> {
    let forwarded = move |rule: Rule| {
        rule.address(Field::Destination, host(pod.address), true).destination_was_changed().masquerade()
    };
    let from = move |network| forwarded(Rule::new().address(Field::Source, network, true));
    let loopback = IpNetwork { address: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8 };
    let rules = if config.masquerade_all {
        vec![forwarded(Rule::new())]
    } else if pod.address.is_ipv4() {
        vec![from(pod), from(loopback)]
    } else {
        vec![from(pod)]
    };
    rules.into_iter()
}

fn host(address: IpAddr) -> IpNetwork {
    IpNetwork { address, prefix: bits(address) }
}

/// Lets packets from 127.0.0.1 leave towards the pod.
fn route_localnet(pod: IpAddr) -> Result<(), CniError> {
    let mut route = RouteSocket::open().map_err(|e| e.during("opening rtnetlink"))?;
    // No way to the pod from here: then nothing from loopback goes there either.
    let Ok(index) = route.link_towards(pod) else { return Ok(()) };
    let link = route.link_by_index(index).map_err(|e| e.during("looking for the link to the pod"))?;
    let parameter = format!("net/ipv4/conf/{}/route_localnet", link.name);
    sysctl::ensure(&parameter, "1")
        .map_err(|e| CniError::new(Code::Io, format!("unable to enable route_localnet: {parameter}: {e}")))
}
