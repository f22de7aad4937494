//! Tables are checked by `sgdisk` and read back; damaged ones are survived.

use super::*;
use proptest::prelude::*;
use std::{io::Cursor, process::Command};

fn wanted(kind: PartitionType, number: u8, length: u64, attributes: Attributes, label: &str) -> Wanted {
    Wanted { kind, uuid: Uuid::from_bytes([number; 16]), length, attributes, label: label.to_owned() }
}

fn table() -> Table {
    let none = Attributes::default();
    Table::arrange(
        uuid!("a0b1c2d3-e4f5-4607-8899-aabbccddeeff"),
        vec![
            wanted(PartitionType::Esp, 1, 40 << 20, none, "esp"),
            wanted(PartitionType::RootX86_64, 2, (3 << 20) + 5, Attributes::READ_ONLY, "cairn_1.2.3"),
            wanted(PartitionType::RootVerityX86_64, 3, 1, Attributes::READ_ONLY, "cairn_1.2.3"),
            wanted(
                PartitionType::RootX86_64,
                4,
                1 << 20,
                Attributes::READ_ONLY.and(Attributes::NO_AUTO),
                "_empty",
            ),
            wanted(PartitionType::Other(Uuid::from_bytes([9; 16])), 5, 1 << 20, none, "größe"),
        ],
    )
}

fn disk(table: &Table) -> Vec<u8> {
    let mut out = Cursor::new(vec![0; table.length as usize]);
    write(table, &mut out).unwrap();
    out.into_inner()
}

#[test]
fn what_is_written_is_read() {
    let table = table();
    assert_eq!(table.partitions[1].length, 4 << 20);
    assert_eq!(table.partitions[2].offset, (1 + 40 + 4) << 20);
    assert_eq!(read(&disk(&table)).unwrap(), Read { table, faults: vec![] });
}

#[test]
fn sgdisk_finds_no_problems() {
    let table = table();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), disk(&table)).unwrap();
    let sgdisk = |arguments: &[&str]| {
        let output = Command::new("sgdisk").args(arguments).arg(file.path()).output().ok()?;
        assert!(output.status.success());
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(verified) = sgdisk(&["-v"]) else {
        println!("skipped: no sgdisk here");
        return;
    };
    assert!(verified.contains("No problems found"), "{verified}");
    let info = sgdisk(&["-i", "4"]).unwrap();
    for line in [
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709 (Linux x86-64 root",
        "Partition unique GUID: 04040404-0404-0404-0404-040404040404",
        "Attribute flags: 9000000000000000",
        "Partition name: '_empty'",
    ] {
        assert!(info.contains(line), "{line} is not in\n{info}");
    }
    assert!(sgdisk(&["-p"]).unwrap().contains("A0B1C2D3-E4F5-4607-8899-AABBCCDDEEFF"));
}

#[test]
fn each_copy_stands_in_for_the_other() {
    let table = table();
    let good = disk(&table);
    let end = good.len();
    for (at, copy) in [
        (512 + 60, Copy::Primary),
        (1024 + 5, Copy::Primary),
        (end - 452, Copy::Backup),
        (end - 512 - 16_000, Copy::Backup),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let found = read(&bad).unwrap();
        assert_eq!(found.table, table);
        assert!(
            matches!(&found.faults[..], [Fault::Damaged { copy: which, .. }] if *which == copy),
            "{:?}",
            found.faults
        );
    }
    let mut bad = good.clone();
    bad[510] = 0;
    assert_eq!(read(&bad).unwrap().faults, [Fault::NoProtectiveMbr]);

    let mut other = table.clone();
    other.disk = Uuid::from_bytes([3; 16]);
    let mut mixed = good.clone();
    mixed[end - 512 * 33..].copy_from_slice(&disk(&other)[end - 512 * 33..]);
    assert_eq!(read(&mixed).unwrap().faults, [Fault::Differ]);

    let truncated = good[..end - 1_000_000].to_vec();
    assert!(matches!(&read(&truncated).unwrap().faults[..], [Fault::Damaged { copy: Copy::Backup, .. }]));
    let cut_short = good[..2 << 20].to_vec();
    let ReadError::CutOff { size, length } = read(&cut_short).unwrap_err() else { panic!("it is cut off") };
    assert_eq!((size, length), (2 << 20, end as u64));
    let mut damaged = cut_short;
    damaged[512 + 60] ^= 1;
    let message = read(&damaged).unwrap_err().to_string();
    assert!(message.contains("checksum is wrong") && message.contains("signature is missing"), "{message}");
    assert!(read(&vec![0; 100]).is_err() && read(&vec![0; 1 << 20]).is_err());
}

#[test]
fn impossible_tables_are_refused_before_writing() {
    let refuse = |change: &dyn Fn(&mut Table)| {
        let mut table = table();
        change(&mut table);
        let mut out = Cursor::new(Vec::new());
        let message = write(&table, &mut out).unwrap_err().to_string();
        assert!(out.into_inner().is_empty());
        message
    };
    assert!(refuse(&|t| t.partitions[1].offset -= 512).contains("first free"));
    assert!(refuse(&|t| t.partitions[4].length = 3 << 20).contains("last usable"));
    assert!(refuse(&|t| t.partitions[4].length = u64::MAX - 511).contains("last usable"));
    assert!(refuse(&|t| t.partitions[0].offset = 100).contains("whole sectors"));
    assert!(refuse(&|t| t.partitions[0].label = "x".repeat(37)).contains("36"));
    assert!(refuse(&|t| t.partitions[0].uuid = t.partitions[1].uuid).contains("UUID"));
    assert!(refuse(&|t| t.length = 4096).contains("too small"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_tables_never_panic(
        changes in prop::collection::vec((0usize..40 * 512, any::<u8>()), 1..10),
        fix_checksums: bool,
        cut in prop::option::of(0usize..60_000_000),
    ) {
        let mut bytes = disk(&table());
        for (at, value) in changes {
            bytes[at] = value;
        }
        if fix_checksums {
            let entries = crc32fast::hash(&bytes[1024..1024 + ENTRIES * ENTRY]);
            bytes[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
            bytes[512 + 16..512 + 20].fill(0);
            let header = crc32fast::hash(&bytes[512..512 + HEADER]);
            bytes[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let _ = read(&bytes);
    }
}
