//! `macspoofchk`: frames that a pod sends under another hardware address than its own end at the bridge.

use crate::{
    netlink::{
        link::Mac,
        nftables::{Chain, Direction, Rule},
    },
    protocol::{error::CniError, request::Request},
    ruleset::{Owner, Ruleset, SPOOFING},
};

/// Whether the configuration wants it.
fn is_asked(request: &Request) -> Result<bool, CniError> {
    request.key("macspoofchk")
}

fn rules(port: &str, mac: Mac) -> [(Chain, Rule); 1] {
    let rule = Rule::new().interface(Direction::In, port, true).source_hardware_address(mac, false).discard();
    [(SPOOFING, rule)]
}

fn owner(request: &Request) -> Owner {
    Owner::new(&request.network, &request.attachment)
}

pub(super) fn add(request: &Request, port: &str, mac: Mac) -> Result<(), CniError> {
    Ruleset::open()?.replace(&[SPOOFING], &owner(request), &rules(port, mac))
}

/// Removes the attachment's rule, if the configuration wants one.
pub(super) fn remove(request: &Request) -> Result<(), CniError> {
    if !is_asked(request)? {
        return Ok(());
    }
    Ruleset::open()?.remove(&[SPOOFING], &owner(request))
}

/// Removes the rules of attachments that are no more, if the configuration wants such.
pub(super) fn retain(request: &Request) -> Result<(), CniError> {
    if !is_asked(request)? {
        return Ok(());
    }
    Ruleset::open()?.retain(&[SPOOFING], &request.network, &request.valid_attachments()?)
}

pub(super) fn check(request: &Request, port: &str, mac: Mac) -> Result<(), CniError> {
    Ruleset::open()?.check(&[SPOOFING], &owner(request), &rules(port, mac))
}

pub(super) fn probe() -> Result<(), CniError> {
    Ruleset::open()?.probe(&[SPOOFING])
}
