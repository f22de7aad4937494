//! Checks on `[storage]`: a backend brings its program and its module.

use super::software::missing_packages;
use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;

pub(super) const CHECKS: &[ProfileCheck] = &[
    ProfileCheck {
        id: "storage.iscsi",
        severity: Severity::Fatal,
        rule: "iSCSI volumes have iscsiadm and the module iscsi_tcp",
        run: iscsi,
    },
    ProfileCheck {
        id: "storage.nfs",
        severity: Severity::Fatal,
        rule: "NFS volumes have mount.nfs and the module nfs",
        run: nfs,
    },
    ProfileCheck {
        id: "storage.encryption",
        severity: Severity::Fatal,
        rule: "encrypted volumes have cryptsetup and the module dm_crypt",
        run: encryption,
    },
];

fn iscsi(resolved: &Resolved) -> Vec<Finding> {
    if resolved.profile.storage.iscsi {
        needs(resolved, "iscsi", "open-iscsi", "iscsi_tcp")
    } else {
        Vec::new()
    }
}

fn nfs(resolved: &Resolved) -> Vec<Finding> {
    if resolved.profile.storage.nfs { needs(resolved, "nfs", "nfs-common", "nfs") } else { Vec::new() }
}

fn encryption(resolved: &Resolved) -> Vec<Finding> {
    if resolved.profile.storage.encryption {
        needs(resolved, "encryption", "cryptsetup-bin", "dm_crypt")
    } else {
        Vec::new()
    }
}

fn needs(resolved: &Resolved, backend: &str, package: &str, module: &str) -> Vec<Finding> {
    let reason = format!("storage.{backend} is on and calls its program");
    let mut findings = missing_packages(resolved, &[package], &reason);
    if !resolved.profile.kernel.modules.iter().any(|name| name.canonical() == module) {
        findings.push(Finding::new(
            "kernel.modules",
            format!("`{module}` is missing: storage.{backend} is on and needs it"),
            format!("add \"{module}\" to kernel.modules, or set storage.{backend} = false"),
        ));
    }
    findings
}
