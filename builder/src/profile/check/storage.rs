//! Checks on `[storage]`: a backend brings its programs, its modules and the driver.

use super::kernel::dropper;
use super::software::missing_packages;
use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;
use crate::profile::storage::{NEEDS, Need};
use cairn_contract::{
    paths,
    storage::{Mistake, mistakes_on_node},
};
use std::net::{Ipv6Addr, SocketAddr};

pub(super) const CHECKS: &[ProfileCheck] = &[
    ProfileCheck {
        id: "storage.driver",
        severity: Severity::Fatal,
        rule: "volumes have the CSI driver and the files in rootfs/storage",
        run: driver,
    },
    ProfileCheck {
        id: "storage.volumes",
        severity: Severity::Fatal,
        rule: "multipath, encryption and XFS have volumes to work on",
        run: volumes,
    },
    ProfileCheck {
        id: "storage.local",
        severity: Severity::Fatal,
        rule: "local volumes have mkfs.ext4 and the modules loop, quota_v2 and ext4",
        run: |resolved| missing(resolved, "local"),
    },
    ProfileCheck {
        id: "storage.nfs",
        severity: Severity::Fatal,
        rule: "NFS volumes have mount.nfs and the modules nfs, nfsv3 and nfsv4",
        run: |resolved| missing(resolved, "nfs"),
    },
    ProfileCheck {
        id: "storage.iscsi",
        severity: Severity::Fatal,
        rule: "iSCSI volumes have iscsiadm, iscsid, mkfs.ext4 and the modules iscsi_tcp, sd_mod and ext4",
        run: |resolved| missing(resolved, "iscsi"),
    },
    ProfileCheck {
        id: "storage.multipath",
        severity: Severity::Fatal,
        rule: "several ways to a volume have multipathd, device-mapper's udev rules and its modules",
        run: |resolved| missing(resolved, "multipath"),
    },
    ProfileCheck {
        id: "storage.encryption",
        severity: Severity::Fatal,
        rule: "encrypted volumes have cryptsetup, device-mapper's udev rules and the module dm_crypt",
        run: |resolved| missing(resolved, "encryption"),
    },
    ProfileCheck {
        id: "storage.xfs",
        severity: Severity::Fatal,
        rule: "volumes with XFS have mkfs.xfs and the module xfs",
        run: |resolved| missing(resolved, "xfs"),
    },
    ProfileCheck {
        id: "storage.pools",
        severity: Severity::Fatal,
        rule: "pools are for local volumes; each has a name and a place of its own, and a disk by a name that lasts, with XFS",
        run: pools,
    },
    ProfileCheck {
        id: "storage.metrics",
        severity: Severity::Fatal,
        rule: "the driver's metrics have a driver, and an address that nothing else has",
        run: metrics,
    },
];

/// The program and the folder of `rootfs/` that every backend needs.
const DRIVER: &str = "cairn-csi";
const OVERLAY: &str = "storage";

fn driver(resolved: &Resolved) -> Vec<Finding> {
    let profile = &resolved.profile;
    let mut findings = Vec::new();
    if !profile.storage.is_on() {
        return findings;
    }
    if !profile.components.iter().any(|(name, component)| name.as_str() == DRIVER && component.enabled) {
        findings.push(Finding::new(
            "components",
            format!("`{DRIVER}` is missing: [storage] has a backend on, which is a part of it"),
            format!("add [components.{DRIVER}], or extend the profile `storage`"),
        ));
    }
    if !profile.files.overlays.iter().any(|overlay| overlay.as_str() == OVERLAY) {
        findings.push(Finding::new(
            "files.overlays",
            format!("`{OVERLAY}` is missing: it has the driver's unit and what its programs are told"),
            format!("add \"{OVERLAY}\""),
        ));
    }
    findings
}

fn volumes(resolved: &Resolved) -> Vec<Finding> {
    let storage = &resolved.profile.storage;
    let mut findings = Vec::new();
    if storage.multipath && !storage.iscsi {
        findings.push(Finding::new(
            "storage.multipath",
            "is on, and only iSCSI volumes can have several ways",
            "set storage.iscsi = true, or storage.multipath = false",
        ));
    }
    for (key, is_on) in [("encryption", storage.encryption), ("xfs", storage.xfs)] {
        if is_on && !storage.formats() {
            findings.push(Finding::new(
                format!("storage.{key}"),
                "is on, and there are no volumes that are block devices",
                format!("set storage.local or storage.iscsi = true, or storage.{key} = false"),
            ));
        }
    }
    findings
}

fn pools(resolved: &Resolved) -> Vec<Finding> {
    let storage = &resolved.profile.storage;
    if !storage.pools.is_empty() && !storage.local {
        return vec![Finding::new(
            "storage.pools",
            "there are no local volumes to be in them",
            "set storage.local = true, or leave storage.pools out",
        )];
    }
    let mut findings: Vec<Finding> = mistakes_on_node(&storage.pools)
        .into_iter()
        .map(|Mistake { index, key, problem, fix }| {
            Finding::new(format!("storage.pools[{index}].{key}"), problem, fix)
        })
        .collect();
    if storage.has_pool_disks() && !storage.xfs {
        findings.push(Finding::new(
            "storage.xfs",
            "is off, and a blank disk of a pool is made into XFS",
            "set storage.xfs = true, or let no pool have a device",
        ));
    }
    findings
}

fn metrics(resolved: &Resolved) -> Vec<Finding> {
    const KEY: &str = "storage.metrics_address";
    let profile = &resolved.profile;
    let Some(address) = profile.storage.metrics_address else { return Vec::new() };
    if !profile.storage.is_on() {
        return vec![Finding::new(
            KEY,
            "there is no driver: no kind of volume is on",
            "turn one on in [storage], or leave it out",
        )];
    }
    let meets = |other: SocketAddr| {
        let everywhere = address.ip().is_unspecified() || other.ip().is_unspecified();
        other.port() == address.port() && (everywhere || other.ip() == address.ip())
    };
    let api = SocketAddr::from((Ipv6Addr::UNSPECIFIED, paths::MANAGEMENT_PORT));
    let others =
        [("runtime.metrics_address", profile.runtime.metrics_address), ("the management API", Some(api))];
    let taken = others.into_iter().find(|(_, other)| other.is_some_and(meets));
    taken
        .map(|(other, _)| {
            Finding::new(KEY, format!("{address} is also that of {other}"), "take another port")
        })
        .into_iter()
        .collect()
}

/// What the needs of `storage.<key>` find missing in the profile.
fn missing(resolved: &Resolved, key: &str) -> Vec<Finding> {
    let storage = &resolved.profile.storage;
    let wanted = NEEDS.iter().filter(|need| need.key == key && (need.is_wanted)(storage));
    wanted.flat_map(|need| of_need(resolved, need)).collect()
}

fn of_need(resolved: &Resolved, need: &Need) -> Vec<Finding> {
    let kernel = &resolved.profile.kernel;
    let key = need.key;
    let mut findings =
        missing_packages(resolved, need.packages, &format!("storage.{key} is on and calls its programs"));
    // They are loaded when first used, unless nothing is after the boot.
    let mut settings = kernel.sysctl.iter();
    let at_boot_only =
        settings.any(|(key, value)| key.as_str() == "kernel.modules_disabled" && value.as_str() == "1");
    for module in need.modules {
        if let Some(pattern) = dropper(kernel, module) {
            findings.push(Finding::new(
                "kernel.drop_modules",
                format!("`{pattern}` drops `{module}`, which storage.{key} needs"),
                format!("narrow `{pattern}`, or turn storage.{key} off"),
            ));
        } else if at_boot_only && !kernel.modules.iter().any(|name| name.canonical() == *module) {
            findings.push(Finding::new(
                "kernel.modules",
                format!("`{module}` is missing: storage.{key} needs it, and kernel.modules_disabled = 1 lets none be loaded later"),
                format!("add \"{module}\" to kernel.modules, or leave kernel.modules_disabled out"),
            ));
        }
    }
    findings
}
