//! What must hold for a finished image, looked at before it is published.
//!
//! The same registry as for profiles ([`crate::profile::check`]), over another subject: the tree as it was written,
//! the kernel image, the sizes. Links, libraries and interpreters that lead nowhere are found earlier, by
//! [`crate::tree::check`], because nothing is worth compressing then. Every check runs and all findings are reported
//! together.

mod accounts;
mod addons;
mod storage;
mod units;

use super::artifact;
use crate::{
    format::{uki, verity::RootHash},
    profile::{
        Profile,
        check::{Check, Finding, Report, Severity},
    },
    tree::{Kind, Node},
};
use cairn_contract::{manifest::Sizes, paths};

/// An image that is about to be published.
#[derive(Debug, Clone, Copy)]
pub struct FinishedImage<'a> {
    /// Its profile.
    pub profile: &'a Profile,
    /// Its root file system.
    pub tree: &'a Node,
    /// Its kernel image.
    pub uki: &'a [u8],
    /// The root of its hash tree.
    pub root_hash: RootHash,
    /// Its sizes.
    pub sizes: &'a Sizes,
}

/// Every check on a finished image.
pub fn checks<'a>() -> [Check<FinishedImage<'a>>; 8] {
    [
        Check {
            id: "image.budgets",
            severity: Severity::Fatal,
            rule: "the image keeps the size budgets of its profile",
            run: budgets,
        },
        Check {
            id: "image.root-hash",
            severity: Severity::Fatal,
            rule: "the kernel image boots the root file system that it is published with",
            run: root_hash,
        },
        Check {
            id: "image.unit-programs",
            severity: Severity::Fatal,
            rule: "the programs of every unit are there, unless the unit tolerates or its conditions exclude that",
            run: units::programs,
        },
        Check {
            id: "image.setuid",
            severity: Severity::Fatal,
            rule: "exactly the programs that the profile names are setuid or setgid",
            run: setuid,
        },
        Check {
            id: "image.passwords",
            severity: Severity::Fatal,
            rule: "no account has a password, and none can be used without one",
            run: accounts::passwords,
        },
        Check {
            id: "image.storage",
            severity: Severity::Fatal,
            rule: "the programs and modules of every volume backend that is on are there, and the state partition can limit directories",
            run: storage::needs,
        },
        Check {
            id: "image.addon-modules",
            severity: Severity::Warning,
            rule: "the kernel has what network add-ons want: kube-proxy, flannel, Calico, Cilium",
            run: addons::modules,
        },
        Check {
            id: "image.addon-places",
            severity: Severity::Fatal,
            rule: "network add-ons can install plugins and networks",
            run: addons::places,
        },
    ]
}

/// Runs every check.
pub fn check_image(image: &FinishedImage<'_>) -> Report {
    Report::of(&[&checks()], image)
}

fn budgets(image: &FinishedImage<'_>) -> Vec<Finding> {
    let (budgets, sizes) = (&image.profile.test.budgets, image.sizes);
    let budgets = [
        ("uki", "the kernel image", sizes.uki, budgets.uki),
        ("root", "the compressed root file system", sizes.root, budgets.root),
        ("root_uncompressed", "the root file system", sizes.root_uncompressed, budgets.root_uncompressed),
        ("raw_allocated", "the disk image without its holes", sizes.raw_allocated, budgets.raw_allocated),
    ];
    let mut findings = Vec::new();
    for (key, what, actual, budget) in budgets {
        if let Some(budget) = budget.filter(|budget| actual > budget.get()) {
            findings.push(Finding::new(
                format!("test.budgets.{key}"),
                format!("{what} has {:.1} MB ({actual} bytes), and the budget is {budget}", actual as f64 / 1e6),
                "leave out what the node does not need (packages.drop_files, kernel.drop_modules), or raise the budget",
            ));
        }
    }
    findings
}

fn root_hash(image: &FinishedImage<'_>) -> Vec<Finding> {
    let found = match uki::command_line(image.uki) {
        Ok(command_line) => artifact::root_hash(&command_line.unwrap_or_default()),
        Err(error) => return vec![wrong_root_hash(format!("the kernel image cannot be read: {error}"))],
    };
    match found {
        Some(found) if found == image.root_hash => Vec::new(),
        Some(found) => {
            let problem =
                format!("the kernel image asks for {found}, the root file system has {}", image.root_hash);
            vec![wrong_root_hash(problem)]
        }
        None => vec![wrong_root_hash("the kernel image's command line has no valid roothash=".to_owned())],
    }
}

fn wrong_root_hash(problem: String) -> Finding {
    Finding::new("kernel.cmdline", problem, "leave `roothash=` out of kernel.cmdline: it is filled in")
}

fn setuid(image: &FinishedImage<'_>) -> Vec<Finding> {
    let allowed = &image.profile.security.setuid;
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    image.tree.walk(&mut |path, node| {
        let path = format!("/{}", String::from_utf8_lossy(path));
        // What is in container images is theirs.
        if !is_setuid(node) || path.starts_with(paths::BAKED_IMAGES) {
            return;
        }
        if !allowed.iter().any(|allowed| allowed.as_str() == path) {
            let problem = format!("mode {:o} lets whoever runs it act as its owner or group", node.meta.mode);
            findings.push(Finding::new(path.clone(), problem, "add it to security.setuid, or drop the file"));
        }
        seen.push(path);
    });
    for missing in allowed.iter().filter(|allowed| !seen.iter().any(|path| path == allowed.as_str())) {
        findings.push(Finding::new(
            "security.setuid",
            format!("{missing} is no setuid or setgid file of the image"),
            "take it out of security.setuid, or install what has it",
        ));
    }
    findings
}

/// Whether running this file changes the user or the group.
pub fn is_setuid(node: &Node) -> bool {
    matches!(node.kind, Kind::File(_)) && node.meta.mode & 0o6000 != 0
}

#[cfg(test)]
mod tests;
