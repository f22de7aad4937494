//! The nf_tables table that `bridge` (masquerading) and `portmap` (forwarding) share.
//!
//! ```text
//! table inet cairn_cni {
//!     chain prerouting  { type nat hook prerouting priority dstnat;   fib daddr type local jump hostports }
//!     chain output      { type nat hook output priority dstnat;       fib daddr type local jump hostports }
//!     chain postrouting { type nat hook postrouting priority srcnat;  jump hairpin; multicast return; jump masquerading }
//!     chain hostports   { one rule per host port }
//!     chain hairpin     { source NAT that a forwarded connection needs }
//!     chain masquerading { one rule per pod address }
//! }
//! ```
//!
//! Every rule in the last three carries a comment that says whose it is: `<network> <ifname> <container id>`. DEL
//! removes by comment, not by address: an address may have a new owner before its last one is detached.

use crate::{
    netlink::{
        codec::Message,
        nftables::{Chain, Field, Hook, Rule, Table},
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

const TABLE: Table = Table("cairn_cni");
const PREROUTING: Chain = chain("prerouting", Hook::Prerouting);
const OUTPUT: Chain = chain("output", Hook::Output);
const POSTROUTING: Chain = chain("postrouting", Hook::Postrouting);
/// Forwarding of host ports.
pub const HOSTPORTS: Chain = chain("hostports", Hook::None);
/// Source NAT of forwarded connections.
pub const HAIRPIN: Chain = chain("hairpin", Hook::None);
/// Source NAT of connections that pods open.
pub const MASQUERADE: Chain = chain("masquerading", Hook::None);

/// A listed rule may be deleted by another plugin's run before ours gets to it; then we look again.
const ATTEMPTS: usize = 20;

const MODULES: &str =
    "needed in the kernel: nf_tables, nft_chain_nat, nft_nat, nft_masq, nft_ct, nft_fib_inet";

const fn chain(name: &'static str, hook: Hook) -> Chain {
    Chain { table: TABLE, name, hook }
}

/// One plugin run's access to the table.
#[derive(Debug)]
pub struct Firewall(Socket);

impl Firewall {
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
        self.retry("writing nf_tables rules", |firewall| {
            let mut batch = scaffold();
            batch.extend(firewall.deletions(chains, |comment| comment == owner.comment)?);
            batch.extend(rules.iter().map(|(chain, rule)| chain.append(rule.clone(), &owner.comment)));
            firewall.0.transaction(batch)
        })
    }

    /// Removes all that `owner` has in `chains`.
    pub fn remove(&mut self, chains: &[Chain], owner: &Owner) -> Result<(), CniError> {
        self.remove_where(chains, |comment| comment == owner.comment)
    }

    /// Removes what belongs to `network` but to none of `valid`.
    pub fn retain(&mut self, chains: &[Chain], network: &str, valid: &[Attachment]) -> Result<(), CniError> {
        let prefix = format!("{} ", shortened(network, 40));
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
                let message = format!("nf_tables rules in chain {} of table {}", chain.name, TABLE.0);
                return Err(CniError::internal(format!(
                    "{message}: {missing} of {} missing, {} found",
                    expected.len(),
                    listed.len()
                )));
            }
        }
        Ok(())
    }

    /// Whether the kernel can do what the rules need; makes the table.
    pub fn probe(&mut self) -> Result<(), CniError> {
        self.retry("preparing nf_tables", |firewall| firewall.0.transaction(scaffold()))
    }

    fn remove_where(&mut self, chains: &[Chain], unwanted: impl Fn(&str) -> bool) -> Result<(), CniError> {
        self.retry("removing nf_tables rules", |firewall| {
            let batch = firewall.deletions(chains, &unwanted)?;
            if batch.is_empty() { Ok(()) } else { firewall.0.transaction(batch) }
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
                Err(error) if tries < ATTEMPTS && error.is(Errno::NOENT) => {}
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
fn scaffold() -> Vec<Message> {
    let multicast = [
        IpNetwork { address: Ipv4Addr::new(224, 0, 0, 0).into(), prefix: 4 },
        IpNetwork { address: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), prefix: 8 },
    ]
    .map(|network| Rule::new().address(Field::Destination, network, true).leave());
    let mut batch = vec![TABLE.ensure()];
    batch.extend([PREROUTING, OUTPUT, POSTROUTING, HOSTPORTS, HAIRPIN, MASQUERADE].map(Chain::ensure));
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

/// Whose rules: an attachment to a network, as rule comments say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    comment: String,
}

impl Owner {
    /// The owner for an attachment. Names too long for a comment are cut and end in a hash of the whole.
    pub fn new(network: &str, attachment: &Attachment) -> Self {
        let Attachment { container_id, ifname } = attachment;
        Self { comment: format!("{} {ifname} {}", shortened(network, 40), shortened(container_id, 68)) }
    }
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
