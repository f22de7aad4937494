//! `vlan`: the frames of one VLAN (802.1Q) on one of the host's interfaces.

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    netlink::device::Kind,
    netns::NetNs,
    parent::ParentConfig,
    protocol::{error::CniError, request::Request, result::CniResult},
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    vlan_id: i64,
}

fn load(request: &Request) -> Result<(ParentConfig, Kind), CniError> {
    let document: Document = request.config()?;
    let parent: ParentConfig = request.config()?;
    if parent.master.is_empty() {
        return Err(CniError::config(
            "\"master\" field is required. It specifies the host interface name to create the VLAN for",
        ));
    }
    let id = u16::try_from(document.vlan_id).ok().filter(|id| *id <= 4094).ok_or_else(|| {
        CniError::config(format!("invalid VLAN ID {} (must be between 0 and 4094)", document.vlan_id))
    })?;
    Ok((parent, Kind::Vlan(id)))
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    load(request)?;
    interface::read(request)
}

/// Makes the interface.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let (parent, kind) = load(request)?;
    let make = |netns: &NetNs| parent.make(request, netns, kind, None);
    interface::add(request, WithoutIpam::Refuse, DnsFrom::Configuration, make, interface::remove(request))
}

/// Removes it.
pub fn del(request: &Request) -> Result<(), CniError> {
    interface::del(request, interface::remove(request))
}

/// Interface, its VLAN, MTU, parent, addresses and routes are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    let (parent, kind) = load(request)?;
    let link = interface::check(request, None)?;
    interface::check_kind(&link, kind)?;
    parent.check_mtu(&link)?;
    parent.check(&NetNs::required(request.netns()?)?, &link)
}
