//! rtnetlink: links: finding them, making bridges and veth pairs, ports (linux/if_link.h, veth.h, if_bridge.h).

use super::{
    codec::{CREATE, EXCLUSIVE, Message, attribute, attributes, read_text, read_u32},
    device::Kind,
    route::RouteSocket,
    socket::{Answer, NetlinkError},
};
use rustix::{event::Timespec, io::Errno, process::Pid};
use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
    str::FromStr,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
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
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const IFF_UP: u32 = 0x1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;
const IF_OPER_UP: u8 = 6;
const BR_STATE_DISABLED: u8 = 0;
const AF_BRIDGE: u8 = 7;

/// A hardware address of six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
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
    /// What it is, if it is of a kind that is told apart further.
    pub details: Option<Kind>,
    /// Of a bridge: the VLAN that its new ports are in, untagged; 0 is none.
    pub default_vlan: Option<u16>,
}

impl Link {
    /// The routing table, of a VRF.
    pub fn vrf_table(&self) -> Option<u32> {
        match self.details {
            Some(Kind::Vrf(table)) => Some(table),
            _ => None,
        }
    }
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

type Result<T> = std::result::Result<T, NetlinkError>;

impl RouteSocket {
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

    /// Removes a link without waiting for the kernel to be done with it: for when nothing more is done than that.
    ///
    /// It is out of every table, and its name free, within a millisecond, which the kernel tells who listens. Then the
    /// kernel waits for a grace period of RCU to free its memory (`rcu_barrier` in `netdev_run_todo`), 15 to 30 ms, and
    /// only then answers. So a child process asks, and is left to wait. Where our parent is the first process, which may
    /// be a runtime in a container that knows nothing of orphans, there is none.
    pub fn part_with_link(&mut self, index: u32) -> Result<()> {
        const RTNLGRP_LINK: i32 = 1;
        const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
        if rustix::process::getppid().is_none_or(Pid::is_init) {
            return self.delete_link(index);
        }
        let gone = |kind, body: &[u8]| kind == RTM_DELLINK && body.get(4..).and_then(read_u32) == Some(index);
        let message = Message::new(RTM_DELLINK, 0, &link_header(index, 0, 0));
        match self.0.execute_apart(message, RTNLGRP_LINK, gone, PATIENCE) {
            Ok(Some(())) => Ok(()),
            // No child, or it was killed.
            Ok(None) | Err(NetlinkError::Socket(_)) => self.delete_link(index),
            Err(error) => Err(error),
        }
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
                let data = attribute(value, IFLA_INFO_DATA).unwrap_or_default();
                link.details = Kind::read(&link.kind, data);
                if link.kind == "bridge" {
                    let vlan = attribute(data, IFLA_BR_VLAN_DEFAULT_PVID);
                    link.default_vlan = vlan.and_then(|id| Some(u16::from_ne_bytes(id.try_into().ok()?)));
                }
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
