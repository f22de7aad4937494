//! Checks on packages, components, users and what else makes up the root.

use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;
use std::collections::BTreeMap;

pub(super) const CHECKS: &[ProfileCheck] = &[
    ProfileCheck {
        id: "packages.systemd",
        severity: Severity::Fatal,
        rule: "systemd and the udev built with it are both installed, and the boot loader with them",
        run: systemd,
    },
    ProfileCheck {
        id: "packages.exclude",
        severity: Severity::Fatal,
        rule: "no package is both installed and excluded",
        run: exclude,
    },
    ProfileCheck {
        id: "users.numbers",
        severity: Severity::Fatal,
        rule: "users and groups have numbers of their own, and every group that is named exists",
        run: accounts,
    },
    ProfileCheck {
        id: "components.paths",
        severity: Severity::Fatal,
        rule: "no two programs of ours claim one path in the same tree",
        run: component_paths,
    },
];

/// Whether `package` is among the packages installed by name.
pub(super) fn installs(resolved: &Resolved, package: &str) -> bool {
    resolved.profile.packages.install.iter().any(|name| name.as_str() == package)
}

/// A finding for each of `packages` that is not installed.
pub(super) fn missing_packages(resolved: &Resolved, packages: &[&str], reason: &str) -> Vec<Finding> {
    packages
        .iter()
        .filter(|package| !installs(resolved, package))
        .map(|package| {
            Finding::new(
                "packages.install",
                format!("`{package}` is missing: {reason}"),
                format!("add \"{package}\" to packages.install"),
            )
        })
        .collect()
}

fn systemd(resolved: &Resolved) -> Vec<Finding> {
    let mut findings = missing_packages(
        resolved,
        &["systemd", "udev"],
        "the node's services and devices are systemd's and udev's, which come from one source and must match",
    );
    let boot = &resolved.profile.packages.boot;
    if !boot.iter().any(|package| package.as_str().starts_with("systemd-boot-efi")) {
        findings.push(Finding::new(
            "packages.boot",
            "no package brings the boot loader and the UKI stub",
            "add \"systemd-boot-efi\" to packages.boot",
        ));
    }
    findings
}

fn exclude(resolved: &Resolved) -> Vec<Finding> {
    let packages = &resolved.profile.packages;
    let wanted = packages.install.iter().chain(&packages.boot).chain([&resolved.profile.kernel.package]);
    wanted
        .filter(|name| packages.exclude.contains(name))
        .map(|name| {
            Finding::new(
                "packages.exclude",
                format!("`{name}` is asked for and excluded"),
                format!("take \"{name}\" out of one of the two"),
            )
        })
        .collect()
}

fn accounts(resolved: &Resolved) -> Vec<Finding> {
    let profile = &resolved.profile;
    let mut findings = Vec::new();
    let uids = profile.users.iter().map(|(name, user)| (name.as_str(), user.uid));
    let gids = profile.groups.iter().map(|(name, group)| (name.as_str(), group.gid));
    twice("users", "uid", uids, &mut findings);
    twice("groups", "gid", gids, &mut findings);
    for (name, user) in &profile.users {
        let group = user.group.as_ref().unwrap_or(name);
        if !profile.groups.contains_key(group) {
            findings.push(Finding::new(
                format!("users.{name}.group"),
                format!("there is no group `{group}`"),
                format!("declare [groups.{group}] with a gid, or name another group"),
            ));
        }
    }
    for (name, group) in &profile.groups {
        for member in group.members.iter().filter(|member| !profile.users.contains_key(*member)) {
            findings.push(Finding::new(
                format!("groups.{name}.members"),
                format!("there is no user `{member}`"),
                format!("declare [users.{member}], or take it out"),
            ));
        }
    }
    findings
}

fn twice<'a>(
    section: &str,
    field: &str,
    numbers: impl Iterator<Item = (&'a str, u32)>,
    findings: &mut Vec<Finding>,
) {
    let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
    for (name, number) in numbers {
        if let Some(owner) = owners.insert(number, name) {
            findings.push(Finding::new(
                format!("{section}.{name}.{field}"),
                format!("{number} is already that of `{owner}`"),
                "give each its own number",
            ));
        }
    }
}

fn component_paths(resolved: &Resolved) -> Vec<Finding> {
    let mut owners = BTreeMap::new();
    let mut findings = Vec::new();
    for (name, component) in resolved.profile.components.iter().filter(|(_, component)| component.enabled) {
        for path in component.links.iter().chain([&component.path]) {
            if let Some(owner) = owners.insert((component.place as u8, path), name) {
                findings.push(Finding::new(
                    format!("components.{name}"),
                    format!("{path} is already that of `{owner}`"),
                    "give one of them another path, or set `enabled = false`",
                ));
            }
        }
    }
    findings
}
