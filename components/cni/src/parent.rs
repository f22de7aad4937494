//! Interfaces that stand on one of the host: `macvlan`, `ipvlan`, `vlan`. How their parent is found, and how they
//! come into the pod.

use crate::{
    interface,
    netlink::{
        device::{Kind, NewLink},
        link::{Link, Mac},
    },
    netns::NetNs,
    protocol::{error::CniError, request::Request},
    veth::random_name,
};
use rustix::{fd::AsFd, io::Errno};
use serde::Deserialize;

/// Settings of all three.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ParentConfig {
    pub(crate) master: String,
    mtu: i64,
    /// The parent is in the pod, not on the host.
    #[serde(rename = "linkInContainer")]
    in_container: bool,
}

impl ParentConfig {
    /// Makes a link of that kind on the parent and brings it into the pod under its name there.
    pub(crate) fn make(
        &self,
        request: &Request,
        netns: &NetNs,
        kind: Kind,
        mac: Option<Mac>,
    ) -> Result<Link, CniError> {
        let name = &request.attachment.ifname;
        // Kernels before 6.13 refuse a name that is taken where the socket is, not where the link is going.
        let temporary = random_name("cni")?;
        let create = || {
            let mut route = interface::open()?;
            let parent = self.parent(&mut route)?;
            route
                .add_link(&NewLink {
                    name: &temporary,
                    kind,
                    parent: Some(parent.index),
                    netns: Some(netns.as_fd()),
                    mtu: self.mtu(&parent)?,
                    mac,
                })
                .map_err(|e| e.during(format_args!("failed to create {} on {:?}", kind.name(), parent.name)))
        };
        if self.in_container {
            netns.enter(create)?
        } else {
            create()?
        };
        netns.enter(|| {
            let mut route = interface::open()?;
            let link = interface::find(&mut route, &temporary)?;
            if let Err(error) = route.rename(link.index, name) {
                let _ = route.delete_link(link.index);
                if error.is(Errno::EXIST) {
                    return Err(CniError::internal(format!("container interface {name:?} already exists")));
                }
                return Err(error.during(format_args!("failed to rename {} to {name:?}", kind.name())));
            }
            interface::find(&mut route, name)
        })
    }

    /// CHECK: `link`, of the pod, stands on this parent.
    pub(crate) fn check(&self, netns: &NetNs, link: &Link) -> Result<(), CniError> {
        let look = || self.parent(&mut interface::open()?);
        let parent = if self.in_container { netns.enter(look)? } else { look()? };
        if link.peer == Some(parent.index) {
            return Ok(());
        }
        Err(CniError::internal(format!("Interface {} does not stand on {:?}", link.name, parent.name)))
    }

    /// CHECK: `link`, of the pod, has the MTU that the configuration gives it.
    pub(crate) fn check_mtu(&self, link: &Link) -> Result<(), CniError> {
        if self.mtu == 0 || self.mtu == i64::from(link.mtu) {
            return Ok(());
        }
        Err(CniError::internal(format!("Interface {} has MTU {}, not {}", link.name, link.mtu, self.mtu)))
    }

    /// The parent named, or the link of the default route.
    fn parent(&self, route: &mut crate::netlink::route::RouteSocket) -> Result<Link, CniError> {
        if !self.master.is_empty() {
            return route
                .link(&self.master)
                .map_err(|e| e.during(format_args!("failed to lookup master {:?}", self.master)))?
                .ok_or_else(|| {
                    CniError::internal(format!("failed to lookup master {:?}: Link not found", self.master))
                });
        }
        let routes = route.routes().map_err(|e| e.during("listing routes"))?;
        let defaults = || routes.iter().filter(|r| r.dst.prefix == 0 && r.link.is_some());
        let best = |ipv4: bool| {
            defaults().filter(|r| r.dst.address.is_ipv4() == ipv4).min_by_key(|r| r.priority)?.link
        };
        let index = best(true)
            .or_else(|| best(false))
            .ok_or_else(|| CniError::internal("no default route interface found; name one as `master`"))?;
        route.link_by_index(index).map_err(|e| e.during("looking for the default route's interface"))
    }

    fn mtu(&self, parent: &Link) -> Result<Option<u32>, CniError> {
        match u32::try_from(self.mtu) {
            Ok(0) => Ok(None),
            Ok(mtu) if mtu <= parent.mtu => Ok(Some(mtu)),
            _ => Err(CniError::config(format!(
                "invalid MTU {}, must be [0, master MTU({})]",
                self.mtu, parent.mtu
            ))),
        }
    }
}
