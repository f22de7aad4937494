//! The nf_tables rules of all plugins: masquerading, forwarded ports, and what `firewall` and `macspoofchk` filter.
//!
//! ```text
//! table inet cairn_cni {
//!     chain prerouting  { type nat hook prerouting priority dstnat;   fib daddr type local jump hostports }
//!     chain output      { type nat hook output priority dstnat;       fib daddr type local jump hostports }
//!     chain postrouting { type nat hook postrouting priority srcnat;  jump hairpin; multicast return; jump masquerading }
//!     chain hostports   { one rule per host port }
//!     chain hairpin     { source NAT that a forwarded connection needs }
//!     chain masquerading { one rule per pod address }
//!
//!     chain forward     { type filter hook forward priority filter;   jump isolation; jump admin; jump forwarded }
//!     chain isolation   { what leaves a bridge whose pods are kept apart; jump isolated }
//!     chain isolated    { what would enter such a bridge: drop }
//!     chain admin       { empty: the operator's, never written here }
//!     chain forwarded   { two rules per pod address }
//! }
//! table bridge cairn_cni {
//!     chain prerouting  { type filter hook prerouting priority -300;  one rule per pod whose frames are checked }
//! }
//! ```
//!
//! The first half of the table is made when the first port or masquerade is, the second with the first `firewall`.
//! Every rule but the jumps carries a comment that says whose it is: `<network> <ifname> <container id>`. DEL removes
//! by comment, not by address: an address may have a new owner before its last one is detached.

use crate::{
    netlink::{
        codec::Message,
        nftables::{Chain, Field, Generation, Hook, Rule, Table, TableFamily},
        socket::{Family, NetlinkError, Socket},
    },
    network::IpNetwork,
    protocol::{error::CniError, request::Attachment},
};
use rustix::io::Errno;
use std::{
    collections::HashSet,
    net::{Ipv4Addr, Ipv6Addr},
};

const TABLE: Table = Table { name: "cairn_cni", family: TableFamily::Inet };
const BRIDGES: Table = Table { name: "cairn_cni", family: TableFamily::Bridge };
const PREROUTING: Chain = chain("prerouting", Hook::Prerouting);
const OUTPUT: Chain = chain("output", Hook::Output);
const POSTROUTING: Chain = chain("postrouting", Hook::Postrouting);
const FORWARD: Chain = chain("forward", Hook::Forward);
/// The operator's own rules on what is forwarded.
const ADMIN: Chain = chain("admin", Hook::None);
/// Forwarding of host ports.
pub const HOSTPORTS: Chain = chain("hostports", Hook::None);
/// Source NAT of forwarded connections.
pub const HAIRPIN: Chain = chain("hairpin", Hook::None);
/// Source NAT of connections that pods open.
pub const MASQUERADE: Chain = chain("masquerading", Hook::None);
/// What pods may send and receive.
pub const FORWARDED: Chain = chain("forwarded", Hook::None);
/// What leaves a bridge whose pods are kept apart from those of others.
pub const ISOLATION: Chain = chain("isolation", Hook::None);
/// What would enter such a bridge.
pub const ISOLATED: Chain = chain("isolated", Hook::None);
/// Frames whose source is not their pod's hardware address.
pub const SPOOFING: Chain = Chain { table: BRIDGES, name: "prerouting", hook: Hook::BridgePrerouting };

/// A listed rule may be deleted by another plugin's run before ours gets to it, or one be added; then we look again.
const ATTEMPTS: usize = 20;

const MODULES: &str = "needed in the kernel: nf_tables with inet and bridge families, nft_chain_nat, nft_nat, nft_masq, nft_ct, nft_fib_inet";

const fn chain(name: &'static str, hook: Hook) -> Chain {
    Chain { table: TABLE, name, hook }
}

/// One plugin run's access to the table.
#[derive(Debug)]
pub struct Ruleset(Socket);

impl Ruleset {
    /// Opens it; the table itself is made when the first rule is.
    pub fn open() -> Result<Self, CniError> {
        Socket::open(Family::Netfilter).map(Self).map_err(|e| e.during("opening nf_tables"))
    }

    /// The netfilter socket, for conntrack.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.0
    }

    /// Makes `rules` all that `owner` has in `chains`, in one transaction.
    pub fn replace(
        &mut self,
        chains: &[Chain],
        owner: &Owner,
        rules: &[(Chain, Rule)],
    ) -> Result<(), CniError> {
        self.retry("writing nf_tables rules", |ruleset| {
            let mut batch = scaffold(chains);
            batch.extend(ruleset.deletions(chains, |comment| comment == owner.comment)?);
            batch.extend(rules.iter().map(|(chain, rule)| chain.append(rule.clone(), &owner.comment)));
            ruleset.0.transaction(batch, None)
        })
    }

    /// Removes all that `owner` has in `chains`.
    pub fn remove(&mut self, chains: &[Chain], owner: &Owner) -> Result<(), CniError> {
        self.remove_where(chains, |comment| comment == owner.comment)
    }

    /// Removes what belongs to `network` but to none of `valid`.
    pub fn retain(&mut self, chains: &[Chain], network: &str, valid: &[Attachment]) -> Result<(), CniError> {
        let prefix = prefix(network);
        let keep: HashSet<String> = valid.iter().map(|a| Owner::new(network, a).comment).collect();
        self.remove_where(chains, |comment| comment.starts_with(&prefix) && !keep.contains(comment))
    }

    /// Whether `owner` has exactly these rules; the first that is missing, or too much, is told.
    pub fn check(
        &mut self,
        chains: &[Chain],
        owner: &Owner,
        rules: &[(Chain, Rule)],
    ) -> Result<(), CniError> {
        for chain in chains {
            let mut listed = chain.list(&mut self.0).map_err(|e| e.during("listing nf_tables rules"))?;
            listed.retain(|rule| rule.comment == owner.comment);
            let expected: Vec<&Rule> =
                rules.iter().filter(|(at, _)| at.name == chain.name).map(|(_, r)| r).collect();
            let missing = expected.iter().filter(|rule| !listed.iter().any(|l| l.is(rule))).count();
            if missing > 0 || listed.len() != expected.len() {
                let message = format!("nf_tables rules in chain {} of table {}", chain.name, TABLE.name);
                return Err(CniError::internal(format!(
                    "{message}: {missing} of {} missing, {} found",
                    expected.len(),
                    listed.len()
                )));
            }
        }
        Ok(())
    }

    /// Whether the kernel can do what rules in `chains` need; makes the table.
    pub fn probe(&mut self, chains: &[Chain]) -> Result<(), CniError> {
        self.retry("preparing nf_tables", |ruleset| ruleset.0.transaction(scaffold(chains), None))
    }

    /// Removes all that belongs to `network` from `chains`, unless something does in `users`. No ADD comes in between: what
    /// was decided on by looking at other rules than there are the kernel refuses, and then we look again.
    pub fn remove_unused(&mut self, chains: &[Chain], network: &str, users: Chain) -> Result<(), CniError> {
        let prefix = prefix(network);
        self.retry("removing nf_tables rules", |ruleset| {
            let generation = Generation::of(&mut ruleset.0)?;
            if users.list(&mut ruleset.0)?.iter().any(|rule| rule.comment.starts_with(&prefix)) {
                return Ok(());
            }
            let batch = ruleset.deletions(chains, |comment| comment.starts_with(&prefix))?;
            if batch.is_empty() { Ok(()) } else { ruleset.0.transaction(batch, Some(generation)) }
        })
    }

    fn remove_where(&mut self, chains: &[Chain], unwanted: impl Fn(&str) -> bool) -> Result<(), CniError> {
        self.retry("removing nf_tables rules", |ruleset| {
            let batch = ruleset.deletions(chains, &unwanted)?;
            if batch.is_empty() { Ok(()) } else { ruleset.0.transaction(batch, None) }
        })
    }

    fn deletions(
        &mut self,
        chains: &[Chain],
        unwanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Message>, NetlinkError> {
        let mut batch = Vec::new();
        for chain in chains {
            let rules = chain.list(&mut self.0)?;
            batch.extend(rules.iter().filter(|rule| unwanted(&rule.comment)).map(|rule| chain.delete(rule)));
        }
        Ok(batch)
    }

    fn retry(
        &mut self,
        what: &str,
        mut attempt: impl FnMut(&mut Self) -> Result<(), NetlinkError>,
    ) -> Result<(), CniError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match attempt(self) {
                Ok(()) => return Ok(()),
                Err(error) if tries < ATTEMPTS && (error.is(Errno::NOENT) || error.is(Errno::RESTART)) => {}
                // The kernel says the same when an expression's or chain type's module is missing.
                Err(error) if error.is(Errno::NOENT) => {
                    return Err(error.during(what).details(MODULES));
                }
                Err(error) => return Err(error.during(what)),
            }
        }
    }
}

/// Table, chains and the rules between them; written anew each time, since that is atomic and asks no question.
fn scaffold(chains: &[Chain]) -> Vec<Message> {
    let any = |of: &[Chain]| chains.iter().any(|chain| of.iter().any(|c| c.name == chain.name));
    if chains.iter().any(|chain| chain.table.family == TableFamily::Bridge) {
        return vec![BRIDGES.ensure(), SPOOFING.ensure()];
    }
    let mut batch = vec![TABLE.ensure()];
    if any(&[HOSTPORTS, HAIRPIN, MASQUERADE]) {
        batch.extend(translating());
    }
    if any(&[FORWARDED, ISOLATION, ISOLATED]) {
        batch.extend(filtering());
    }
    batch
}

fn translating() -> Vec<Message> {
    let multicast = [
        IpNetwork { address: Ipv4Addr::new(224, 0, 0, 0).into(), prefix: 4 },
        IpNetwork { address: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), prefix: 8 },
    ]
    .map(|network| Rule::new().address(Field::Destination, network, true).leave());
    let mut batch =
        Vec::from([PREROUTING, OUTPUT, POSTROUTING, HOSTPORTS, HAIRPIN, MASQUERADE].map(Chain::ensure));
    for chain in [PREROUTING, OUTPUT] {
        batch.push(chain.flush());
        batch.push(chain.append(Rule::new().to_local_address().jump(HOSTPORTS), ""));
    }
    batch.push(POSTROUTING.flush());
    batch.push(POSTROUTING.append(Rule::new().jump(HAIRPIN), ""));
    batch.extend(multicast.map(|rule| POSTROUTING.append(rule, "")));
    batch.push(POSTROUTING.append(Rule::new().jump(MASQUERADE), ""));
    batch
}

fn filtering() -> Vec<Message> {
    let mut batch = Vec::from([FORWARD, ISOLATION, ISOLATED, ADMIN, FORWARDED].map(Chain::ensure));
    batch.push(FORWARD.flush());
    batch.extend([ISOLATION, ADMIN, FORWARDED].map(|to| FORWARD.append(Rule::new().jump(to), "")));
    batch
}

/// Whose rules: an attachment to a network, as rule comments say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    comment: String,
}

impl Owner {
    /// The owner for an attachment. Names too long for a comment are cut and end in a hash of the whole.
    pub fn new(network: &str, attachment: &Attachment) -> Self {
        let Attachment { container_id, ifname } = attachment;
        Self { comment: format!("{}{ifname} {}", prefix(network), shortened(container_id, 68)) }
    }

    /// The owner for what all attachments to a network share on one of its bridges.
    pub fn of_bridge(network: &str, bridge: &str) -> Self {
        Self { comment: format!("{}bridge {bridge}", prefix(network)) }
    }

    /// As rules say it.
    pub fn comment(&self) -> &str {
        &self.comment
    }
}

/// What the comments of a network's owners begin with.
pub(crate) fn prefix(network: &str) -> String {
    format!("{} ", shortened(network, 40))
}

fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    // FNV-1a. Names are ASCII (checked with the request), so any byte is a character boundary.
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{}~{hash:016x}", &text[..limit - 17])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nftables::COMMENT_MAX;

    fn owner(network: &str, id: &str) -> String {
        let attachment = Attachment { container_id: id.into(), ifname: "interface-name1".into() };
        Owner::new(network, &attachment).comment
    }

    #[test]
    fn comments_fit_and_stay_distinct() {
        let (long, other) = ("n".repeat(200), format!("{}x", "n".repeat(199)));
        assert_eq!(owner("pods", &"a".repeat(64)), format!("pods interface-name1 {}", "a".repeat(64)));
        let comments =
            [owner(&long, &long), owner(&other, &long), owner(&long, &other), owner(&other, &other)];
        for (index, comment) in comments.iter().enumerate() {
            assert!(comment.len() < COMMENT_MAX, "{}", comment.len());
            assert!(!comments[index + 1..].contains(comment));
        }
    }
}
