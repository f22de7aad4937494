//! rtnetlink: links, addresses, routes (linux/rtnetlink.h, if_link.h, if_addr.h, veth.h).

use super::{
    codec::{CREATE, EXCLUSIVE, Message, attribute, attributes, read_text, read_u32},
    socket::{Answer, Family, NetlinkError, Socket},
};
use crate::network::{IpNetwork, bits, from_octets, octets};
use rustix::io::Errno;
use std::{
    fmt,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    str::FromStr,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;

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

const IFF_UP: u32 = 0x1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
const IF_OPER_UP: u8 = 6;
const BR_STATE_DISABLED: u8 = 0;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;

/// A hardware address of six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is not six hexadecimal bytes with colons.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a hardware address such as 02:00:00:00:00:01")]
pub struct InvalidMac(String);

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.to_owned());
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let mut mac = [0; 6];
        if parts.len() != mac.len() || parts.iter().any(|p| p.len() != 2 || p.starts_with('+')) {
            return Err(invalid());
        }
        for (byte, part) in mac.iter_mut().zip(parts) {
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        Ok(Self(mac))
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address.
    pub mac: Mac,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// `IFF_PROMISC` was asked for.
    pub promiscuous: bool,
    /// `IFF_ALLMULTI` was asked for.
    pub all_multicast: bool,
    /// Length of the transmit queue in packets.
    pub queue_length: u32,
    /// Text noted on it.
    pub alias: String,
    /// Operational state is up: there is carrier.
    pub running: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Index of the link it stands on or, for a veth, of the other end; in that link's namespace.
    pub peer: Option<u32>,
    /// `bridge`, `veth`, …; empty for hardware.
    pub kind: String,
    /// As a bridge port.
    pub port: Option<BridgePort>,
}

/// A link's state as a port of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgePort {
    /// STP state is not `disabled`.
    pub enabled: bool,
    /// Frames may leave through the port they came in by.
    pub hairpin: bool,
    /// Frames between isolated ports are dropped.
    pub isolated: bool,
}

/// A veth pair to be made.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// Name of the end in the socket's namespace.
    pub host_name: &'a str,
    /// Bridge of the host end, if it is to be a port of one.
    pub master: Option<u32>,
    /// Final name of the other end.
    pub peer_name: &'a str,
    /// Namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
    /// Hardware address of the other end.
    pub peer_mac: Option<Mac>,
    /// Of both ends; `None` for the kernel's.
    pub mtu: Option<u32>,
}

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

    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        match self.0.get(Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0)).with_text(IFLA_IFNAME, name)) {
            Ok(answer) => parse_link(&answer).map(Some).ok_or(NetlinkError::Malformed),
            Err(error) if error.is(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let answers = self.0.dump(&Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0)))?;
        Ok(answers.iter().filter_map(parse_link).collect())
    }

    /// The link of that index.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link> {
        let answer = self.0.get(Message::new(RTM_GETLINK, 0, &link_header(index, 0, 0)))?;
        parse_link(&answer).ok_or(NetlinkError::Malformed)
    }

    /// Makes a bridge. Its hardware address is given, not taken from its ports: it would change as they come and go.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: Option<u32>, vlan_filtering: bool) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .with_text(IFLA_IFNAME, name)
            .with(IFLA_ADDRESS, &mac.0);
        if let Some(mtu) = mtu {
            message = message.with_u32(IFLA_MTU, mtu);
        }
        self.0.execute(message.nest(IFLA_LINKINFO, |info| {
            let info = info.with(IFLA_INFO_KIND, b"bridge");
            // Even switching it off is refused by kernels built without it.
            if vlan_filtering {
                info.nest(IFLA_INFO_DATA, |data| data.with(IFLA_BR_VLAN_FILTERING, &[1]))
            } else {
                info
            }
        }))
    }

    /// Makes a veth pair, one end a port of a bridge, the other born in another namespace. Both are down.
    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<()> {
        let mtu = |message: Message| match pair.mtu {
            Some(mtu) => message.with_u32(IFLA_MTU, mtu),
            None => message,
        };
        let message = Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .with_text(IFLA_IFNAME, pair.host_name);
        let message = match pair.master {
            Some(master) => message.with_u32(IFLA_MASTER, master),
            None => message,
        };
        self.0.execute(mtu(message).nest(IFLA_LINKINFO, |info| {
            info.with(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    let peer = peer
                        .raw(&link_header(0, 0, 0))
                        .with_text(IFLA_IFNAME, pair.peer_name)
                        .with_u32(IFLA_NET_NS_FD, pair.peer_netns.as_raw_fd() as u32);
                    let peer = mtu(peer);
                    match pair.peer_mac {
                        Some(mac) => peer.with(IFLA_ADDRESS, &mac.0),
                        None => peer,
                    }
                })
            })
        }))
    }

    /// Brings a bridge port up with these settings.
    pub fn start_port(&mut self, index: u32, hairpin: bool, isolated: bool) -> Result<()> {
        self.0.execute(Message::new(RTM_NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP)).nest(
            IFLA_LINKINFO,
            |info| {
                info.with(IFLA_INFO_SLAVE_KIND, b"bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                    data.with(IFLA_BRPORT_MODE, &[u8::from(hairpin)])
                        .with(IFLA_BRPORT_ISOLATED, &[u8::from(isolated)])
                })
            },
        ))
    }

    /// Adds a port to a VLAN, or removes it. `untagged` frames from the port belong to it, and leave untagged.
    pub fn set_port_vlan(&mut self, index: u32, vlan: u16, member: bool, untagged: bool) -> Result<()> {
        const MASTER: u16 = 1; // BRIDGE_FLAGS_MASTER: ask the bridge, not the port's driver
        const PVID_AND_UNTAGGED: u16 = 2 | 4; // BRIDGE_VLAN_INFO_PVID, _UNTAGGED
        let kind = if member {
            19 /* RTM_SETLINK */
        } else {
            RTM_DELLINK
        };
        let flags = if untagged { PVID_AND_UNTAGGED } else { 0 };
        let mut info = flags.to_ne_bytes().to_vec();
        info.extend(vlan.to_ne_bytes());
        let mut header = link_header(index, 0, 0);
        header[0] = AF_BRIDGE;
        self.0.execute(Message::new(kind, 0, &header).nest(IFLA_AF_SPEC, |spec| {
            spec.with(IFLA_BRIDGE_FLAGS, &MASTER.to_ne_bytes()).with(IFLA_BRIDGE_VLAN_INFO, &info)
        }))
    }

    /// Brings a link up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        self.0.execute(Message::new(RTM_NEWLINK, 0, &link_header(index, flags, IFF_UP)))
    }

    /// Brings a link up and makes it promiscuous.
    pub fn set_up_promiscuous(&mut self, index: u32) -> Result<()> {
        let flags = IFF_UP | IFF_PROMISC;
        self.0.execute(Message::new(RTM_NEWLINK, 0, &link_header(index, flags, flags)))
    }

    /// Sets the hardware address, also against later changes by the bridge driver.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> Result<()> {
        self.0.execute(Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0)).with(IFLA_ADDRESS, &mac.0))
    }

    /// Removes a link; both ends of a veth go.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.0.execute(Message::new(RTM_DELLINK, 0, &link_header(index, 0, 0)))
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

/// `struct ifinfomsg`
pub(super) fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
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

fn parse_link(answer: &Answer) -> Option<Link> {
    let flags = read_u32(answer.get(8..)?)?;
    let mut link = Link {
        index: read_u32(answer.get(4..)?)?,
        up: flags & IFF_UP != 0,
        promiscuous: flags & IFF_PROMISC != 0,
        all_multicast: flags & IFF_ALLMULTI != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(answer.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = read_text(value),
            IFLA_ADDRESS => link.mac = Mac(value.try_into().unwrap_or_default()),
            IFLA_MTU => link.mtu = read_u32(value)?,
            IFLA_TXQLEN => link.queue_length = read_u32(value)?,
            IFLA_IFALIAS => link.alias = read_text(value),
            IFLA_MASTER => link.master = read_u32(value),
            IFLA_LINK => link.peer = read_u32(value),
            IFLA_OPERSTATE => link.running = value == [IF_OPER_UP],
            IFLA_PROMISCUITY => link.promiscuous |= read_u32(value)? > 0,
            IFLA_LINKINFO => {
                link.kind = attribute(value, IFLA_INFO_KIND).map(read_text).unwrap_or_default();
                if attribute(value, IFLA_INFO_SLAVE_KIND).is_some_and(|kind| read_text(kind) == "bridge") {
                    link.port = attribute(value, IFLA_INFO_SLAVE_DATA).map(parse_port);
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_port(data: &[u8]) -> BridgePort {
    let byte = |kind| attribute(data, kind).and_then(|value| value.first().copied()).unwrap_or(0);
    BridgePort {
        enabled: byte(IFLA_BRPORT_STATE) != BR_STATE_DISABLED,
        hairpin: byte(IFLA_BRPORT_MODE) != 0,
        isolated: byte(IFLA_BRPORT_ISOLATED) != 0,
    }
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
    };
    for (kind, value) in attributes(&answer[12..]) {
        match kind {
            RTA_DST => route.dst.address = from_octets(value)?,
            RTA_GATEWAY => route.gateway = from_octets(value),
            RTA_OIF => route.link = read_u32(value),
            RTA_TABLE => route.table = read_u32(value)?,
            RTA_PRIORITY => route.priority = read_u32(value)?,
            _ => {}
        }
    }
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_round_trip_and_the_rest_is_refused() {
        assert_eq!("0A:58:0a:f4:00-01".parse::<Mac>().unwrap().to_string(), "0a:58:0a:f4:00:01");
        for bad in [
            "",
            "0a:58:0a:f4:00",
            "0a:58:0a:f4:00:01:02",
            "0a:58:0a:f4:00:+1",
            "0a580af40001",
            "gg:58:0a:f4:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
