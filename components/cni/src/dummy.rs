//! `dummy`: an interface that leads nowhere, to hold addresses.

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    netlink::device::{Kind, NewLink},
    netns::NetNs,
    protocol::{error::CniError, request::Request, result::CniResult},
};

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    interface::read(request)
}

/// Makes the interface.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let name = &request.attachment.ifname;
    let make = |netns: &NetNs| {
        netns.enter(|| {
            let mut route = interface::open()?;
            let new = NewLink { name, kind: Kind::Dummy, parent: None, netns: None, mtu: None, mac: None };
            route.add_link(&new).map_err(|e| e.during("failed to create dummy"))?;
            interface::find(&mut route, name)
        })
    };
    interface::add(request, WithoutIpam::Refuse, DnsFrom::Ipam, make, interface::remove(request))
}

/// Removes it.
pub fn del(request: &Request) -> Result<(), CniError> {
    interface::del(request, interface::remove(request))
}

/// Interface, addresses and routes are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    interface::check(request, Some(Kind::Dummy.name())).map(|_| ())
}
