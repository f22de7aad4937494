//! Checks on `[disk]` and `[test.budgets]`.

use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;
use crate::profile::value::Size;

pub(super) const CHECKS: &[ProfileCheck] = &[
    ProfileCheck {
        id: "disk.budgets",
        severity: Severity::Fatal,
        rule: "what the budgets allow fits the partitions",
        run: budgets,
    },
    ProfileCheck {
        id: "disk.alignment",
        severity: Severity::Fatal,
        rule: "partitions are whole MiB, and the hash partition holds the tree of a full slot",
        run: alignment,
    },
    ProfileCheck {
        id: "disk.compression",
        severity: Severity::Fatal,
        rule: "compression levels and block size are ones that zstd and squashfs have",
        run: compression,
    },
    ProfileCheck {
        id: "disk.formats",
        severity: Severity::Fatal,
        rule: "at least one output format is asked for, each once",
        run: formats,
    },
];

/// What the ESP holds besides UKIs: FAT itself, the boot loader and its configuration.
const ESP_OVERHEAD: u64 = 4 << 20;

fn budgets(resolved: &Resolved) -> Vec<Finding> {
    let (disk, budgets) = (&resolved.profile.disk, &resolved.profile.test.budgets);
    let mut findings = Vec::new();
    if let Some(root) = budgets.root
        && root > disk.slot_size
    {
        findings.push(Finding::new(
            "test.budgets.root",
            format!("allows a root of {root}, but disk.slot_size is {}", disk.slot_size),
            "lower the budget or enlarge the slot",
        ));
    }
    if let Some(uki) = budgets.uki
        && 2 * uki.get() + ESP_OVERHEAD > disk.esp_size.get()
    {
        findings.push(Finding::new(
            "test.budgets.uki",
            format!(
                "allows UKIs of {uki}, of which an update needs two, but disk.esp_size is {}",
                disk.esp_size
            ),
            format!(
                "lower the budget, or set disk.esp_size to at least {} MiB",
                (2 * uki.get() + ESP_OVERHEAD).div_ceil(1 << 20)
            ),
        ));
    }
    if let (Some(root), Some(raw)) = (budgets.root, budgets.raw_allocated)
        && root > raw
    {
        findings.push(Finding::new(
            "test.budgets.raw_allocated",
            format!("{raw} is less than the root alone may have ({root})"),
            "raise it, or lower test.budgets.root",
        ));
    }
    findings
}

fn alignment(resolved: &Resolved) -> Vec<Finding> {
    let disk = &resolved.profile.disk;
    let sizes = [
        ("disk.esp_size", Some(disk.esp_size)),
        ("disk.slot_size", Some(disk.slot_size)),
        ("disk.verity_size", disk.verity_size),
        ("disk.state_minimum", Some(disk.state_minimum)),
    ];
    let mut findings: Vec<Finding> = sizes
        .into_iter()
        .filter_map(|(key, size)| {
            let size = size.filter(|size| size.get() == 0 || !size.get().is_multiple_of(1 << 20))?;
            Some(Finding::new(
                key,
                format!("{size} is not a whole number of MiB"),
                "partitions begin and end at 1 MiB boundaries",
            ))
        })
        .collect();
    // FAT32 wants 65,525 clusters of at least one 512-byte sector.
    if disk.esp_size < Size::mib(33) {
        findings.push(Finding::new(
            "disk.esp_size",
            format!("{} is too small for FAT32", disk.esp_size),
            "use at least 33 MiB",
        ));
    }
    let derived = crate::profile::model::Disk { verity_size: None, ..disk.clone() }.verity_partition();
    if let Some(size) = disk.verity_size
        && size < derived
    {
        findings.push(Finding::new(
            "disk.verity_size",
            format!("{size} does not hold the hashes of a full slot of {}", disk.slot_size),
            format!("use at least {derived}, or leave it out"),
        ));
    }
    findings
}

fn compression(resolved: &Resolved) -> Vec<Finding> {
    let disk = &resolved.profile.disk;
    let mut findings = Vec::new();
    for (key, level) in
        [("disk.squashfs_level", disk.squashfs_level), ("disk.initrd_level", disk.initrd_level)]
    {
        if !(1..=22).contains(&level) {
            findings.push(Finding::new(key, format!("zstd has no level {level}"), "use 1 to 22"));
        }
    }
    let block = disk.squashfs_block.get();
    if !block.is_power_of_two() || !(4 << 10..=1 << 20).contains(&block) {
        findings.push(Finding::new(
            "disk.squashfs_block",
            format!("squashfs has no blocks of {}", disk.squashfs_block),
            "use a power of two from \"4 KiB\" to \"1 MiB\"",
        ));
    }
    findings
}

fn formats(resolved: &Resolved) -> Vec<Finding> {
    let formats = &resolved.profile.disk.formats;
    let distinct: std::collections::BTreeSet<_> = formats.iter().collect();
    if formats.is_empty() || distinct.len() < formats.len() {
        return vec![Finding::new(
            "disk.formats",
            "is empty or names one twice",
            "use [\"raw\"], or [\"raw\", \"qcow2\"]",
        )];
    }
    Vec::new()
}
