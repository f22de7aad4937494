//! rtnetlink: policy rules, which say what table of routes a packet is looked up in (linux/fib_rules.h).

use super::{
    codec::{CREATE, EXCLUSIVE, Message, attribute, read_u32},
    route::RouteSocket,
    socket::{Answer, NetlinkError},
};
use crate::network::{IpNetwork, bits, from_octets, octets};
use std::net::IpAddr;

const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Packets of one source are looked up in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRule {
    /// Source address; `None` is any, in rules that were listed.
    pub source: Option<IpNetwork>,
    /// Table of routes.
    pub table: u32,
    /// Lower goes first; `None` lets the kernel choose one before all others.
    pub priority: Option<u32>,
    /// Of which family's packets.
    pub ipv4: bool,
}

impl PolicyRule {
    /// Packets from exactly this address.
    pub fn from_address(address: IpAddr, table: u32) -> Self {
        let source = Some(IpNetwork { address, prefix: bits(address) });
        Self { source, table, priority: None, ipv4: address.is_ipv4() }
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        // `struct fib_rule_hdr`: a table that fits in a byte is said there, too.
        let mut header = [0; 12];
        header[0] = if self.ipv4 { AF_INET } else { AF_INET6 };
        header[2] = self.source.map_or(0, |source| source.prefix);
        header[4] = u8::try_from(self.table).unwrap_or(0);
        header[7] = FR_ACT_TO_TBL;
        let mut message = Message::new(kind, flags, &header);
        if let Some(source) = self.source {
            message = message.with(FRA_SRC, &octets(source.address));
        }
        if let Some(priority) = self.priority {
            message = message.with_u32(FRA_PRIORITY, priority);
        }
        message.with_u32(FRA_TABLE, self.table)
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

impl RouteSocket {
    /// Adds a rule.
    pub fn add_rule(&mut self, rule: &PolicyRule) -> Result<()> {
        self.0.execute(rule.message(RTM_NEWRULE, CREATE | EXCLUSIVE))
    }

    /// Removes a rule.
    pub fn delete_rule(&mut self, rule: &PolicyRule) -> Result<()> {
        self.0.execute(rule.message(RTM_DELRULE, 0))
    }

    /// Rules that name a table, both families.
    pub fn rules(&mut self) -> Result<Vec<PolicyRule>> {
        let mut rules = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut header = [0; 12];
            header[0] = family;
            let answers = self.0.dump(&Message::new(RTM_GETRULE, 0, &header))?;
            rules.extend(answers.iter().filter_map(parse));
        }
        Ok(rules)
    }
}

fn parse(answer: &Answer) -> Option<PolicyRule> {
    let header = answer.get(..12)?;
    if header[7] != FR_ACT_TO_TBL {
        return None;
    }
    let attributes = answer.get(12..)?;
    let number = |kind| attribute(attributes, kind).and_then(read_u32);
    let source = attribute(attributes, FRA_SRC).and_then(from_octets);
    Some(PolicyRule {
        source: source.map(|address| IpNetwork { address, prefix: header[2] }),
        table: number(FRA_TABLE).unwrap_or_else(|| header[4].into()),
        priority: number(FRA_PRIORITY),
        ipv4: header[0] == AF_INET,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_encoded_as_the_kernel_lists_it() {
        for (address, table) in [("10.1.2.3", 100), ("fd00::7", 70_000)] {
            let rule = PolicyRule::from_address(address.parse().unwrap(), table);
            let bytes = rule.message(RTM_NEWRULE, 0).finish(1, 0);
            assert_eq!(parse(&bytes[16..].to_vec()), Some(rule));
        }
    }
}
