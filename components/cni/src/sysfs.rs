//! Devices as sysfs shows them: which network interface is a device's, and which driver it has.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where sysfs is.
pub(crate) const ROOT: &str = "/sys";

/// The directory of the device of that name on `bus`.
pub(crate) fn device(sysfs: &Path, bus: &str, name: &str) -> PathBuf {
    sysfs.join("bus").join(bus).join("devices").join(name)
}

/// The network interface of a device, the first by name if it has several. That of a PCI device of the virtio kind belongs
/// to the device on the virtio bus that it stands for. `Err` says where there is none.
pub(crate) fn interface_of(device: &Path) -> Result<String, String> {
    let own = device.join("net");
    let virtio = || first_entry(device, "virtio").map(|child| device.join(child).join("net"));
    let directory = if own.exists() { own } else { virtio().unwrap_or(own) };
    first_entry(&directory, "").ok_or_else(|| format!("{}: no network interface there", directory.display()))
}

/// The driver that a device is bound to.
pub(crate) fn driver_of(device: &Path) -> Option<String> {
    fs::read_link(device.join("driver")).ok()?.file_name()?.to_str().map(str::to_owned)
}

fn first_entry(directory: &Path, prefix: &str) -> Option<String> {
    let names = fs::read_dir(directory).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn interfaces_are_found_also_behind_virtio() {
        let sysfs = tempfile::tempdir().unwrap();
        let at = |name: &str| device(sysfs.path(), "pci", name);
        for (device, interface) in [("0000:00:03.0", "net/ens3"), ("0000:00:04.0", "virtio1/net/ens4")] {
            fs::create_dir_all(at(device).join(interface)).unwrap();
        }
        fs::create_dir_all(at("0000:00:03.0").join("net/ens3s")).unwrap();
        fs::create_dir_all(at("0000:00:05.0").join("virtio2/block")).unwrap();
        assert_eq!(interface_of(&at("0000:00:03.0")).unwrap(), "ens3");
        assert_eq!(interface_of(&at("0000:00:04.0")).unwrap(), "ens4");
        for absent in ["0000:00:05.0", "0000:00:09.0"] {
            assert!(interface_of(&at(absent)).unwrap_err().contains(absent));
        }
        assert_eq!(driver_of(&at("0000:00:03.0")), None);
        symlink("../../../../bus/pci/drivers/vfio-pci", at("0000:00:03.0").join("driver")).unwrap();
        assert_eq!(driver_of(&at("0000:00:03.0")).unwrap(), "vfio-pci");
    }
}
