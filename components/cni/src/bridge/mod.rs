//! `bridge`: a veth pair between the pod and a bridge of the host.

mod config;
mod links;
mod spoof;

pub use config::BridgeConfig;

use crate::{
    delegate::Ipam,
    interface::{self, same_mac},
    masquerade,
    netlink::{link::Link, route::RouteSocket},
    netns::NetNs,
    network::{IpNetwork, next},
    pod::{self, Detection},
    protocol::{
        error::{CniError, Code},
        request::{Command, Request},
        result::{CniResult, Interface, Route},
    },
};

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    BridgeConfig::load(request).map(drop)
}

/// Attaches the pod. On failure all that this run made for the pod is undone; the bridge stays.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = BridgeConfig::load(request)?;
    let netns = NetNs::required(request.netns()?)?;
    let mut route = open()?;
    let ipam = find_ipam(request, &config)?;
    let bridge = links::ensure_bridge(&mut route, &config)?;
    let port = links::add_port(&mut route, &bridge, &netns, &request.attachment.ifname, &config)?;
    let addresses = ipam.as_ref().map(|ipam| addresses(ipam, request, &config)).transpose();
    let attached = addresses
        .and_then(|addresses| attach(request, &config, &netns, &mut route, &bridge, &port, addresses));
    if attached.is_err() {
        let removed = Ipam::del(Ok(ipam), request, || {
            route.delete_link(port.index).map_err(|e| e.during(format_args!("removing {:?}", port.name)))
        });
        for failure in
            [removed, masquerade::remove(request), spoof::remove(request)].into_iter().filter_map(Result::err)
        {
            eprintln!("bridge: undoing a failed ADD: {failure}");
        }
    }
    attached
}

fn find_ipam(request: &Request, config: &BridgeConfig) -> Result<Option<Ipam>, CniError> {
    config.ipam.as_deref().map(|kind| Ipam::find(kind, request)).transpose()
}

/// Addresses and routes, with gateways filled in.
fn addresses(ipam: &Ipam, request: &Request, config: &BridgeConfig) -> Result<CniResult, CniError> {
    let mut result = ipam.add(request)?;
    if result.ips.is_empty() {
        return Err(CniError::internal("IPAM plugin returned missing IP config"));
    }
    complete_gateways(&mut result, config);
    Ok(result)
}

/// Index of the pod's interface in the result: bridge, port, pod.
const POD_INTERFACE: usize = 2;

/// Puts every address on the pod's interface, and where this bridge is gateway, names it and routes to it.
fn complete_gateways(result: &mut CniResult, config: &BridgeConfig) {
    let mut families_done = Vec::new();
    for ip in &mut result.ips {
        ip.interface = Some(POD_INTERFACE);
        if config.is_gateway && ip.gateway.is_none() {
            ip.gateway = Some(next(ip.address.network().address));
        }
        let everything = IpNetwork::everything(ip.address.address);
        if !config.is_default_gateway || families_done.contains(&everything) {
            continue;
        }
        families_done.push(everything);
        if !result.routes.iter().any(|route| route.dst == everything && route.gw.is_some()) {
            result.routes.push(Route::via(everything, ip.gateway));
        }
    }
}

fn attach(
    request: &Request,
    config: &BridgeConfig,
    netns: &NetNs,
    route: &mut RouteSocket,
    bridge: &Link,
    port: &Link,
    addresses: Option<CniResult>,
) -> Result<CniResult, CniError> {
    let ifname = &request.attachment.ifname;
    let has_addresses = addresses.is_some();
    let mut result = addresses.unwrap_or_default();
    let mut pod = if has_addresses {
        let detection = if config.detect_duplicates { Detection::On } else { Detection::Off };
        pod::configure(netns, ifname, &result, detection)?
    } else {
        pod::bring_up(netns, ifname, config.leave_down)?
    };
    result.interfaces = vec![
        on_host(bridge),
        on_host(port),
        Interface { sandbox: netns.path().display().to_string(), ..on_host(&pod.link) },
    ];
    if config.check_source {
        spoof::add(request, &port.name, pod.link.mac)?;
    }
    if config.is_gateway && has_addresses {
        let of_vlan = links::gateway_link(route, bridge, config)?;
        for ip in &result.ips {
            let Some(address) = ip.gateway else { continue };
            let gateway = IpNetwork { address, prefix: ip.address.prefix };
            links::ensure_address(route, of_vlan.as_ref().unwrap_or(bridge), gateway, config.force_address)?;
            links::enable_forwarding(gateway)?;
        }
        result.interfaces.extend(of_vlan.as_ref().map(on_host));
    }
    if config.masquerade && has_addresses {
        masquerade::add(request, &result)?;
    }
    if !config.leave_down {
        links::wait_for_port(route, port)?;
    }
    pod.announce(netns, &result.ips);
    // The kernel may have changed the bridge's address when its first port came, unless we made it.
    if let Some(now) = links::bridge(route, &config.bridge)? {
        result.interfaces[0] = on_host(&now);
    }
    if !config.dns.is_empty() {
        result.dns = config.dns.clone();
    }
    Ok(result)
}

fn on_host(link: &Link) -> Interface {
    Interface { name: link.name.clone(), mac: link.mac.to_string(), ..Interface::default() }
}

/// Detaches the pod: its interface, its addresses, its rules. What is gone already is no error.
pub fn del(request: &Request) -> Result<(), CniError> {
    let freed = interface::del(request, interface::remove(request));
    let (unmasked, unchecked) = (masquerade::remove(request), spoof::remove(request));
    freed.and(unmasked).and(unchecked)
}

/// Bridge, port, pod interface, addresses, routes and rules are as `prevResult` says.
pub fn check(request: &Request) -> Result<(), CniError> {
    let config = BridgeConfig::load(request)?;
    let previous =
        request.previous_result()?.ok_or_else(|| CniError::config("Required prevResult missing"))?;
    if let Some(ipam) = find_ipam(request, &config)? {
        ipam.run(Command::Check, request)?;
    }
    let netns = NetNs::required(request.netns()?)?;
    let ifname = &request.attachment.ifname;
    let sandbox = netns.path().display().to_string();
    let ours = previous.interfaces.iter().position(|i| i.name == *ifname && i.sandbox == sandbox);
    let ours = ours.ok_or_else(|| {
        CniError::config(format!("prevResult has no interface {ifname} in sandbox {sandbox}"))
    })?;
    let mut expected = previous.clone();
    expected.ips.retain(|ip| ip.interface.is_none_or(|index| index == ours));
    let pod = pod::check(&netns, ifname, &expected)?;
    same_mac(&previous.interfaces[ours], &pod)?;

    let mut route = open()?;
    let bridge = links::bridge(&mut route, &config.bridge)?
        .ok_or_else(|| CniError::internal(format!("Interface name {} not found", config.bridge)))?;
    if let Some(reported) =
        previous.interfaces.iter().find(|i| i.name == config.bridge && i.sandbox.is_empty())
    {
        same_mac(reported, &bridge)?;
    }
    if bridge.promiscuous != config.promiscuous {
        return Err(CniError::internal(format!(
            "Bridge interface {} configured Promisc Mode {} doesn't match current state: {}",
            config.bridge, config.promiscuous, bridge.promiscuous
        )));
    }
    let port = check_port(&mut route, &config, &bridge, &pod, &previous)?;
    if config.check_source {
        spoof::check(request, &port.name, pod.mac)?;
    }
    if config.masquerade && config.ipam.is_some() { masquerade::check(request, &expected) } else { Ok(()) }
}

fn check_port(
    route: &mut RouteSocket,
    config: &BridgeConfig,
    bridge: &Link,
    pod: &Link,
    previous: &CniResult,
) -> Result<Link, CniError> {
    let wrong = |port: &str, what: &str| Err(CniError::internal(format!("Interface {port} {what}")));
    let index =
        pod.peer.ok_or_else(|| CniError::internal(format!("Interface {} is not a veth", pod.name)))?;
    let port = route
        .link_by_index(index)
        .map_err(|e| e.during(format_args!("looking for the peer of {}", pod.name)))?;
    if !previous.interfaces.iter().any(|i| i.name == port.name && i.sandbox.is_empty()) {
        return wrong(&port.name, "is the pod's peer but not in prevResult");
    }
    if port.master != Some(bridge.index) {
        return wrong(&port.name, &format!("is not a port of bridge {}", bridge.name));
    }
    if !port.up || !(pod.up || config.leave_down) {
        return wrong(&port.name, "or its peer in the pod is down");
    }
    match port.port {
        Some(state) if state.hairpin != config.hairpin => {
            wrong(&port.name, "has another hairpin mode than configured")
        }
        Some(state) if state.isolated != config.isolated => {
            wrong(&port.name, "has another isolation than configured")
        }
        _ => Ok(port),
    }
}

/// Removes rules, and has the IPAM plugin free addresses, of attachments that are no more.
pub fn gc(request: &Request) -> Result<(), CniError> {
    let (rules, checks) = (masquerade::retain(request), spoof::retain(request));
    interface::gc(request)?;
    rules.and(checks)
}

/// The configuration is good, nf_tables does what masquerading needs, and the IPAM plugin is well.
pub fn status(request: &Request) -> Result<(), CniError> {
    let config = BridgeConfig::load(request)?;
    if config.masquerade {
        masquerade::probe().map_err(|e| CniError { code: Code::NotAvailable, ..e })?;
    }
    if config.check_source {
        spoof::probe().map_err(|e| CniError { code: Code::NotAvailable, ..e })?;
    }
    let ipam = find_ipam(request, &config).map_err(|e| CniError { code: Code::NotAvailable, ..e })?;
    ipam.map_or(Ok(()), |ipam| ipam.run(Command::Status, request))
}

fn open() -> Result<RouteSocket, CniError> {
    RouteSocket::open().map_err(|e| e.during("opening rtnetlink"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::result::IpConfig;

    fn completed(
        addresses: &[(&str, Option<&str>)],
        routes: &[(&str, Option<&str>)],
        default: bool,
    ) -> CniResult {
        let config = serde_json::json!({"cniVersion": "1.0.0", "name": "n", "isDefaultGateway": default, "isGateway": true});
        let environment = crate::protocol::request::Environment {
            command: "GC".into(),
            path: "/".into(),
            ..Default::default()
        };
        let config = config.to_string().replace("1.0.0", "1.1.0");
        let request = Request::parse(&environment, config.into_bytes()).unwrap();
        let mut result = CniResult {
            ips: addresses
                .iter()
                .map(|(address, gateway)| IpConfig {
                    version: None,
                    interface: None,
                    address: address.parse().unwrap(),
                    gateway: gateway.map(|g| g.parse().unwrap()),
                })
                .collect(),
            routes: routes
                .iter()
                .map(|(dst, gw)| Route::via(dst.parse().unwrap(), gw.map(|g| g.parse().unwrap())))
                .collect(),
            ..CniResult::default()
        };
        complete_gateways(&mut result, &BridgeConfig::load(&request).unwrap());
        result
    }

    fn routes(result: &CniResult) -> Vec<String> {
        result.routes.iter().map(|r| format!("{} {:?}", r.dst, r.gw.map(|g| g.to_string()))).collect()
    }

    #[test]
    fn gateways_are_completed_and_routed_once_per_family() {
        let ips = [("10.1.0.5/24", None), ("10.2.0.5/24", Some("10.2.0.9")), ("fd00::5/64", None)];
        let result = completed(&ips, &[], true);
        let gateways: Vec<_> = result.ips.iter().map(|ip| ip.gateway.unwrap().to_string()).collect();
        assert_eq!(gateways, ["10.1.0.1", "10.2.0.9", "fd00::1"]);
        assert!(result.ips.iter().all(|ip| ip.interface == Some(2)));
        assert_eq!(routes(&result), ["0.0.0.0/0 Some(\"10.1.0.1\")", "::/0 Some(\"fd00::1\")"]);
        assert!(completed(&ips, &[], false).routes.is_empty());
    }

    #[test]
    fn a_default_route_with_a_next_hop_is_kept() {
        let result = completed(&[("10.1.0.5/24", None)], &[("0.0.0.0/0", Some("10.1.0.7"))], true);
        assert_eq!(routes(&result), ["0.0.0.0/0 Some(\"10.1.0.7\")"]);
    }
}
