//! Links of the host that are lent to pods (`host-device`, `sriov`), and come back.
//!
//! While one is away its alias is the name that it has on the host, as the reference plugin has it.

use crate::{
    interface,
    netlink::{
        link::{Link, Mac},
        route::RouteSocket,
    },
    netns::NetNs,
    protocol::error::CniError,
    veth::random_name,
};
use rustix::fd::AsFd;
use std::path::Path;

/// Moves a link of the host into the pod under its name there, gives it a hardware address if there is one to give, and
/// brings it up. A link that cannot be lent stays, or is again, as it was.
pub(crate) fn lend(
    route: &mut RouteSocket,
    link: &Link,
    netns: &NetNs,
    name: &str,
    mac: Option<Mac>,
) -> Result<Link, CniError> {
    netns.enter(|| match interface::open()?.link(name) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(CniError::internal(format!("container interface {name:?} already exists"))),
        Err(error) => Err(error.during(format_args!("looking for {name:?}"))),
    })?;
    let during = |what: &str| format!("moving {:?} into the pod: {what}", link.name);
    // It is not taken down before: the kernel does, if it is a link that can be moved.
    route
        .move_link(link.index, netns.as_fd(), name, &link.name)
        .map_err(|e| e.during(during("moving it")))?;
    let started = netns.enter(|| {
        let mut route = interface::open()?;
        let arrived = interface::find(&mut route, name)?;
        if let Some(mac) = mac {
            route
                .set_mac(arrived.index, mac)
                .map_err(|e| e.during(during("setting its hardware address")))?;
        }
        route.set_up(arrived.index, true).map_err(|e| e.during(during("bringing it up")))?;
        interface::find(&mut route, name)
    });
    started.inspect_err(|_| {
        if let Err(failure) = undo(route, link, netns, name) {
            eprintln!("undoing a failed ADD: {failure}");
        }
    })
}

/// Gives back a link that this run has lent, and leaves it as it was before.
pub(crate) fn undo(route: &mut RouteSocket, link: &Link, netns: &NetNs, name: &str) -> Result<(), CniError> {
    give_back(netns, name)?;
    let during = |what: &str| format!("putting {:?} back as it was: {what}", link.name);
    let home = interface::find(route, &link.name)?;
    if !link.alias.is_empty() {
        route.set_alias(home.index, &link.alias).map_err(|e| e.during(during("noting its alias")))?;
    }
    if link.up {
        route.set_up(home.index, true).map_err(|e| e.during(during("bringing it up")))
    } else {
        Ok(())
    }
}

/// Moves the pod's interface to the host, under the name it had there. It is down, for nobody knows any more how it was.
pub(crate) fn give_back(netns: &NetNs, name: &str) -> Result<(), CniError> {
    let home = NetNs::required(Path::new("/proc/thread-self/ns/net"))?;
    netns.enter(|| {
        let mut route = interface::open()?;
        let link = route.link(name).map_err(|e| e.during(format_args!("looking for {name:?}")))?;
        let Some(link) = link else { return Ok(()) };
        // Without a note of its name it is not a device that we brought.
        if link.alias.is_empty() {
            return Err(CniError::internal(format!("host-device: {name:?} has no alias to go back under")));
        }
        let during = |what: &str| format!("moving {name:?} back to the host as {:?}: {what}", link.alias);
        let taken =
            home.enter(|| interface::open()?.link(&link.alias).map_err(|e| e.during(during("looking"))))?;
        // Somebody may have the name now: better on the host under another than lost with the pod.
        let back_as = if taken.is_some() { random_name("dev")? } else { link.alias.clone() };
        route.move_link(link.index, home.as_fd(), &back_as, "").map_err(|e| e.during(during("moving it")))
    })
}
