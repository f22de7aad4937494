//! nf_tables: tables, chains, rules (linux/netfilter/nf_tables.h, nfnetlink.h).
//!
//! A rule is a list of expressions that load fields into registers and compare them, ending in a verdict or an
//! address translation. [`Rule`] builds those lists; [`Chain`] and [`Table`] say where they go.

use super::{
    codec::{APPEND, CREATE, Message, NESTED, attribute, attributes, raw_attributes, read_text},
    socket::{NetlinkError, Socket},
};
use crate::network::{IpNetwork, bits, octets};
use rustix::io::Errno;
use std::net::IpAddr;

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM << 8;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NFT_MSG_NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM << 8 | 7;
const NFT_MSG_DELRULE: u16 = SUBSYSTEM << 8 | 8;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// libnftnl's type of a comment in a rule's user data.
const UDATA_RULE_COMMENT: u8 = 0;

const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_INET_POST_ROUTING: u32 = 4;
const NFT_RETURN: i32 = -5;
const NFT_JUMP: i32 = -3;
const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;

/// The longest comment the `nft` program takes, terminating zero included.
pub const COMMENT_MAX: usize = 128;

/// A table of family `inet`.
#[derive(Debug, Clone, Copy)]
pub struct Table(pub &'static str);

/// Where a chain gets its packets from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Destination NAT of what arrives.
    Prerouting,
    /// Destination NAT of what this machine sends.
    Output,
    /// Source NAT of what leaves.
    Postrouting,
    /// Nowhere: rules of other chains jump here.
    None,
}

/// A chain of a table.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    /// Its table.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// NAT hook.
    pub hook: Hook,
}

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
    message: Message,
    family_checked: bool,
}

/// A rule as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    /// Names it for deletion.
    pub handle: u64,
    /// Its comment, or nothing.
    pub comment: String,
    /// Its expressions, each as the kernel encodes it.
    pub expressions: Vec<Vec<u8>>,
}

impl ListedRule {
    /// Whether this is what became of `rule`. The kernel adds attributes of its own, so ours must be among them.
    pub fn is(&self, rule: &Rule) -> bool {
        let expected = rule.message.clone().finish(0, 0);
        let expected: Vec<&[u8]> = attributes(&expected[super::codec::HEADER..]).map(|(_, e)| e).collect();
        expected.len() == self.expressions.len()
            && expected.iter().zip(&self.expressions).all(|(expected, listed)| includes(listed, expected))
    }
}

fn includes(listed: &[u8], expected: &[u8]) -> bool {
    raw_attributes(expected).all(|(kind, value)| match attribute(listed, kind & !NESTED) {
        Some(found) if kind & NESTED != 0 => includes(found, value),
        Some(found) => found == value,
        // An expression without settings has no data when it is listed.
        None => value.is_empty(),
    })
}

/// `struct nfgenmsg`
fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

pub(super) fn batch_begin() -> Message {
    Message::new(NFNL_MSG_BATCH_BEGIN, 0, &header(0, SUBSYSTEM))
}

pub(super) fn batch_end() -> Message {
    Message::new(NFNL_MSG_BATCH_END, 0, &header(0, SUBSYSTEM))
}

impl Table {
    /// Makes it if it is not there.
    pub fn ensure(self) -> Message {
        Message::new(NFT_MSG_NEWTABLE, CREATE, &header(NFPROTO_INET, 0)).with_text(NFTA_TABLE_NAME, self.0)
    }
}

impl Chain {
    /// Makes it if it is not there.
    pub fn ensure(self) -> Message {
        let message = Message::new(NFT_MSG_NEWCHAIN, CREATE, &header(NFPROTO_INET, 0))
            .with_text(NFTA_CHAIN_TABLE, self.table.0)
            .with_text(NFTA_CHAIN_NAME, self.name);
        let (number, priority) = match self.hook {
            Hook::Prerouting => (NF_INET_PRE_ROUTING, -100i32),
            Hook::Output => (NF_INET_LOCAL_OUT, -100),
            Hook::Postrouting => (NF_INET_POST_ROUTING, 100),
            Hook::None => return message,
        };
        message
            .nest(NFTA_CHAIN_HOOK, |hook| {
                hook.with_be32(NFTA_HOOK_HOOKNUM, number).with_be32(NFTA_HOOK_PRIORITY, priority as u32)
            })
            .with_text(NFTA_CHAIN_TYPE, "nat")
    }

    /// Removes all its rules.
    pub fn flush(self) -> Message {
        self.rule_message(NFT_MSG_DELRULE, 0)
    }

    /// Appends a rule with a comment, possibly empty, of less than [`COMMENT_MAX`] bytes.
    pub fn append(self, rule: Rule, comment: &str) -> Message {
        let expressions = rule.message.finish(0, 0);
        let message = self
            .rule_message(NFT_MSG_NEWRULE, CREATE | APPEND)
            .nest(NFTA_RULE_EXPRESSIONS, |list| list.raw(&expressions[super::codec::HEADER..]));
        if comment.is_empty() {
            return message;
        }
        debug_assert!(comment.len() < COMMENT_MAX);
        let mut userdata = vec![UDATA_RULE_COMMENT, comment.len() as u8 + 1];
        userdata.extend_from_slice(comment.as_bytes());
        userdata.push(0);
        message.with(NFTA_RULE_USERDATA, &userdata)
    }

    /// Removes one rule.
    pub fn delete(self, rule: &ListedRule) -> Message {
        self.rule_message(NFT_MSG_DELRULE, 0).with(NFTA_RULE_HANDLE, &rule.handle.to_be_bytes())
    }

    /// Its rules in order. None if there is no such chain or table, or no nf_tables at all.
    pub fn list(self, socket: &mut Socket) -> Result<Vec<ListedRule>, NetlinkError> {
        match socket.dump(&self.rule_message(NFT_MSG_GETRULE, 0)) {
            // Older kernels take no notice of the chain given and list the whole table.
            Ok(answers) => Ok(answers.iter().filter_map(|answer| self.parse(answer.get(4..)?)).collect()),
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::OPNOTSUPP) || error.is(Errno::INVAL) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn rule_message(self, kind: u16, flags: u16) -> Message {
        Message::new(kind, flags, &header(NFPROTO_INET, 0))
            .with_text(NFTA_RULE_TABLE, self.table.0)
            .with_text(NFTA_RULE_CHAIN, self.name)
    }

    fn parse(self, body: &[u8]) -> Option<ListedRule> {
        if read_text(attribute(body, NFTA_RULE_CHAIN)?) != self.name
            || read_text(attribute(body, NFTA_RULE_TABLE)?) != self.table.0
        {
            return None;
        }
        let handle = attribute(body, NFTA_RULE_HANDLE)?;
        Some(ListedRule {
            handle: u64::from_be_bytes(handle.try_into().ok()?),
            comment: attribute(body, NFTA_RULE_USERDATA).map(comment).unwrap_or_default(),
            expressions: attribute(body, NFTA_RULE_EXPRESSIONS)
                .map(|list| attributes(list).map(|(_, expression)| expression.to_vec()).collect())
                .unwrap_or_default(),
        })
    }
}

/// User data is a list of type, length, value.
fn comment(mut userdata: &[u8]) -> String {
    while let [kind, length, rest @ ..] = userdata {
        let Some(value) = rest.get(..usize::from(*length)) else { break };
        if *kind == UDATA_RULE_COMMENT {
            return read_text(value);
        }
        userdata = &rest[usize::from(*length)..];
    }
    String::new()
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
