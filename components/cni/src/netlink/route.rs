//! rtnetlink: addresses and routes (linux/rtnetlink.h, if_addr.h).

use super::{
    codec::{CREATE, EXCLUSIVE, Message, attribute, attributes, read_u32},
    socket::{Answer, Family, NetlinkError, Socket},
};
use crate::network::{IpNetwork, bits, from_octets, octets};
use std::net::IpAddr;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTM_F_CLONED: u32 = 0x200;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// With prefix length.
    pub network: IpNetwork,
    /// Duplicate address detection is not finished.
    pub tentative: bool,
    /// Duplicate address detection found another.
    pub duplicate: bool,
}

/// A route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// Destination.
    pub dst: IpNetwork,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing link.
    pub link: Option<u32>,
    /// Table.
    pub table: u32,
    /// Metric.
    pub priority: u32,
    /// Scope, as rtnetlink numbers it.
    pub scope: u8,
    /// Who made it, as rtnetlink numbers them.
    pub protocol: u8,
    /// Source address of packets that take it, where nothing else says.
    pub source: Option<IpAddr>,
    /// MTU and such, as the kernel encodes them.
    pub metrics: Option<Vec<u8>>,
}

impl RouteEntry {
    /// In the table of routes that are looked at when no rule says otherwise.
    pub fn is_main(&self) -> bool {
        self.table == u32::from(RT_TABLE_MAIN)
    }
}

/// A route to be made.
#[derive(Debug, Clone)]
pub struct NewRoute {
    /// Destination.
    pub dst: IpNetwork,
    /// Next hop; without one the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Outgoing link.
    pub link: u32,
    /// Table; `None` is main.
    pub table: Option<u32>,
    /// Metric.
    pub priority: Option<u32>,
    /// Scope; `None` is link without gateway and universe with one.
    pub scope: Option<u8>,
    /// Source address of packets that take it, where nothing else says.
    pub source: Option<IpAddr>,
    /// Path MTU.
    pub mtu: Option<u32>,
    /// TCP maximum segment size.
    pub advmss: Option<u32>,
}

/// rtnetlink in one network namespace.
#[derive(Debug)]
pub struct RouteSocket(pub(super) Socket);

type Result<T> = std::result::Result<T, NetlinkError>;

impl RouteSocket {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Socket::open(Family::Route).map(Self)
    }

    /// Addresses of a link, both families.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let answers = self.0.dump(&Message::new(RTM_GETADDR, 0, &address_header(AF_UNSPEC, 0, index)))?;
        Ok(answers.iter().filter_map(|answer| parse_address(answer, index)).collect())
    }

    /// Adds an address. IPv6 without duplicate address detection unless `detect_duplicates`: it takes a second,
    /// and the address came from an allocator.
    pub fn add_address(&mut self, index: u32, network: IpNetwork, detect_duplicates: bool) -> Result<()> {
        let ip = octets(network.address);
        let header = address_header(family(network.address), network.prefix, index);
        let mut message = Message::new(RTM_NEWADDR, CREATE | EXCLUSIVE, &header)
            .with(IFA_LOCAL, &ip)
            .with(IFA_ADDRESS, &ip);
        if network.address.is_ipv4() && network.prefix < 31 {
            message = message.with(IFA_BROADCAST, &octets(network.last()));
        }
        if network.address.is_ipv6() && !detect_duplicates {
            message = message.with_u32(IFA_FLAGS, IFA_F_NODAD);
        }
        self.0.execute(message)
    }

    /// Removes an address.
    pub fn delete_address(&mut self, index: u32, network: IpNetwork) -> Result<()> {
        let ip = octets(network.address);
        let header = address_header(family(network.address), network.prefix, index);
        self.0.execute(Message::new(RTM_DELADDR, 0, &header).with(IFA_LOCAL, &ip).with(IFA_ADDRESS, &ip))
    }

    /// Adds a route; one to the same destination through another link stays, and they share the traffic.
    pub fn add_route(&mut self, route: &NewRoute) -> Result<()> {
        let scope = route.scope.unwrap_or(match route.gateway {
            None if route.dst.address.is_ipv4() => RT_SCOPE_LINK,
            _ => RT_SCOPE_UNIVERSE,
        });
        let dst = route.dst.network();
        let table = route.table.filter(|table| *table != 0);
        let header = route_header(
            family(dst.address),
            dst.prefix,
            table.map_or(RT_TABLE_MAIN, |table| u8::try_from(table).unwrap_or(0)),
            scope,
        );
        let mut message = Message::new(RTM_NEWROUTE, CREATE, &header).with_u32(RTA_OIF, route.link);
        if dst.prefix > 0 {
            message = message.with(RTA_DST, &octets(dst.address));
        }
        if let Some(gateway) = route.gateway {
            message = message.with(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(source) = route.source {
            message = message.with(RTA_PREFSRC, &octets(source));
        }
        if let Some(priority) = route.priority {
            message = message.with_u32(RTA_PRIORITY, priority);
        }
        if let Some(table) = table {
            message = message.with_u32(RTA_TABLE, table);
        }
        if route.mtu.is_some() || route.advmss.is_some() {
            message = message.nest(RTA_METRICS, |mut metrics| {
                for (kind, value) in [(RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss)] {
                    if let Some(value) = value {
                        metrics = metrics.with_u32(kind, value);
                    }
                }
                metrics
            });
        }
        self.0.execute(message)
    }

    /// Removes the route to `dst` through a link that has no next hop: the one that comes with an address.
    pub fn delete_link_route(&mut self, dst: IpNetwork, link: u32) -> Result<()> {
        const RT_SCOPE_NOWHERE: u8 = 255;
        let mut header = route_header(family(dst.address), dst.prefix, RT_TABLE_MAIN, RT_SCOPE_NOWHERE);
        // Whoever made it, of whatever type.
        (header[5], header[7]) = (0, 0);
        self.0.execute(
            Message::new(RTM_DELROUTE, 0, &header)
                .with(RTA_DST, &octets(dst.network().address))
                .with_u32(RTA_OIF, link),
        )
    }

    /// Puts a route as it was listed into `table`, in place of one to the same destination.
    pub fn put_route(&mut self, route: &RouteEntry, table: u32) -> Result<()> {
        const REPLACE: u16 = 0x100; // NLM_F_REPLACE
        self.0.execute(route.message(RTM_NEWROUTE, CREATE | REPLACE, table))
    }

    /// Removes a route as it was listed.
    pub fn delete_route(&mut self, route: &RouteEntry) -> Result<()> {
        self.0.execute(route.message(RTM_DELROUTE, 0, route.table))
    }

    /// Unicast routes of all tables, both families.
    pub fn routes(&mut self) -> Result<Vec<RouteEntry>> {
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let answers = self.0.dump(&Message::new(RTM_GETROUTE, 0, &route_header(family, 0, 0, 0)))?;
            routes.extend(answers.iter().filter_map(parse_route));
        }
        Ok(routes)
    }

    /// The link that packets to `destination` leave by.
    pub fn link_towards(&mut self, destination: IpAddr) -> Result<u32> {
        let mut header = route_header(family(destination), bits(destination), 0, 0);
        header[4..8].fill(0);
        let answer =
            self.0.get(Message::new(RTM_GETROUTE, 0, &header).with(RTA_DST, &octets(destination)))?;
        answer
            .get(12..)
            .and_then(|attributes| attribute(attributes, RTA_OIF))
            .and_then(read_u32)
            .ok_or(NetlinkError::Malformed)
    }
}

impl RouteEntry {
    fn message(&self, kind: u16, flags: u16, table: u32) -> Message {
        let dst = self.dst.network();
        let mut header = route_header(family(dst.address), dst.prefix, 1, self.scope);
        (header[4], header[5]) = (u8::try_from(table).unwrap_or(0), self.protocol);
        let mut message = Message::new(kind, flags, &header).with_u32(RTA_TABLE, table);
        if dst.prefix > 0 {
            message = message.with(RTA_DST, &octets(dst.address));
        }
        for (kind, address) in [(RTA_GATEWAY, self.gateway), (RTA_PREFSRC, self.source)] {
            if let Some(address) = address {
                message = message.with(kind, &octets(address));
            }
        }
        for (kind, number) in [(RTA_OIF, self.link), (RTA_PRIORITY, Some(self.priority).filter(|p| *p > 0))] {
            if let Some(number) = number {
                message = message.with_u32(kind, number);
            }
        }
        match &self.metrics {
            Some(metrics) => message.with(RTA_METRICS, metrics),
            None => message,
        }
    }
}

/// `struct ifaddrmsg`
fn address_header(family: u8, prefix: u8, index: u32) -> [u8; 8] {
    let mut header = [family, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct rtmsg`; protocol and type only where a route is named by its table.
fn route_header(family: u8, prefix: u8, table: u8, scope: u8) -> [u8; 12] {
    let (protocol, kind) =
        if table == 0 && scope == 0 && prefix == 0 { (0, 0) } else { (RTPROT_BOOT, RTN_UNICAST) };
    [family, prefix, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn parse_address(answer: &Answer, index: u32) -> Option<Address> {
    if read_u32(answer.get(4..)?)? != index {
        return None;
    }
    let attributes = answer.get(8..)?;
    // IFA_LOCAL is this end's address where the link is point-to-point; IPv6 often has IFA_ADDRESS only.
    let address = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let flags = attribute(attributes, IFA_FLAGS).and_then(read_u32).unwrap_or_else(|| u32::from(answer[2]));
    Some(Address {
        network: IpNetwork { address: from_octets(address)?, prefix: answer[1] },
        tentative: flags & IFA_F_TENTATIVE != 0,
        duplicate: flags & IFA_F_DADFAILED != 0,
    })
}

fn parse_route(answer: &Answer) -> Option<RouteEntry> {
    let header = answer.get(..12)?;
    if header[7] != RTN_UNICAST || read_u32(&header[8..])? & RTM_F_CLONED != 0 {
        return None;
    }
    let any = if header[0] == AF_INET { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let mut route = RouteEntry {
        dst: IpNetwork { address: any, prefix: header[1] },
        gateway: None,
        link: None,
        table: header[4].into(),
        priority: 0,
        scope: header[6],
        protocol: header[5],
        source: None,
        metrics: None,
    };
    for (kind, value) in attributes(&answer[12..]) {
        match kind {
            RTA_DST => route.dst.address = from_octets(value)?,
            RTA_GATEWAY => route.gateway = from_octets(value),
            RTA_OIF => route.link = read_u32(value),
            RTA_TABLE => route.table = read_u32(value)?,
            RTA_PRIORITY => route.priority = read_u32(value)?,
            RTA_PREFSRC => route.source = from_octets(value),
            RTA_METRICS => route.metrics = Some(value.to_vec()),
            _ => {}
        }
    }
    Some(route)
}
