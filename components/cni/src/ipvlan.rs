//! `ipvlan`: an interface with its own network addresses behind the hardware address of one of the host's.

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    netlink::device::{IpvlanMode, Kind},
    netns::NetNs,
    parent::ParentConfig,
    protocol::{
        error::CniError,
        request::{Command, Request},
        result::CniResult,
    },
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    mode: String,
}

fn load(request: &Request) -> Result<(ParentConfig, Kind), CniError> {
    let document: Document = request.config()?;
    let mode = match document.mode.as_str() {
        "" => IpvlanMode::L2,
        name => IpvlanMode::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| CniError::config(format!("unknown ipvlan mode: {name:?}")))?,
    };
    let mut parent: ParentConfig = request.config()?;
    // Chained after a plugin that made one interface: that is the parent.
    if parent.master.is_empty()
        && request.command == Command::Add
        && let Some(previous) = request.previous_result()?
    {
        match &previous.interfaces[..] {
            [only] if !only.name.is_empty() => parent.master.clone_from(&only.name),
            _ => {
                return Err(CniError::config(
                    "chained master failure. PrevResult lacks a single named interface",
                ));
            }
        }
    }
    Ok((parent, Kind::Ipvlan(mode)))
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    load(request)?;
    interface::read(request)
}

/// Makes the interface.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let (parent, kind) = load(request)?;
    let make = |netns: &NetNs| parent.make(request, netns, kind, None);
    interface::add(
        request,
        WithoutIpam::FromPrevious,
        DnsFrom::Configuration,
        make,
        interface::remove(request),
    )
}

/// Removes it.
pub fn del(request: &Request) -> Result<(), CniError> {
    interface::del(request, interface::remove(request))
}

/// Interface, its mode, parent, addresses and routes are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    let (parent, kind) = load(request)?;
    let link = interface::check(request, None)?;
    interface::check_kind(&link, kind)?;
    // A parent taken from the chain is not in the configuration, and prevResult is now our own.
    if parent.master.is_empty() {
        return Ok(());
    }
    parent.check(&NetNs::required(request.netns()?)?, &link)
}
