//! Images are read back by our reader and by the field's own.

use super::*;
use crate::tree::{Content, Entries, Kind, Metadata, Node};
use proptest::prelude::*;
use std::{collections::BTreeMap, io::Cursor, num::NonZeroUsize, path::Path, process::Command, sync::Arc};

const EPOCH: u32 = 1_750_000_000;

fn node(mode: u16, uid: u32, gid: u32, kind: Kind) -> Node {
    Node { meta: Metadata { mode, uid, gid, xattrs: BTreeMap::new() }, kind }
}

fn with_xattr(mut node: Node, name: &str, value: &[u8]) -> Node {
    node.meta.xattrs.insert(name.as_bytes().to_vec(), value.to_vec());
    node
}

fn file(bytes: impl AsRef<[u8]>) -> Node {
    node(0o644, 0, 0, Kind::File(Content::Bytes(Arc::from(bytes.as_ref()))))
}

fn directory(entries: impl IntoIterator<Item = (&'static str, Node)>) -> Node {
    let entries: Entries = entries.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node)).collect();
    node(0o755, 0, 0, Kind::Directory(entries))
}

/// Bytes that compress a little and are never the same for two seeds.
fn text(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'a' + (state % 23) as u8
        })
        .collect()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Every kind of inode and every layout of data.
fn everything() -> Node {
    let many: Entries = (0..1500)
        .map(|n| {
            (
                format!("a-file-with-a-rather-long-name-so-that-listings-get-long-{n:05}").into_bytes(),
                file(format!("{n}")),
            )
        })
        .collect();
    let mut sparse = vec![0; 700_000];
    sparse[300_000] = 1;
    directory([
        ("big", file(text(1_000_003, 1))),
        ("copy-of-big", file(text(1_000_003, 1))),
        (
            "dev",
            directory([
                ("console", node(0o600, 0, 5, Kind::CharDevice { major: 5, minor: 1 })),
                ("far", node(0o660, 0, 6, Kind::BlockDevice { major: 259, minor: 70_000 })),
                ("pipe", node(0o622, 1, 1, Kind::Fifo)),
            ]),
        ),
        ("empty", file("")),
        ("empty-directory", directory([])),
        ("exact", file(text(512 * 1024, 2))),
        ("holes", file(vec![0; 600_000])),
        ("link", node(0o777, 0, 0, Kind::Symlink(b"../some/where".to_vec()))),
        ("many", node(0o755, 0, 0, Kind::Directory(many))),
        ("noise", file(noise(300_000))),
        ("opaque", with_xattr(directory([("x", file("x"))]), "trusted.overlay.opaque", b"y")),
        (
            "ping",
            with_xattr(
                with_xattr(
                    file(text(70_000, 3)),
                    "security.capability",
                    &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
                "user.note",
                b"hello",
            ),
        ),
        ("pong", with_xattr(file("pong"), "user.note", b"hello")),
        ("setuid", node(0o4755, 1000, 70_000, Kind::File(Content::Bytes(Arc::from(&b"#!"[..]))))),
        ("sparse", file(sparse)),
    ])
}

fn image(root: &Node, change: impl FnOnce(&mut Options)) -> (Vec<u8>, Summary) {
    let mut options = Options::new(EPOCH);
    change(&mut options);
    let mut out = Cursor::new(Vec::new());
    let summary = write(root, &options, &Zstd { level: 3 }, &mut out, &|_| {}).unwrap();
    (out.into_inner(), summary)
}

/// Walks tree and image side by side.
fn compare(node: &Node, path: &str, reader: &Reader<'_>, entries: &BTreeMap<Vec<u8>, Entry>) -> usize {
    let entry = &entries[path.as_bytes()];
    assert_eq!(
        (entry.mode, entry.uid, entry.gid, entry.modified),
        (node.meta.mode, node.meta.uid, node.meta.gid, EPOCH)
    );
    assert_eq!(entry.xattrs, node.meta.xattrs, "{path}");
    match (&node.kind, &entry.kind) {
        (Kind::Directory(children), EntryKind::Directory) => {
            let join = |name: &[u8]| {
                format!("{path}{}{}", if path.is_empty() { "" } else { "/" }, String::from_utf8_lossy(name))
            };
            return 1 + children
                .iter()
                .map(|(name, child)| compare(child, &join(name), reader, entries))
                .sum::<usize>();
        }
        (Kind::File(Content::Bytes(expected)), EntryKind::File { length }) => {
            let mut bytes = Vec::new();
            reader
                .read(entry, &mut |block| {
                    bytes.extend_from_slice(block);
                    Ok(())
                })
                .unwrap();
            assert_eq!(*length, expected.len() as u64);
            assert!(bytes == **expected, "content of {path} differs");
        }
        (Kind::Symlink(a), EntryKind::Symlink(b)) => assert_eq!(a, b),
        (Kind::CharDevice { major, minor }, EntryKind::CharDevice(a, b))
        | (Kind::BlockDevice { major, minor }, EntryKind::BlockDevice(a, b)) => {
            assert_eq!((major, minor), (a, b))
        }
        (Kind::Fifo, EntryKind::Fifo) => {}
        (a, b) => panic!("{path}: {a:?} became {b:?}"),
    }
    1
}

fn check(root: &Node, bytes: &[u8]) {
    let reader = Reader::open(&bytes).unwrap();
    let entries: BTreeMap<_, _> =
        reader.entries().unwrap().into_iter().map(|e| (e.path.clone(), e)).collect();
    assert_eq!(compare(root, "", &reader, &entries), entries.len());
}

#[test]
fn everything_survives_the_round_trip() {
    let root = everything();
    for pack_tails in [false, true] {
        for block_size in [BlockSize::KIB_128, BlockSize::KIB_256, BlockSize::MIB_1] {
            let (bytes, summary) = image(&root, |options| {
                options.block_size = block_size;
                options.pack_tails = pack_tails;
                options.exportable = pack_tails;
            });
            assert_eq!(summary.length, bytes.len() as u64);
            assert_eq!(summary.duplicate_bytes, 1_000_003, "copy-of-big");
            check(&root, &bytes);
        }
    }
}

#[test]
fn threads_do_not_show() {
    let root = everything();
    let (one, _) = image(&root, |options| options.threads = NonZeroUsize::MIN);
    for threads in [2, 3, 8] {
        let (many, _) = image(&root, |options| options.threads = NonZeroUsize::new(threads).unwrap());
        assert!(one == many, "{threads} threads give another image");
    }
}

#[test]
fn the_cache_gives_the_same_image_and_spares_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let root = everything();
    let (plain, _) = image(&root, |_| {});
    for round in 0..2 {
        let cache = CachedZstd::open(&folder.path().join("pack"), 3).unwrap();
        let mut out = Cursor::new(Vec::new());
        write(&root, &Options::new(EPOCH), &cache, &mut out, &|_| {}).unwrap();
        assert!(out.into_inner() == plain);
        let (hits, misses) = cache.statistics();
        assert_eq!((hits == 0, misses == 0), (round == 0, round == 1));
    }
}

#[test]
fn contents_come_from_ranges_of_files_and_a_short_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = Arc::new(folder.path().join("archive"));
    let data = text(2_000_000, 9);
    std::fs::write(&*path, &data).unwrap();
    let range = |offset, length| {
        node(0o644, 0, 0, Kind::File(Content::Range { path: Arc::clone(&path), offset, length }))
    };
    let (bytes, _) = image(&directory([("a", range(0, 10)), ("b", range(500_000, 1_000_000))]), |_| {});
    check(&directory([("a", file(&data[..10])), ("b", file(&data[500_000..1_500_000]))]), &bytes);
    let error = write(
        &directory([("a", range(1_999_990, 20))]),
        &Options::new(EPOCH),
        &Zstd { level: 3 },
        &mut Cursor::new(Vec::new()),
        &|_| {},
    );
    assert!(error.unwrap_err().to_string().contains("archive"));
}

#[test]
fn what_squashfs_cannot_hold_is_refused_by_path() {
    let refuse = |root: Node| {
        write(&root, &Options::new(0), &Zstd { level: 1 }, &mut Cursor::new(Vec::new()), &|_| {})
            .unwrap_err()
            .to_string()
    };
    let long: Entries = [(vec![b'n'; 256], file(""))].into();
    let message = refuse(directory([("etc", node(0o755, 0, 0, Kind::Directory(long)))]));
    assert!(message.starts_with("/etc/nnn") && message.contains("255"), "{message}");
    assert!(
        refuse(directory([("x", with_xattr(file(""), "system.posix_acl_access", b""))])).starts_with("/x ")
    );
    assert!(refuse(directory([("l", node(0o777, 0, 0, Kind::Symlink(vec![])))])).contains("target is empty"));
    assert!(refuse(file("")).contains("root"));
    assert!(
        BlockSize::try_from(0).is_err()
            && BlockSize::try_from(3000).is_err()
            && BlockSize::try_from(1 << 21).is_err()
    );
}

#[test]
fn progress_adds_up_to_what_is_stored() {
    let done = std::cell::Cell::new(0);
    let root = everything();
    let summary =
        write(&root, &Options::new(0), &Zstd { level: 1 }, &mut Cursor::new(Vec::new()), &|bytes| {
            done.set(done.get() + bytes)
        })
        .unwrap();
    assert_eq!(done.get(), summary.file_bytes - summary.duplicate_bytes);
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr]
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .concat();
            assert!(output.status.success(), "{program} {arguments:?}: {text}");
            Some(text)
        }
        Err(_) => {
            println!("skipped: no {program} here");
            None
        }
    }
}

#[test]
fn unsquashfs_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let root = everything();
    for exportable in [false, true] {
        let (bytes, summary) = image(&root, |options| options.exportable = exportable);
        let path = folder.path().join("image");
        std::fs::write(&path, &bytes).unwrap();
        let path = path.to_str().unwrap();
        let Some(superblock) = run("unsquashfs", &["-s", path]) else { return };
        for line in [
            "Found a valid SQUASHFS 4:0 superblock",
            "Compression zstd",
            "compression-level 3",
            "Block size 262144",
            &format!("Number of inodes {}", summary.inodes),
            &format!("Number of fragments {}", summary.fragments),
            if exportable { "Filesystem is exportable" } else { "Filesystem is not exportable" },
        ] {
            assert!(superblock.contains(line), "{line} is not in\n{superblock}");
        }
        // Its listing shows minors above 255 wrongly, so the far device is left to the kernel's own decoding.
        let list = run("unsquashfs", &["-lln", path]).unwrap();
        for line in [
            "crw------- 0/5                   5,  1",
            "brw-rw---- 0/6",
            "prw--w--w- 1/1",
            "-rwsr-xr-x 1000/70000",
            "link -> ../some/where",
        ] {
            assert!(list.contains(line), "{line} is not in\n{}", &list[..2000]);
        }
        let target = folder.path().join(format!("out-{exportable}"));
        run("unsquashfs", &["-no-progress", "-no-xattrs", "-d", target.to_str().unwrap(), path]);
        compare_extracted(&root, &target);
    }
}

fn compare_extracted(node: &Node, path: &Path) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    match &node.kind {
        Kind::Directory(children) => {
            assert_eq!(std::fs::read_dir(path).unwrap().count(), children.len());
            for (name, child) in children {
                compare_extracted(child, &path.join(std::str::from_utf8(name).unwrap()));
            }
        }
        Kind::File(Content::Bytes(expected)) => {
            assert!(std::fs::read(path).unwrap() == **expected, "{}", path.display())
        }
        Kind::Symlink(target) => {
            assert_eq!(std::fs::read_link(path).unwrap().to_str().unwrap().as_bytes(), target)
        }
        _ => assert!(!metadata.is_file() && !metadata.is_dir()),
    }
}

#[test]
fn mksquashfs_images_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir_all(source.join("deep/deeper")).unwrap();
    std::fs::write(source.join("deep/deeper/big"), text(900_000, 4)).unwrap();
    for n in 0..600 {
        std::fs::write(source.join(format!("deep/{n:04}")), text(n * 10, n as u64)).unwrap();
    }
    let image = folder.path().join("image");
    let arguments =
        [source.to_str().unwrap(), image.to_str().unwrap(), "-comp", "zstd", "-no-progress", "-quiet"];
    if run("mksquashfs", &arguments).is_none() {
        return;
    }
    let bytes = std::fs::read(image).unwrap();
    let reader = Reader::open(&bytes).unwrap();
    assert_eq!(reader.entries().unwrap().len(), 604);
    let found = reader.find(b"deep/deeper/big").unwrap().unwrap();
    let mut content = Vec::new();
    reader
        .read(&found, &mut |block| {
            content.extend_from_slice(block);
            Ok(())
        })
        .unwrap();
    assert!(content == text(900_000, 4));
    assert!(reader.find(b"deep/nothing").unwrap().is_none());
}

fn exercise(bytes: &[u8]) {
    let Ok(reader) = Reader::open(&bytes) else { return };
    let Ok(entries) = reader.entries() else { return };
    for entry in entries {
        let _ = reader.read(&entry, &mut |_| Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_images_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut in any::<Option<prop::sample::Index>>()) {
        let small = directory([
            ("a", directory([("b", file(text(9000, 1))), ("c", with_xattr(file("c"), "user.c", b"v"))])),
            ("d", file(text(5000, 2))),
            ("l", node(0o777, 0, 0, Kind::Symlink(b"d".to_vec()))),
        ]);
        let (mut bytes, _) = image(&small, |options| options.threads = NonZeroUsize::MIN);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        exercise(&bytes);
    }
}

#[test]
fn every_flipped_byte_of_the_superblock_is_survived() {
    let (bytes, _) = image(&directory([("d", file(text(5000, 2)))]), |_| {});
    for at in 0..96 {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            exercise(&damaged);
        }
    }
}
