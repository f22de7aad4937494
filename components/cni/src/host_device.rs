//! `host-device`: one of the host's interfaces, moved into the pod and back.
//!
//! The name it has on the host is noted as its alias while it is away, as the reference plugin does.

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    netlink::{
        link::{Link, Mac},
        route::RouteSocket,
    },
    netns::NetNs,
    protocol::{error::CniError, request::Request, result::CniResult},
    veth::random_name,
};
use rustix::{fd::AsFd, io::Errno};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    device: String,
    hwaddr: String,
    #[serde(rename = "kernelpath")]
    kernel_path: String,
    #[serde(rename = "pciBusID")]
    pci_bus_id: String,
    runtime_config: Runtime,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    #[serde(rename = "deviceID")]
    device_id: String,
}

/// How the configuration names the device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Device {
    Name(String),
    Mac(Mac),
    KernelPath(PathBuf),
    /// PCI address, `0000:03:00.0`, or the name of a device on the auxiliary bus.
    Bus(String),
}

impl Device {
    fn load(request: &Request) -> Result<Self, CniError> {
        let mut document: Document = request.config()?;
        // A device plugin's choice comes before what the configuration names.
        if !document.runtime_config.device_id.is_empty() {
            document.pci_bus_id = document.runtime_config.device_id;
        }
        let Document { device, hwaddr, kernel_path, pci_bus_id, .. } = document;
        if !device.is_empty() {
            Ok(Self::Name(device))
        } else if !hwaddr.is_empty() {
            let mac = hwaddr.parse().map_err(|e| CniError::config(format!("`hwaddr`: {e}")))?;
            Ok(Self::Mac(mac))
        } else if !kernel_path.is_empty() {
            if !kernel_path.starts_with("/sys/devices/") || kernel_path.contains("..") {
                return Err(CniError::config(format!(
                    "kernel device path {kernel_path:?} must be absolute and begin with /sys/devices/"
                )));
            }
            Ok(Self::KernelPath(kernel_path.into()))
        } else if !pci_bus_id.is_empty() {
            if pci_bus_id.contains('/') || pci_bus_id == ".." {
                return Err(CniError::config(format!("`pciBusID` {pci_bus_id:?} is not a device's name")));
            }
            Ok(Self::Bus(pci_bus_id))
        } else {
            Err(CniError::config("specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\""))
        }
    }

    fn find(&self, route: &mut RouteSocket) -> Result<Link, CniError> {
        match self {
            Self::Name(name) => interface::find(route, name),
            Self::Mac(mac) => {
                let links = route.links().map_err(|e| e.during("listing links"))?;
                let found = links.into_iter().find(|link| link.mac == *mac);
                found.ok_or_else(|| CniError::internal(format!("no link has hardware address {mac}")))
            }
            Self::KernelPath(path) => interface::find(route, &name_in(&path.join("net"))?),
            Self::Bus(id) => {
                let of = |bus: &str| Path::new("/sys/bus").join(bus).join("devices").join(id).join("net");
                let name = name_in(&of("pci")).or_else(|pci| name_in(&of("auxiliary")).map_err(|_| pci))?;
                interface::find(route, &name)
            }
        }
    }
}

/// The one network interface below a device's directory in sysfs.
fn name_in(directory: &Path) -> Result<String, CniError> {
    let failed = |why: &str| CniError::internal(format!("{}: {why}", directory.display()));
    let mut entries = std::fs::read_dir(directory).map_err(|e| failed(&e.to_string()))?;
    let first = entries.next().and_then(Result::ok).ok_or_else(|| failed("no network interface there"))?;
    first.file_name().into_string().map_err(|_| failed("the interface's name is not text"))
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    Device::load(request)?;
    interface::read(request)
}

/// Moves the device into the pod.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let device = Device::load(request)?;
    let name = &request.attachment.ifname;
    let make = |netns: &NetNs| {
        let mut route = interface::open()?;
        let link = device.find(&mut route)?;
        // Asked first: a device that cannot arrive should not have to come back.
        netns.enter(|| match interface::open()?.link(name) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(CniError::internal(format!("container interface {name:?} already exists"))),
            Err(error) => Err(error.during(format_args!("looking for {name:?}"))),
        })?;
        let during = |what: &str| format!("moving {:?} into the pod: {what}", link.name);
        route.set_up(link.index, false).map_err(|e| e.during(during("bringing it down")))?;
        route.set_alias(link.index, &link.name).map_err(|e| e.during(during("noting its name")))?;
        route.move_link(link.index, netns.as_fd(), name).map_err(|e| e.during(during("moving it")))?;
        netns.enter(|| {
            let mut route = interface::open()?;
            let arrived = interface::find(&mut route, name)?;
            route.set_up(arrived.index, true).map_err(|e| e.during(during("bringing it up")))?;
            Ok(arrived)
        })
    };
    let back = |netns: &NetNs| give_back(netns, name);
    interface::add(request, WithoutIpam::LayerTwo, DnsFrom::Configuration, make, back)
}

/// Moves the pod's interface to the host, under the name it had there.
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
        route.set_up(link.index, false).map_err(|e| e.during(during("bringing it down")))?;
        match route.move_link(link.index, home.as_fd(), &link.alias) {
            Err(error) if error.is(Errno::EXIST) => {
                // Somebody has the name now: better on the host under another than lost with the pod.
                let other = random_name("dev")?;
                route.move_link(link.index, home.as_fd(), &other).map_err(|e| e.during(during("moving it")))
            }
            outcome => outcome.map_err(|e| e.during(during("moving it"))),
        }
    })?;
    Ok(())
}

/// Moves the device back.
pub fn del(request: &Request) -> Result<(), CniError> {
    let name = &request.attachment.ifname;
    interface::del(request, |netns: &NetNs| give_back(netns, name))
}

/// Interface, addresses and routes are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    Device::load(request)?;
    let link = interface::check(request, None)?;
    if link.up { Ok(()) } else { Err(CniError::internal(format!("Interface {} is down", link.name))) }
}
