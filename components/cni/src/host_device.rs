//! `host-device`: one of the host's interfaces, moved into the pod and back.
//!
//! A PCI device whose driver gives it to a program (DPDK) has no interface: such a pod gets its addresses reserved, and
//! nothing is moved.

use crate::{
    interface::{self, DnsFrom, WithoutIpam},
    loan,
    netlink::{
        link::{Link, Mac},
        route::RouteSocket,
    },
    netns::NetNs,
    protocol::{error::CniError, request::Request, result::CniResult},
    sysfs,
};
use serde::Deserialize;
use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
};

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

    fn find(&self, sysfs: &Path, route: &mut RouteSocket) -> Result<Link, CniError> {
        let of = |name: Result<String, String>| name.map_err(CniError::internal);
        match self {
            Self::Name(name) => interface::find(route, name),
            Self::Mac(mac) => {
                let links = route.links().map_err(|e| e.during("listing links"))?;
                let found = links.into_iter().find(|link| link.mac == *mac);
                found.ok_or_else(|| CniError::internal(format!("no link has hardware address {mac}")))
            }
            Self::KernelPath(path) => interface::find(route, &of(sysfs::interface_of(path))?),
            Self::Bus(id) => interface::find(route, &of(on_bus(sysfs, id))?),
        }
    }

    /// It is bound to a driver that gives it to a program (DPDK): no interface, and nothing to be moved.
    fn is_for_userspace(&self, sysfs: &Path) -> bool {
        const DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
        let Self::Bus(id) = self else { return false };
        sysfs::driver_of(&sysfs::device(sysfs, "pci", id)).is_some_and(|own| DRIVERS.contains(&own.as_str()))
    }
}

/// The interface of a PCI device, or of one on the auxiliary bus.
fn on_bus(sysfs: &Path, id: &str) -> Result<String, String> {
    let of = |bus: &str| sysfs::interface_of(&sysfs::device(sysfs, bus, id));
    of("pci").or_else(|pci| of("auxiliary").map_err(|_| pci))
}

pub(crate) fn read(request: &Request) -> Result<(), CniError> {
    Device::load(request)?;
    interface::read(request)
}

/// Moves the device into the pod.
pub fn add(request: &Request) -> Result<CniResult, CniError> {
    let (sysfs, device) = (Path::new(sysfs::ROOT), Device::load(request)?);
    if device.is_for_userspace(sysfs) {
        return interface::reserve(request);
    }
    let name = &request.attachment.ifname;
    let lent = OnceCell::new();
    let make = |netns: &NetNs| {
        let mut route = interface::open()?;
        let found = device.find(sysfs, &mut route)?;
        loan::lend(&mut route, lent.get_or_init(|| found), netns, name, None)
    };
    let back = |netns: &NetNs| match lent.get() {
        Some(link) => loan::undo(&mut interface::open()?, link, netns, name),
        None => Ok(()),
    };
    interface::add(request, WithoutIpam::LayerTwo, DnsFrom::Configuration, make, back)
}

/// Moves the device back.
pub fn del(request: &Request) -> Result<(), CniError> {
    // A device that cannot be made out any more may still be in the pod.
    let moved = !Device::load(request).is_ok_and(|device| device.is_for_userspace(Path::new(sysfs::ROOT)));
    let name = &request.attachment.ifname;
    interface::del(request, |netns: &NetNs| if moved { loan::give_back(netns, name) } else { Ok(()) })
}

/// Interface, addresses and routes are as ADD left them.
pub fn check(request: &Request) -> Result<(), CniError> {
    if Device::load(request)?.is_for_userspace(Path::new(sysfs::ROOT)) {
        return interface::check_reserved(request);
    }
    let link = interface::check(request, None)?;
    if link.up { Ok(()) } else { Err(CniError::internal(format!("Interface {} is down", link.name))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn devices_are_found_by_their_bus_and_left_to_programs_by_their_driver() {
        let sysfs = tempfile::tempdir().unwrap();
        let sysfs = sysfs.path();
        for (bus, device, interface, driver) in [
            ("pci", "0000:03:00.0", "virtio0/net/ens3", "virtio-pci"),
            ("pci", "0000:03:01.0", "no-net", "vfio-pci"),
            ("auxiliary", "mlx5_core.sf.4", "net/en3f0s4", "sf"),
        ] {
            let own = sysfs::device(sysfs, bus, device);
            fs::create_dir_all(own.join(interface)).unwrap();
            symlink(format!("../../../bus/{bus}/drivers/{driver}"), own.join("driver")).unwrap();
        }
        assert_eq!(on_bus(sysfs, "0000:03:00.0").unwrap(), "ens3");
        assert_eq!(on_bus(sysfs, "mlx5_core.sf.4").unwrap(), "en3f0s4");
        assert!(on_bus(sysfs, "0000:03:01.0").unwrap_err().contains("0000:03:01.0/net"));
        for (device, expected) in [
            (Device::Bus("0000:03:01.0".into()), true),
            (Device::Bus("0000:03:00.0".into()), false),
            (Device::Bus("mlx5_core.sf.4".into()), false),
            (Device::Bus("0000:09:00.0".into()), false),
            (Device::Name("0000:03:01.0".into()), false),
        ] {
            assert_eq!(device.is_for_userspace(sysfs), expected, "{device:?}");
        }
    }
}
