//! What `[storage]` needs, looked for in the finished tree.

use super::FinishedImage;
use crate::{
    profile::{
        check::Finding,
        storage::{NEEDS, Need},
    },
    tree::{Node, depmod},
};
use std::collections::BTreeSet;

/// Drop-ins of the unit that formats the state partition at first boot.
const REPART_DROP_INS: &str = "usr/lib/systemd/system/systemd-repart.service.d";
/// What it hands to mkfs.ext4 (systemd-repart(8)), and the feature without which no directory can have a quota
/// (ext4(5)).
const MKFS_OPTIONS: &str = "SYSTEMD_REPART_MKFS_OPTIONS_EXT4";
const FEATURE: &str = "project";

pub(super) fn needs(image: &FinishedImage<'_>) -> Vec<Finding> {
    let storage = &image.profile.storage;
    let modules = depmod::names(image.tree).unwrap_or_default();
    let wanted = NEEDS.iter().filter(|need| (need.is_wanted)(storage));
    let mut findings: Vec<Finding> = wanted.flat_map(|need| of_need(image.tree, &modules, need)).collect();
    if storage.local && !makes_project_quota(image.tree) {
        findings.push(Finding::new(
            format!("/{REPART_DROP_INS}"),
            "storage.local is on, and the state partition is made without project quota: directories would have no limit",
            format!("let a drop-in set {MKFS_OPTIONS} to `-O quota,{FEATURE} -E quotatype=prjquota`, as rootfs/storage does"),
        ));
    }
    findings
}

fn of_need(tree: &Node, modules: &BTreeSet<String>, need: &Need) -> Vec<Finding> {
    let Need { key, packages, .. } = need;
    let there = |path: &str| tree.resolve(path).and_then(|place| tree.get(place)?.content()).is_some();
    let files = need.files.iter().filter(|path| !there(path)).map(|path| {
        Finding::new(
            *path,
            format!("it is not in the image, and storage.{key} is on"),
            format!("keep it (packages.keep_files); it comes with {}", packages.join(" or ")),
        )
    });
    let modules = need.modules.iter().filter(|module| !modules.contains(**module)).map(|module| {
        Finding::new(
            format!("/{}", depmod::DIRECTORY),
            format!("the kernel has no module `{module}`, built in or not, and storage.{key} needs it"),
            "narrow kernel.drop_modules, or take another kernel.package",
        )
    });
    files.chain(modules).collect()
}

fn makes_project_quota(tree: &Node) -> bool {
    let drop_ins = tree.get(REPART_DROP_INS).and_then(Node::entries);
    drop_ins.into_iter().flatten().any(|(_, node)| {
        let text = node.content().and_then(|content| content.read().ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().any(|line| line.contains(MKFS_OPTIONS) && line.contains(FEATURE))
    })
}
