//! `tap`: an interface whose frames a program in the pod reads and writes, a virtual machine's monitor most often.

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    netlink::{
        link::Mac,
        sys::{TapOwner, persistent_tap},
    },
    netns::NetNs,
    protocol::{
        error::{CniError, Code},
        request::Request,
        result::CniResult,
    },
};
use rustix::io::Errno;
use serde::Deserialize;
use std::{fs, path::Path};

const DEVICE: &str = "/dev/net/tun";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    mtu: i64,
    mac: String,
    multi_queue: bool,
    owner: Option<u32>,
    group: Option<u32>,
    selinux_context: String,
    bridge: String,
    runtime_config: Runtime,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    mac: String,
}

#[derive(Debug)]
struct TapConfig {
    mtu: Option<u32>,
    mac: Option<Mac>,
    multi_queue: bool,
    owner: TapOwner,
    selinux_context: String,
    bridge: String,
}

impl TapConfig {
    fn load(request: &Request) -> Result<Self, CniError> {
        let document: Document = request.config()?;
        let mtu = interface::mtu(document.mtu)?;
        let macs =
            [&document.runtime_config.mac, request.arg("MAC").unwrap_or_default(), document.mac.as_str()];
        let mac = macs.into_iter().find(|mac| !mac.is_empty()).map(str::parse::<Mac>).transpose();
        Ok(Self {
            mtu,
            mac: mac.map_err(|e| CniError::config(format!("`mac`: {e}")))?,
            multi_queue: document.multi_queue,
            owner: TapOwner { user: document.owner, group: document.group },
            selinux_context: document.selinux_context,
            bridge: document.bridge,
        })
    }

    fn make(&self, name: &str) -> Result<crate::netlink::link::Link, CniError> {
        if !self.selinux_context.is_empty() {
            let path = Path::new("/proc/thread-self/attr/sockcreate");
            fs::write(path, &self.selinux_context).map_err(|e| CniError::io("writing", path, &e))?;
        }
        persistent_tap(name, self.multi_queue, self.owner).map_err(|error| match error.raw_os_error() {
            Some(code) if code == Errno::BUSY.raw_os_error() => {
                CniError::internal(format!("failed to create tap: {name:?} already exists"))
            }
            _ => CniError::internal(format!("failed to create tap: {DEVICE}: {error}")),
        })?;
        let mut route = interface::open()?;
        let link = interface::find(&mut route, name)?;
        let outcome = (|| {
            let during = |what: &str| format!("{what} of tap {name:?}");
            if let Some(mtu) = self.mtu {
                route.set_mtu(link.index, mtu).map_err(|e| e.during(during("setting the MTU")))?;
            }
            if let Some(mac) = self.mac {
                route.set_mac(link.index, mac).map_err(|e| e.during(during("setting the address")))?;
            }
            if !self.bridge.is_empty() {
                let bridge = interface::find(&mut route, &self.bridge)?;
                route
                    .set_master(link.index, bridge.index)
                    .map_err(|e| e.during(during("setting the bridge")))?;
            }
            interface::find(&mut route, name)
        })();
        if outcome.is_err() {
            let _ = route.delete_link(link.index);
        }
        outcome
    }
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    TapConfig::load(request)?;
    interface::read(request)
}

/// Makes the interface.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = TapConfig::load(request)?;
    let make = |netns: &NetNs| netns.enter(|| config.make(&request.attachment.ifname));
    interface::add(request, WithoutIpam::LayerTwo, DnsFrom::Configuration, make, interface::remove(request))
}

/// Removes it.
pub fn del(request: &Request) -> Result<(), CniError> {
    interface::del(request, interface::remove(request))
}

/// Interface, addresses and routes are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    TapConfig::load(request)?;
    interface::check(request, Some("tun")).map(|_| ())
}

/// Taps can be made, and the IPAM plugin is well.
pub fn status(request: &Request) -> Result<(), CniError> {
    TapConfig::load(request)?;
    fs::metadata(DEVICE).map_err(|e| CniError::new(Code::NotAvailable, format!("{DEVICE}: {e}")))?;
    interface::status(request)
}
