//! rtnetlink: making links that stand on another (macvlan, ipvlan, vlan) or on nothing (dummy), and changing what a
//! link is called, where it is and how it works (linux/if_link.h).

use super::{
    codec::{CREATE, EXCLUSIVE, Message, attribute, read_u32},
    link::{Link, Mac, link_header},
    route::RouteSocket,
    socket::NetlinkError,
};
use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
};

const RTM_NEWLINK: u16 = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VRF_TABLE: u16 = 1;
const IFF_PROMISC: u32 = 0x100;
const IFF_ALLMULTI: u32 = 0x200;

/// How a macvlan's frames reach others on the same parent; numbers as in `enum macvlan_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Not at all.
    Private,
    /// Through the switch outside.
    Vepa,
    /// Directly.
    Bridge,
    /// There are no others: the parent's hardware address is taken over.
    Passthru,
}

/// At which layer an ipvlan switches; numbers as in `enum ipvlan_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// Neighbours are asked for.
    L2,
    /// Routed in the parent's namespace.
    L3,
    /// Routed, and seen by the parent's netfilter hooks.
    L3s,
}

/// What kind of link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Own hardware address on the parent's wire.
    Macvlan {
        /// How frames reach other macvlans.
        mode: MacvlanMode,
        /// Length of the parent's queue for broadcasts; `None` for the kernel's.
        broadcast_queue: Option<u32>,
    },
    /// The parent's hardware address, own network addresses.
    Ipvlan(IpvlanMode),
    /// Tagged frames of one VLAN (802.1Q).
    Vlan(u16),
    /// Swallows what is sent.
    Dummy,
    /// A routing domain of its own, with this table.
    Vrf(u32),
    /// Queues what another link receives.
    Ifb,
}

/// A link to be made.
#[derive(Debug)]
pub struct NewLink<'a> {
    /// Name; must not be in use in the socket's namespace either: older kernels look there.
    pub name: &'a str,
    /// What it is.
    pub kind: Kind,
    /// Index, in the socket's namespace, of the link it stands on.
    pub parent: Option<u32>,
    /// Namespace it is born in; `None` is the socket's.
    pub netns: Option<BorrowedFd<'a>>,
    /// `None` for the kernel's.
    pub mtu: Option<u32>,
    /// `None` for the kernel's.
    pub mac: Option<Mac>,
}

type Result<T> = std::result::Result<T, NetlinkError>;

fn change(index: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &link_header(index, 0, 0))
}

impl RouteSocket {
    /// Makes a link; it is down.
    pub fn add_link(&mut self, link: &NewLink<'_>) -> Result<()> {
        let mut message = Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0, 0))
            .with_text(IFLA_IFNAME, link.name);
        for (kind, value) in [
            (IFLA_LINK, link.parent),
            (IFLA_NET_NS_FD, link.netns.map(|fd| fd.as_raw_fd() as u32)),
            (IFLA_MTU, link.mtu),
        ] {
            if let Some(value) = value {
                message = message.with_u32(kind, value);
            }
        }
        if let Some(mac) = link.mac {
            message = message.with(IFLA_ADDRESS, &mac.0);
        }
        self.0.execute(message.nest(IFLA_LINKINFO, |info| link.kind.describe(info)))
    }

    /// Renames a link, which must be down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        self.0.execute(change(index).with_text(IFLA_IFNAME, name))
    }

    /// Notes a text on a link; empty removes it.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<()> {
        self.0.execute(change(index).with(IFLA_IFALIAS, alias.as_bytes()))
    }

    /// Moves a link to another namespace under another name, which must be free there, and notes a text on it or, with an
    /// empty one, removes what is noted. It arrives there down. One that cannot be moved is left as it is: the kernel
    /// moves first and changes the rest after (`do_setlink`).
    pub fn move_link(&mut self, index: u32, netns: BorrowedFd<'_>, name: &str, alias: &str) -> Result<()> {
        self.0.execute(
            change(index)
                .with_u32(IFLA_NET_NS_FD, netns.as_raw_fd() as u32)
                .with_text(IFLA_IFNAME, name)
                .with(IFLA_IFALIAS, alias.as_bytes()),
        )
    }

    /// Sets the maximum transmission unit.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.0.execute(change(index).with_u32(IFLA_MTU, mtu))
    }

    /// Sets the length of the transmit queue.
    pub fn set_queue_length(&mut self, index: u32, packets: u32) -> Result<()> {
        self.0.execute(change(index).with_u32(IFLA_TXQLEN, packets))
    }

    /// Makes a link part of a bridge or VRF; 0 takes it out.
    pub fn set_master(&mut self, index: u32, master: u32) -> Result<()> {
        self.0.execute(change(index).with_u32(IFLA_MASTER, master))
    }

    /// Receive everything, or not.
    pub fn set_promiscuous(&mut self, index: u32, on: bool) -> Result<()> {
        self.set_flag(index, IFF_PROMISC, on)
    }

    /// Receive every multicast frame, or not.
    pub fn set_all_multicast(&mut self, index: u32, on: bool) -> Result<()> {
        self.set_flag(index, IFF_ALLMULTI, on)
    }

    fn set_flag(&mut self, index: u32, flag: u32, on: bool) -> Result<()> {
        let flags = if on { flag } else { 0 };
        self.0.execute(Message::new(RTM_NEWLINK, 0, &link_header(index, flags, flag)))
    }
}

impl Kind {
    /// Whether a link is what this makes. Its queue for broadcasts is not looked at: the kernel gives all macvlans of a
    /// parent the longest that one of them asked for.
    pub fn is_of(self, link: &Link) -> bool {
        match (self, link.details) {
            (Self::Macvlan { mode, .. }, Some(Self::Macvlan { mode: found, .. })) => mode == found,
            (wanted, found) => found == Some(wanted),
        }
    }

    /// The name that the kernel has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan(_) => "ipvlan",
            Self::Vlan(_) => "vlan",
            Self::Dummy => "dummy",
            Self::Vrf(_) => "vrf",
            Self::Ifb => "ifb",
        }
    }

    /// From what the kernel calls it and says of it; `None` for kinds and modes that are none of these. How long a queue
    /// for broadcasts was asked for is not read.
    pub(super) fn read(name: &str, data: &[u8]) -> Option<Self> {
        let half =
            |kind| attribute(data, kind).and_then(|value| Some(u16::from_ne_bytes(value.try_into().ok()?)));
        match name {
            "macvlan" => {
                let mode = attribute(data, IFLA_MACVLAN_MODE).and_then(read_u32)?;
                let mode = MacvlanMode::ALL.into_iter().find(|one| one.number() == mode)?;
                Some(Self::Macvlan { mode, broadcast_queue: None })
            }
            "ipvlan" => {
                let mode = half(IFLA_IPVLAN_MODE)?;
                IpvlanMode::ALL.into_iter().find(|one| one.number() == mode).map(Self::Ipvlan)
            }
            "vlan" => half(IFLA_VLAN_ID).map(Self::Vlan),
            "vrf" => attribute(data, IFLA_VRF_TABLE).and_then(read_u32).map(Self::Vrf),
            "dummy" => Some(Self::Dummy),
            "ifb" => Some(Self::Ifb),
            _ => None,
        }
    }

    fn describe(self, info: Message) -> Message {
        let info = info.with(IFLA_INFO_KIND, self.name().as_bytes());
        let data = |fill: &dyn Fn(Message) -> Message, info: Message| info.nest(IFLA_INFO_DATA, fill);
        match self {
            Self::Macvlan { mode, broadcast_queue } => data(
                &|data| {
                    let data = data.with_u32(IFLA_MACVLAN_MODE, mode.number());
                    match broadcast_queue {
                        Some(length) => data.with_u32(IFLA_MACVLAN_BC_QUEUE_LEN, length),
                        None => data,
                    }
                },
                info,
            ),
            Self::Ipvlan(mode) => {
                data(&|data| data.with(IFLA_IPVLAN_MODE, &mode.number().to_ne_bytes()), info)
            }
            Self::Vlan(id) => data(&|data| data.with(IFLA_VLAN_ID, &id.to_ne_bytes()), info),
            Self::Vrf(table) => data(&|data| data.with_u32(IFLA_VRF_TABLE, table), info),
            Self::Dummy | Self::Ifb => info,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Macvlan { mode, .. } => write!(f, "{name} in mode {}", mode.name()),
            Self::Ipvlan(mode) => write!(f, "{name} in mode {}", mode.name()),
            Self::Vlan(id) => write!(f, "{name} {id}"),
            Self::Vrf(table) => write!(f, "{name} with table {table}"),
            Self::Dummy | Self::Ifb => f.write_str(name),
        }
    }
}

impl MacvlanMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Private, Self::Vepa, Self::Bridge, Self::Passthru];

    /// As configurations say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
            Self::Passthru => "passthru",
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
            Self::Passthru => 8,
        }
    }
}

impl IpvlanMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::L2, Self::L3, Self::L3s];

    /// As configurations say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::L2 => 0,
            Self::L3 => 1,
            Self::L3s => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::codec::HEADER, *};

    #[test]
    fn what_is_described_reads_back() {
        let macvlans = MacvlanMode::ALL.map(|mode| Kind::Macvlan { mode, broadcast_queue: None });
        let ipvlans = IpvlanMode::ALL.map(Kind::Ipvlan);
        for kind in macvlans.into_iter().chain(ipvlans).chain([Kind::Vlan(4094), Kind::Vrf(300), Kind::Dummy])
        {
            let bytes = kind.describe(Message::new(0, 0, &[])).finish(0, 0);
            let data = attribute(&bytes[HEADER..], IFLA_INFO_DATA).unwrap_or_default();
            assert_eq!(Kind::read(kind.name(), data), Some(kind));
        }
        assert_eq!(Kind::read("macvlan", &[]), None);
        assert_eq!(Kind::read("veth", &[]), None);
    }
}
