//! What archives become, and what hostile ones cannot do. On a real file system as root: devices and
//! `trusted.*` attributes need both.

use super::*;
use ::tar::{Builder, EntryType, Header};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// One entry, in the order of the archive.
enum Put<'a> {
    File(&'a str, &'a str),
    Dir(&'a str, u32),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Device(&'a str, u32, u32),
    Fifo(&'a str),
    Xattr(&'a str, &'a [u8]),
}
use Put::{Device, Dir, Fifo, File, Hard, Link, Xattr};

fn archive(entries: &[Put<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_000_000_000);
        header.set_mode(0o640);
        header.set_size(0);
        let mut content = "";
        // Written raw: the library's own checks would refuse what a hostile archive has.
        let raw = |field: &mut [u8], text: &str| field[..text.len()].copy_from_slice(text.as_bytes());
        let (path, kind, link) = match entry {
            Xattr(name, value) => {
                builder.append_pax_extensions([(&*format!("SCHILY.xattr.{name}"), *value)]).unwrap();
                continue;
            }
            File(path, text) => {
                content = text;
                header.set_size(text.len() as u64);
                (path, EntryType::Regular, "")
            }
            Dir(path, mode) => {
                header.set_mode(*mode);
                (path, EntryType::Directory, "")
            }
            Link(path, target) => (path, EntryType::Symlink, *target),
            Hard(path, target) => (path, EntryType::Link, *target),
            Device(path, major, minor) => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                (path, EntryType::Char, "")
            }
            Fifo(path) => (path, EntryType::Fifo, ""),
        };
        header.set_entry_type(kind);
        raw(&mut header.as_old_mut().name, path);
        raw(&mut header.as_old_mut().linkname, link);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A directory in `/var/tmp`, or the reason why the test cannot run.
fn scratch() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let probe = dir.path().join("probe");
    std::fs::write(&probe, "").unwrap();
    if let Err(error) = fs::setxattr(&probe, "trusted.probe", b"y", XattrFlags::empty()) {
        println!("skipped: needs root and a file system with trusted.* attributes: {error}");
        return None;
    }
    std::fs::create_dir(dir.path().join("root")).unwrap();
    std::fs::write(dir.path().join("secret"), "outside").unwrap();
    Some(dir)
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_char_device() && metadata.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

#[test]
fn files_of_all_kinds_keep_their_attributes() {
    let Some(dir) = scratch() else { return };
    let root = dir.path().join("root");
    // VFS_CAP_REVISION_2, effective, CAP_NET_RAW.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let bytes = archive(&[
        Dir("./", 0o751),
        Dir("./dir/", 0o1777),
        File("./dir/file", "content"),
        Hard("dir/hard", "dir/file"),
        Link("dir/soft", "/etc/passwd"),
        Device("/null", 1, 3),
        Fifo("fifo"),
        Xattr("security.capability", &capability),
        Xattr("user.note", b"hello"),
        Xattr("trusted.overlay.redirect", b"/etc"),
        File("ping", "x"),
    ]);
    let unpacked = unpack(&bytes[..], &root).unwrap();
    assert_eq!((unpacked.size, unpacked.inodes), (8, 7));
    assert!(unpacked.implicit.is_empty());
    let stat = |path: &str| root.join(path).symlink_metadata().unwrap();
    assert_eq!(stat("").mode() & 0o7777, 0o751);
    assert_eq!(stat("dir").mode() & 0o7777, 0o1777);
    let file = stat("dir/file");
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777, file.mtime()),
        (1234, 5678, 0o640, 1_000_000_000)
    );
    assert_eq!(file.ino(), stat("dir/hard").ino());
    assert_eq!(stat("dir").mtime(), 1_000_000_000);
    assert_eq!(std::fs::read_link(root.join("dir/soft")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(stat("dir/soft").uid(), 1234);
    assert_eq!((stat("null").rdev(), stat("null").file_type().is_char_device()), (fs::makedev(1, 3), true));
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(xattr(&root.join("ping"), "security.capability").unwrap(), capability);
    assert_eq!(xattr(&root.join("ping"), "user.note").unwrap(), b"hello");
    assert_eq!(xattr(&root.join("ping"), "trusted.overlay.redirect"), None);
}

#[test]
fn whiteouts_become_what_overlayfs_understands() {
    let Some(dir) = scratch() else { return };
    let root = dir.path().join("root");
    let bytes = archive(&[
        File("a/.wh.gone", ""),
        File("b/.wh..wh..opq", ""),
        File("b/kept", "x"),
        File(".wh..wh.plnk", ""),
        // The file of this layer wins over a whiteout of this layer, in either order.
        File("c/both", "x"),
        File("c/.wh.both", ""),
        File("c/.wh.then", ""),
        File("c/then", "y"),
        // A directory beside its whiteout hides what is below.
        Dir("d", 0o755),
        File("d/new", "x"),
        File(".wh.d", ""),
        File(".wh.e", ""),
        File("e/new", "x"),
        File(".wh.f", ""),
        Dir("f", 0o700),
    ]);
    let unpacked = unpack(&bytes[..], &root).unwrap();
    assert!(is_whiteout(&root.join("a/gone")));
    assert!(is_opaque(&root.join("b")) && root.join("b/kept").exists());
    assert!(!root.join(".wh..wh.plnk").exists());
    assert_eq!(std::fs::read(root.join("c/both")).unwrap(), b"x");
    assert_eq!(std::fs::read(root.join("c/then")).unwrap(), b"y");
    for name in ["d", "e", "f"] {
        assert!(root.join(name).is_dir() && is_opaque(&root.join(name)), "{name}");
    }
    assert!(!is_opaque(&root.join("a")) && !is_opaque(&root));
    assert_eq!(unpacked.implicit, ["a", "b", "c"].map(PathBuf::from));
    assert!(unpack(&archive(&[File(".wh..wh..opq", "")])[..], &root).is_ok() && is_opaque(&root));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let Some(dir) = scratch() else { return };
    let root = dir.path().join("root");
    let bytes = archive(&[
        File("x", "first"),
        File("x", "second"),
        Dir("d", 0o755),
        File("d/sub/file", "x"),
        Link("d", "elsewhere"),
        Link("l", "target"),
        Dir("l", 0o755),
        File("l/in", "x"),
        // Through a symbolic link whose target this layer does not have: the target is made.
        Link("lib", "usr/lib"),
        File("lib/so", "x"),
    ]);
    unpack(&bytes[..], &root).unwrap();
    assert_eq!(std::fs::read(root.join("x")).unwrap(), b"second");
    assert_eq!(std::fs::read_link(root.join("d")).unwrap(), Path::new("elsewhere"));
    assert!(root.join("l").symlink_metadata().unwrap().is_dir() && root.join("l/in").exists());
    assert!(root.join("lib").is_symlink() && root.join("usr/lib/so").exists());
}

#[test]
fn hostile_archives_stay_inside() {
    let cases: &[(&str, &[Put<'_>], bool)] = &[
        ("dot dot", &[File("../secret", "x")], false),
        ("dot dot within", &[File("a/../../secret", "x")], false),
        ("absolute", &[File("/secret", "x")], true),
        ("whiteout of dot dot", &[File(".wh...", "")], false),
        ("whiteout of dot", &[File("a/.wh..", "")], false),
        ("whiteout of nothing", &[File("a/.wh.", "")], false),
        ("symlink parent, relative", &[Link("up", ".."), File("up/secret", "x")], true),
        (
            "symlink parent, far",
            &[Link("up", "../../../../../../../.."), File("up/var/tmp/secret", "x")],
            true,
        ),
        ("symlink parent, absolute", &[Link("abs", "/etc"), File("abs/hostile", "x")], true),
        ("symlink chain", &[Link("a", "/"), Link("b", "a/.."), File("b/secret", "x")], true),
        ("symlink loop", &[Link("a", "b"), Link("b", "a"), File("a/x", "x")], false),
        ("magic link", &[Link("self", "/proc/self/root"), File("self/secret", "x")], true),
        ("symlink replaced", &[Link("secret", "../secret"), File("secret", "x")], true),
        ("device behind a symlink", &[Link("up", ".."), Device("up/null", 1, 3)], true),
        ("opaque outside", &[Link("up", "../.."), File("up/.wh..wh..opq", "")], true),
        ("whiteout outside", &[Link("up", ".."), File("up/.wh.secret", "")], true),
        ("hard link out", &[Hard("h", "../secret")], false),
        ("hard link, absolute", &[Hard("h", "/etc/passwd")], false),
        ("hard link through a symlink", &[Link("up", ".."), Hard("h", "up/secret")], false),
        ("hard link to a symlink", &[Link("s", "../secret"), Hard("h", "s"), File("h", "x")], true),
        ("hard link to itself", &[File("h", "x"), Hard("h", "./h")], false),
        ("hard link to a directory", &[Dir("d", 0o755), Hard("h", "d")], false),
        ("below a file", &[File("f", "x"), File("f/x", "x")], false),
        ("the root as a file", &[File("./", "")], true),
        ("the root as a link", &[Link(".", "/etc")], false),
        ("chmod through a symlink", &[Link("d", ".."), Dir("d", 0o777)], true),
    ];
    for (name, entries, accepted) in cases {
        let Some(dir) = scratch() else { return };
        let before = snapshot(dir.path());
        let result = unpack(&archive(entries)[..], &dir.path().join("root"));
        assert_eq!(result.is_ok(), *accepted, "{name}: {result:?}");
        assert_eq!(snapshot(dir.path()), before, "{name}");
        assert!(!Path::new("/etc/hostile").exists() && !Path::new("/var/tmp/secret").exists(), "{name}");
    }
}

/// Everything beside `root`, with what an attack could change.
fn snapshot(dir: &Path) -> Vec<(String, u32, u64, i64)> {
    let mut seen: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let stat = entry.metadata().unwrap();
            let inside = entry.file_name() == "root";
            let (mode, mtime) = if inside { (0, 0) } else { (stat.mode(), stat.mtime()) };
            (entry.file_name().into_string().unwrap(), mode, if inside { 0 } else { stat.nlink() }, mtime)
        })
        .collect();
    seen.push((".".into(), dir.metadata().unwrap().mode(), 0, 0));
    assert_eq!(std::fs::read(dir.join("secret")).unwrap(), b"outside");
    assert!(!is_opaque(dir));
    seen.sort();
    seen
}

#[test]
fn a_deep_tree_is_replaced() {
    let Some(dir) = scratch() else { return };
    let deep = format!("d/{}f", "x/".repeat(40));
    let bytes = archive(&[File(&deep, "x"), File("d/other", "x"), File("d", "now a file")]);
    unpack(&bytes[..], &dir.path().join("root")).unwrap();
    assert!(dir.path().join("root/d").is_file());
}

#[test]
fn a_path_that_nobody_describes_has_an_end() {
    let Some(dir) = scratch() else { return };
    let mut tree = Tree::open(&dir.path().join("root")).unwrap();
    assert!(tree.place(Path::new(&"d/".repeat(200)).join("f").as_path()).is_ok());
    assert_eq!(tree.take_made(), 200);
    assert_eq!(tree.place(Path::new(&"e/".repeat(300)).join("f").as_path()).err(), Some(Errno::NAMETOOLONG));
    assert!(!dir.path().join("root/e").exists());
}
