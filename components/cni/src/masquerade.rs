//! Source NAT for pods: what leaves their network goes out under the node's address.

use crate::{
    netlink::nftables::{Chain, Field, Rule},
    network::{IpNetwork, bits},
    protocol::{error::CniError, request::Request, result::CniResult},
    ruleset::{MASQUERADE, Owner, Ruleset},
};

/// Whether the configuration wants it.
fn is_asked(request: &Request) -> Result<bool, CniError> {
    request.key("ipMasq")
}

/// Whether `ipMasqBackend` names one that there is. What iptables would do is done by nf_tables.
pub(crate) fn check_backend(name: &str) -> Result<(), CniError> {
    match name {
        "" | "nftables" | "iptables" => Ok(()),
        other => Err(CniError::config(format!("unknown ipmasq backend {other:?}"))),
    }
}

fn rules(result: &CniResult) -> Vec<(Chain, Rule)> {
    result
        .ips
        .iter()
        .map(|ip| {
            let address = ip.address.address;
            let rule = Rule::new()
                .address(Field::Source, IpNetwork { address, prefix: bits(address) }, true)
                .address(Field::Destination, ip.address, false)
                .masquerade();
            (MASQUERADE, rule)
        })
        .collect()
}

fn owner(request: &Request) -> Owner {
    Owner::new(&request.network, &request.attachment)
}

pub(crate) fn add(request: &Request, result: &CniResult) -> Result<(), CniError> {
    Ruleset::open()?.replace(&[MASQUERADE], &owner(request), &rules(result))
}

/// Removes the attachment's rules, if the configuration wants such.
pub(crate) fn remove(request: &Request) -> Result<(), CniError> {
    if !is_asked(request)? {
        return Ok(());
    }
    Ruleset::open()?.remove(&[MASQUERADE], &owner(request))
}

/// Removes the rules of attachments that are no more, if the configuration wants such.
pub(crate) fn retain(request: &Request) -> Result<(), CniError> {
    if !is_asked(request)? {
        return Ok(());
    }
    Ruleset::open()?.retain(&[MASQUERADE], &request.network, &request.valid_attachments()?)
}

pub(crate) fn check(request: &Request, result: &CniResult) -> Result<(), CniError> {
    Ruleset::open()?.check(&[MASQUERADE], &owner(request), &rules(result))
}

pub(crate) fn probe() -> Result<(), CniError> {
    Ruleset::open()?.probe(&[MASQUERADE])
}
