//! Volumes are checked by `fsck.vfat` and mtools and read back; damaged ones are survived.

use super::{writer::Stamp, *};
use crate::tree::Content;
use proptest::prelude::*;
use std::{io::Cursor, process::Command, sync::Arc};

const EPOCH: u64 = 1_750_000_001;

fn file(path: &str, content: &[u8]) -> File {
    File { path: path.to_owned(), content: Content::Bytes(Arc::from(content)) }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32 / 4 + 1)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

fn volume(length: u64) -> Volume {
    let mut files = vec![
        file("EFI/BOOT/BOOTX64.EFI", &pattern(100_000)),
        file("EFI/Linux/cairn_0.1.0+3.efi", &pattern(3_000_000)),
        file("EFI/systemd/systemd-bootx64.efi", &pattern(4096)),
        file("loader/loader.conf", b"timeout 0\n"),
        file("loader/entries.srel", b"type1\n"),
        file("loader/empty", b""),
        file("größe.txt", b"x"),
    ];
    // A directory of several clusters.
    files.extend(
        (0..100).map(|n| file(&format!("many/a rather long name number {n}"), n.to_string().as_bytes())),
    );
    Volume {
        length,
        id: 0xcafe_f00d,
        label: "CAIRN ESP".to_owned(),
        timestamp: EPOCH,
        hidden_sectors: 2048,
        files,
    }
}

fn image(volume: &Volume) -> Vec<u8> {
    let mut out = Cursor::new(vec![0; volume.length as usize]);
    write(volume, &mut out).unwrap();
    out.into_inner()
}

#[test]
fn what_is_written_is_read() {
    for length in [MINIMUM_LENGTH, 64 << 20, 140 << 20] {
        let volume = volume(length);
        let bytes = image(&volume);
        assert_eq!(bytes.len() as u64, length, "the volume must not outgrow its length");
        let reader = Reader::open(&bytes).unwrap();
        assert_eq!(reader.label(), "CAIRN ESP");
        let entries = reader.entries().unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.length.is_some()).count(), volume.files.len());
        for File { path, content } in &volume.files {
            let Content::Bytes(content) = content else { panic!() };
            let entry = reader.find(path).unwrap().unwrap();
            assert_eq!(&entry.path, path);
            assert!(reader.read(&entry).unwrap() == **content, "{path}");
        }
    }
}

#[test]
fn a_volume_starts_where_the_output_is() {
    let volume = volume(MINIMUM_LENGTH);
    let mut out = Cursor::new(vec![0; 512 + volume.length as usize]);
    out.set_position(512);
    write(&volume, &mut out).unwrap();
    assert!(out.into_inner()[512..] == image(&volume));
}

#[test]
fn fsck_and_mtools_agree() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).env("TZ", "UTC").output().ok()?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {text}");
        Some((output.stdout, text))
    };
    for length in [MINIMUM_LENGTH, 140 << 20] {
        std::fs::write(&path, image(&volume(length))).unwrap();
        let name = path.to_str().unwrap();
        let Some((_, text)) = run("fsck.vfat", &["-n", "-v", name]) else {
            println!("skipped: no fsck.vfat here");
            return;
        };
        assert!(text.contains("FAT32") || text.contains("32 bit") || text.contains("FATs, 32"), "{text}");
        for complaint in ["differ", "Dirty", "wrong", "Wrong", "Free cluster", "bad", "label"] {
            assert!(!text.contains(complaint), "{complaint}: {text}");
        }
        let Some((_, list)) = run("mdir", &["-i", name, "-/", "-a", "::/"]) else {
            println!("skipped: no mtools here");
            return;
        };
        for line in [
            "cairn_0.1.0+3.efi",
            "Volume in drive : is CAIRN ESP",
            "CAFE-F00D",
            "2025-06-15  15:06",
            "systemd-bootx64.efi",
            "a rather long name number 99",
        ] {
            assert!(list.contains(line), "{line} is not in\n{list}");
        }
        let (content, _) = run("mtype", &["-i", name, "::/EFI/Linux/cairn_0.1.0+3.efi"]).unwrap();
        assert!(content == pattern(3_000_000));
    }
}

#[test]
fn what_fat_cannot_hold_is_refused() {
    let refuse = |change: &dyn Fn(&mut Volume)| {
        let mut volume = volume(MINIMUM_LENGTH);
        change(&mut volume);
        let mut out = Cursor::new(Vec::new());
        let message = write(&volume, &mut out).unwrap_err().to_string();
        assert!(out.into_inner().is_empty());
        message
    };
    assert!(refuse(&|v| v.length = MINIMUM_LENGTH - 512).contains("at least"));
    assert!(refuse(&|v| v.length += 1).contains("whole sectors"));
    assert!(refuse(&|v| v.label = "lower".into()).contains("lower"));
    assert!(refuse(&|v| v.files.push(file("a:b", b""))).contains("a:b"));
    assert!(refuse(&|v| v.files.push(file("a//b", b""))).contains("a//b"));
    assert!(refuse(&|v| v.files.push(file("../x", b""))).contains("../x"));
    assert!(refuse(&|v| v.files.push(file("LOADER/Loader.conf", b""))).contains("upper and lower case"));
    assert!(refuse(&|v| v.files.push(file("loader/loader.conf/x", b""))).contains("is a file"));
    assert!(refuse(&|v| v.files.push(file("big", &[1; 33 << 20]))).contains("room"));
}

#[test]
fn timestamps_are_those_of_dos() {
    let date = |year: u16, month: u16, day: u16| (year - 1980) << 9 | month << 5 | day;
    assert_eq!(Stamp::from_unix(0), Stamp { date: date(1980, 1, 1), time: 0 });
    assert_eq!(Stamp::from_unix(EPOCH), Stamp { date: date(2025, 6, 15), time: 15 << 11 | 6 << 5 | 20 });
    assert_eq!(Stamp::from_unix(951_782_400).date, date(2000, 2, 29));
    assert_eq!(Stamp::from_unix(u64::MAX), Stamp { date: date(2107, 12, 31), time: 23 << 11 | 59 << 5 | 29 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_volumes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = image(&volume(MINIMUM_LENGTH));
        let data = (usize::from(RESERVED_SECTORS) * SECTOR..bytes.len()).start;
        for (at, place, value) in changes {
            let at = match place {
                0 => at.index(96),
                1 => data + at.index(2000),
                2 => data + at.index(1 << 20),
                _ => at.index(bytes.len()),
            };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(reader) = Reader::open(&bytes) && let Ok(entries) = reader.entries() {
            for entry in entries {
                let _ = reader.read(&entry);
            }
        }
    }
}
