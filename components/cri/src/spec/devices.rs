//! Device nodes in a container, and the rules that let it use them.

use cairn_contract::cri;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{FileType, major, minor};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Directories of `/dev` that hold other file systems, not devices.
const NOT_DEVICES: [&str; 5] = ["pts", "shm", "mqueue", "fd", "hugepages"];

/// A device node of a container.
#[derive(Debug)]
pub(super) struct Node {
    /// Where it is on the node.
    pub(super) source: PathBuf,
    /// What it is, and where in the container.
    pub(super) oci: LinuxDevice,
}

/// Nodes to make and rules to allow.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// Nodes besides those that every container has.
    pub(super) nodes: Vec<Node>,
    /// Rules, the refusal of everything first.
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

impl Devices {
    /// What the pod asks for.
    ///
    /// # Errors
    /// A path that is not there or no device, in words.
    pub(super) fn resolve(wanted: &[cri::Device], privileged: bool) -> Result<Self, String> {
        if privileged {
            let mut nodes = Vec::new();
            collect(Path::new("/dev"), Path::new("/dev"), &mut nodes)
                .map_err(|error| format!("/dev: {error}"))?;
            return Ok(Self { nodes, rules: vec![rule(true, LinuxDeviceType::A, None, None, "rwm")] });
        }
        let mut devices = Self { nodes: Vec::new(), rules: default_rules() };
        for device in wanted {
            if device.permissions.contains(|access| !"rwm".contains(access)) {
                return Err(format!(
                    "device {}: permissions `{}` are not of r, w and m",
                    device.host_path, device.permissions
                ));
            }
            let mut nodes = Vec::new();
            collect(Path::new(&device.host_path), Path::new(&device.container_path), &mut nodes)
                .map_err(|error| format!("device {}: {error}", device.host_path))?;
            if nodes.is_empty() {
                return Err(format!("{} is not a device and contains none", device.host_path));
            }
            for node in &nodes {
                let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
                devices.rules.push(rule(
                    true,
                    node.oci.typ(),
                    Some(node.oci.major()),
                    Some(node.oci.minor()),
                    access,
                ));
            }
            devices.nodes.append(&mut nodes);
        }
        Ok(devices)
    }
}

/// Everything may be made, and only these may be opened: null, zero, full, random, urandom, tty, ptmx, terminals.
fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, LinuxDeviceType::C, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(rule(true, LinuxDeviceType::C, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, LinuxDeviceType::C, Some(136), None, "rwm"));
    rules
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// The device at `from`, or all devices below it, to appear at `to`.
fn collect(from: &Path, to: &Path, nodes: &mut Vec<Node>) -> io::Result<()> {
    let path = fs::canonicalize(from)?;
    let status = rustix::fs::stat(&path)?;
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => {
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                let name = PathBuf::from(entry.file_name());
                if kind.is_symlink()
                    || kind.is_dir() && NOT_DEVICES.iter().any(|&other| name == Path::new(other))
                {
                    continue;
                }
                // A device may vanish while the directory is read.
                let _ = collect(&entry.path(), &to.join(name), nodes);
            }
            return Ok(());
        }
        FileType::CharacterDevice => LinuxDeviceType::C,
        FileType::BlockDevice => LinuxDeviceType::B,
        _ => return Ok(()),
    };
    let mut node = LinuxDevice::default();
    node.set_path(to.to_path_buf())
        .set_typ(kind)
        .set_major(i64::from(major(status.st_rdev)))
        .set_minor(i64::from(minor(status.st_rdev)))
        .set_file_mode(Some(status.st_mode & 0o777))
        .set_uid(Some(status.st_uid))
        .set_gid(Some(status.st_gid));
    nodes.push(Node { source: path, oci: node });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_its_node_and_its_rule() {
        let wanted = cri::Device {
            container_path: "/dev/nothing".into(),
            host_path: "/dev/null".into(),
            permissions: "r".into(),
        };
        let devices = Devices::resolve(&[wanted], false).unwrap();
        assert_eq!(devices.nodes[0].oci.path(), Path::new("/dev/nothing"));
        let last = devices.rules.last().unwrap();
        assert_eq!((last.major(), last.minor(), last.access().as_deref()), (Some(1), Some(3), Some("r")));
        assert!(!devices.rules[0].allow());
    }

    #[test]
    fn permissions_are_read_write_and_mknod() {
        let wanted = cri::Device {
            container_path: "/dev/null".into(),
            host_path: "/dev/null".into(),
            permissions: "rx".into(),
        };
        assert!(Devices::resolve(&[wanted], false).unwrap_err().contains("`rx`"));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let wanted = cri::Device { host_path: "/etc/hostname".into(), ..cri::Device::default() };
        assert!(Devices::resolve(&[wanted], false).unwrap_err().contains("/etc/hostname"));
    }
}
