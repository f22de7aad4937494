//! nf_tables: tables, chains, rules (linux/netfilter/nf_tables.h, nfnetlink.h).
//!
//! A rule is a list of expressions that load fields into registers and compare them, ending in a verdict or an
//! address translation. [`Rule`] builds those lists; [`Chain`] and [`Table`] say where they go.

use super::{
    codec::{APPEND, CREATE, Message, NESTED, attribute, attributes, raw_attributes, read_be32, read_text},
    socket::{NetlinkError, Socket},
};
use rustix::io::Errno;

mod rule;

pub use rule::{Direction, Field, Rule, Transport};

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM << 8;
const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NFT_MSG_NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const NFT_MSG_GETRULE: u16 = SUBSYSTEM << 8 | 7;
const NFT_MSG_DELRULE: u16 = SUBSYSTEM << 8 | 8;
const NFT_MSG_GETGEN: u16 = SUBSYSTEM << 8 | 16;

const NFNL_BATCH_GENID: u16 = 1;
const NFTA_GEN_ID: u16 = 1;

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
/// libnftnl's type of a comment in a rule's user data.
const UDATA_RULE_COMMENT: u8 = 0;

const NFPROTO_INET: u8 = 1;
const NFPROTO_BRIDGE: u8 = 7;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_FORWARD: u32 = 2;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_BR_PRE_ROUTING: u32 = 0;
const NF_INET_POST_ROUTING: u32 = 4;

/// The longest comment the `nft` program takes, terminating zero included.
pub const COMMENT_MAX: usize = 128;

/// A table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What it sees.
    pub family: TableFamily,
}

/// What a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFamily {
    /// IPv4 and IPv6 packets.
    Inet,
    /// Frames that a bridge passes.
    Bridge,
}

impl TableFamily {
    fn number(self) -> u8 {
        match self {
            Self::Inet => NFPROTO_INET,
            Self::Bridge => NFPROTO_BRIDGE,
        }
    }
}

/// Where a chain gets its packets from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Destination NAT of what arrives.
    Prerouting,
    /// Destination NAT of what this machine sends.
    Output,
    /// Source NAT of what leaves.
    Postrouting,
    /// Filter of what is routed through this machine.
    Forward,
    /// Filter of what comes into a bridge, before it is switched.
    BridgePrerouting,
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
    /// Where its packets come from.
    pub hook: Hook,
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

/// The begin of a transaction; of one that was decided on by looking at rules, as they were in that generation.
pub(super) fn batch_begin(generation: Option<Generation>) -> Message {
    let message = Message::new(NFNL_MSG_BATCH_BEGIN, 0, &header(0, SUBSYSTEM));
    match generation {
        Some(Generation(number)) => message.with_be32(NFNL_BATCH_GENID, number),
        None => message,
    }
}

/// The number of changes that were made to all rules of a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u32);

impl Generation {
    /// Now.
    pub fn of(socket: &mut Socket) -> Result<Self, NetlinkError> {
        let answer = socket.get(Message::new(NFT_MSG_GETGEN, 0, &header(0, 0)))?;
        let number = answer.get(4..).and_then(|body| attribute(body, NFTA_GEN_ID)).and_then(read_be32);
        number.map(Self).ok_or(NetlinkError::Malformed)
    }
}

pub(super) fn batch_end() -> Message {
    Message::new(NFNL_MSG_BATCH_END, 0, &header(0, SUBSYSTEM))
}

impl Table {
    /// Makes it if it is not there.
    pub fn ensure(self) -> Message {
        Message::new(NFT_MSG_NEWTABLE, CREATE, &header(self.family.number(), 0))
            .with_text(NFTA_TABLE_NAME, self.name)
    }
}

impl Chain {
    /// Makes it if it is not there.
    pub fn ensure(self) -> Message {
        let message = Message::new(NFT_MSG_NEWCHAIN, CREATE, &header(self.table.family.number(), 0))
            .with_text(NFTA_CHAIN_TABLE, self.table.name)
            .with_text(NFTA_CHAIN_NAME, self.name);
        let (kind, number, priority) = match self.hook {
            Hook::Prerouting => ("nat", NF_INET_PRE_ROUTING, -100i32),
            Hook::Output => ("nat", NF_INET_LOCAL_OUT, -100),
            Hook::Postrouting => ("nat", NF_INET_POST_ROUTING, 100),
            Hook::Forward => ("filter", NF_INET_FORWARD, 0),
            Hook::BridgePrerouting => ("filter", NF_BR_PRE_ROUTING, -300),
            Hook::None => return message,
        };
        message
            .nest(NFTA_CHAIN_HOOK, |hook| {
                hook.with_be32(NFTA_HOOK_HOOKNUM, number).with_be32(NFTA_HOOK_PRIORITY, priority as u32)
            })
            .with_text(NFTA_CHAIN_TYPE, kind)
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
        Message::new(kind, flags, &header(self.table.family.number(), 0))
            .with_text(NFTA_RULE_TABLE, self.table.name)
            .with_text(NFTA_RULE_CHAIN, self.name)
    }

    fn parse(self, body: &[u8]) -> Option<ListedRule> {
        if read_text(attribute(body, NFTA_RULE_CHAIN)?) != self.name
            || read_text(attribute(body, NFTA_RULE_TABLE)?) != self.table.name
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
