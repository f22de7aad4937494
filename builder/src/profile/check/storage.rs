//! Checks on `[storage]`: a backend brings its programs, its modules and the driver.

use super::kernel::dropper;
use super::software::missing_packages;
use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;
use crate::profile::storage::{NEEDS, Need};

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
