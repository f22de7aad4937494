//! Rules: lists of expressions that load fields into registers and compare them, ending in a verdict or an address
//! translation (linux/netfilter/nf_tables.h).

use super::Chain;
use crate::{
    netlink::{codec::Message, link::Mac},
    network::{IpNetwork, bits, octets},
};
use std::net::IpAddr;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NFT_RETURN: i32 = -5;
const NFT_JUMP: i32 = -3;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Transport {
    /// IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// Which address of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Source.
    Source,
    /// Destination.
    Destination,
}

/// A rule under construction: its expressions, encoded.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) message: Message,
    family_checked: bool,
}

/// Which way a packet crosses an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It came in by it.
    In,
    /// It goes out by it.
    Out,
}

impl Default for Rule {
    fn default() -> Self {
        Self::new()
    }
}

impl Rule {
    /// A rule that matches everything.
    pub fn new() -> Self {
        Self { message: Message::new(0, 0, &[]), family_checked: false }
    }

    /// `ip saddr A/P` and its like: the address is, or is not, in the network. Implies the network's family.
    #[must_use]
    pub fn address(mut self, field: Field, network: IpNetwork, inside: bool) -> Self {
        let network = network.network();
        self = self.family(network.address);
        if network.prefix == 0 {
            return self;
        }
        let width = u32::from(bits(network.address)) / 8;
        let source_offset = if network.address.is_ipv4() { 12 } else { 8 };
        let offset = match field {
            Field::Source => source_offset,
            Field::Destination => source_offset + width,
        };
        const NETWORK_HEADER: u32 = 1;
        self = self.payload(NETWORK_HEADER, offset, width);
        if network.prefix < bits(network.address) {
            self = self.masked(&network.mask_bytes());
        }
        self.compare(inside, &octets(network.address))
    }

    /// `meta nfproto`: packets of this address's family.
    #[must_use]
    pub fn family(mut self, like: IpAddr) -> Self {
        if self.family_checked {
            return self;
        }
        self.family_checked = true;
        const NFT_META_NFPROTO: u32 = 15;
        self.meta(NFT_META_NFPROTO).compare(true, &[nfproto(like)])
    }

    /// `tcp dport P`
    #[must_use]
    pub fn destination_port(self, transport: Transport, port: u16) -> Self {
        const NFT_META_L4PROTO: u32 = 16;
        const TRANSPORT_HEADER: u32 = 2;
        self.meta(NFT_META_L4PROTO)
            .compare(true, &[transport.number()])
            .payload(TRANSPORT_HEADER, 2, 2)
            .compare(true, &port.to_be_bytes())
    }

    /// `fib daddr type local`: the destination is an address of this machine.
    #[must_use]
    pub fn to_local_address(self) -> Self {
        const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
        const NFTA_FIB_F_DADDR: u32 = 2;
        self.expression("fib", |data| {
            data.with_be32(1, REGISTER_1).with_be32(2, NFT_FIB_RESULT_ADDRTYPE).with_be32(3, NFTA_FIB_F_DADDR)
        })
        .compare(true, &RTN_LOCAL.to_ne_bytes())
    }

    /// `ct status dnat`: some rule has changed the connection's destination.
    #[must_use]
    pub fn destination_was_changed(self) -> Self {
        const NFT_CT_STATUS: u32 = 2;
        self.expression("ct", |data| data.with_be32(1, REGISTER_1).with_be32(2, NFT_CT_STATUS))
            .masked(&IPS_DST_NAT.to_ne_bytes())
            .compare(true, &IPS_DST_NAT.to_ne_bytes())
    }

    /// `dnat to A:P`; ends the rule.
    #[must_use]
    pub fn dnat(self, to: IpAddr, port: u16) -> Self {
        const NFT_NAT_DNAT: u32 = 1;
        self.load(REGISTER_1, &octets(to)).load(REGISTER_2, &port.to_be_bytes()).expression("nat", |data| {
            data.with_be32(1, NFT_NAT_DNAT)
                .with_be32(2, nfproto(to).into())
                .with_be32(3, REGISTER_1)
                .with_be32(5, REGISTER_2)
        })
    }

    /// `masquerade`; ends the rule.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", |data| data)
    }

    /// `jump CHAIN`; ends the rule.
    #[must_use]
    pub fn jump(self, chain: Chain) -> Self {
        self.verdict(NFT_JUMP, Some(chain.name))
    }

    /// `return`; ends the rule.
    #[must_use]
    pub fn leave(self) -> Self {
        self.verdict(NFT_RETURN, None)
    }

    /// `iifname N`, `oifname N`: the packet comes in, or goes out, by the interface of that name, or does not.
    #[must_use]
    pub fn interface(self, direction: Direction, name: &str, same: bool) -> Self {
        const NFT_META_IIFNAME: u32 = 6;
        const NFT_META_OIFNAME: u32 = 7;
        const IFNAMSIZ: usize = 16;
        let mut padded = [0; IFNAMSIZ];
        let length = name.len().min(IFNAMSIZ - 1);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        let key = match direction {
            Direction::In => NFT_META_IIFNAME,
            Direction::Out => NFT_META_OIFNAME,
        };
        self.meta(key).compare(same, &padded)
    }

    /// `ether saddr A`: the frame has, or has not, this source. In tables of family bridge.
    #[must_use]
    pub fn source_hardware_address(self, mac: Mac, same: bool) -> Self {
        const LINK_LAYER_HEADER: u32 = 0;
        self.payload(LINK_LAYER_HEADER, 6, 6).compare(same, &mac.0)
    }

    /// `ct state established,related`
    #[must_use]
    pub fn of_known_connection(self) -> Self {
        const NFT_CT_STATE: u32 = 0;
        const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
        self.expression("ct", |data| data.with_be32(1, REGISTER_1).with_be32(2, NFT_CT_STATE))
            .masked(&ESTABLISHED_OR_RELATED.to_ne_bytes())
            .compare(false, &[0; 4])
    }

    /// `accept`; ends the rule.
    #[must_use]
    pub fn accept(self) -> Self {
        self.verdict(NF_ACCEPT, None)
    }

    /// `drop`; ends the rule.
    #[must_use]
    pub fn discard(self) -> Self {
        self.verdict(NF_DROP, None)
    }

    fn meta(self, key: u32) -> Self {
        self.expression("meta", |data| data.with_be32(1, REGISTER_1).with_be32(2, key))
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        self.expression("payload", |data| {
            data.with_be32(1, REGISTER_1).with_be32(2, base).with_be32(3, offset).with_be32(4, length)
        })
    }

    fn masked(self, mask: &[u8]) -> Self {
        let zeros = vec![0; mask.len()];
        self.expression("bitwise", |data| {
            data.with_be32(1, REGISTER_1)
                .with_be32(2, REGISTER_1)
                .with_be32(3, mask.len() as u32)
                .nest(4, |value| value.with(NFTA_DATA_VALUE, mask))
                .nest(5, |value| value.with(NFTA_DATA_VALUE, &zeros))
        })
    }

    fn compare(self, equal: bool, with: &[u8]) -> Self {
        self.expression("cmp", |data| {
            data.with_be32(1, REGISTER_1)
                .with_be32(2, u32::from(!equal))
                .nest(3, |value| value.with(NFTA_DATA_VALUE, with))
        })
    }

    fn load(self, register: u32, bytes: &[u8]) -> Self {
        self.expression("immediate", |data| {
            data.with_be32(1, register).nest(2, |value| value.with(NFTA_DATA_VALUE, bytes))
        })
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        self.expression("immediate", |data| {
            data.with_be32(1, REGISTER_VERDICT).nest(2, |value| {
                value.nest(NFTA_DATA_VERDICT, |verdict| {
                    let verdict = verdict.with_be32(NFTA_VERDICT_CODE, code as u32);
                    match chain {
                        Some(chain) => verdict.with_text(NFTA_VERDICT_CHAIN, chain),
                        None => verdict,
                    }
                })
            })
        })
    }

    fn expression(mut self, name: &str, fill: impl FnOnce(Message) -> Message) -> Self {
        self.message = self.message.nest(NFTA_LIST_ELEM, |element| {
            element.with_text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, fill)
        });
        self
    }
}

fn nfproto(address: IpAddr) -> u8 {
    if address.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 }
}
