//! Archives made here with the `tar` crate and by hand, read back as trees.

use super::*;

fn header(kind: EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(7);
    header.set_gid(8);
    header
}

fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> tempfile::NamedTempFile {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), builder.into_inner().unwrap()).unwrap();
    file
}

fn at<'t>(tree: &'t Entries, path: &str) -> &'t Node {
    find(tree, &components(path.as_bytes()).unwrap()).unwrap_or_else(|| panic!("no {path}"))
}

#[test]
fn every_kind_of_entry_arrives() {
    let long = format!("./usr/{}/file", "d".repeat(180));
    let file = archive(|builder| {
        builder.append_data(&mut header(EntryType::Directory, 0), "./", &[][..]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 5), "./usr/bin/tool", &b"tool\n"[..]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 4), &long, &b"long"[..]).unwrap();
        builder.append_link(&mut header(EntryType::Symlink, 0), "./usr/bin/alias", "tool").unwrap();
        builder.append_link(&mut header(EntryType::Link, 0), "./usr/bin/same", "./usr/bin/tool").unwrap();
        builder.append_pax_extensions([("SCHILY.xattr.security.capability", &b"\x01\0\x02"[..])]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0), "./usr/bin/ping", &[][..]).unwrap();
        let mut device = header(EntryType::Char, 0);
        device.set_device_major(1).unwrap();
        device.set_device_minor(3).unwrap();
        builder.append_data(&mut device, "./dev/null", &[][..]).unwrap();
        builder.append_data(&mut header(EntryType::Fifo, 0), "./run/pipe", &[][..]).unwrap();
    });
    let tree = read(file.path(), Whiteouts::Literal).unwrap();
    let tool = at(&tree, "usr/bin/tool");
    assert_eq!((tool.meta.mode, tool.meta.uid, tool.meta.gid), (0o4755, 7, 8));
    let Kind::File(content) = &tool.kind else { panic!("{tool:?}") };
    assert_eq!(bytes(content).unwrap(), b"tool\n");
    assert_eq!(at(&tree, "usr/bin/same"), tool);
    assert_eq!(at(&tree, "usr/bin/alias").kind, Kind::Symlink(b"tool".to_vec()));
    assert_eq!(at(&tree, "usr").meta.uid, 0, "an implied directory is root's");
    assert_eq!(at(&tree, "dev/null").kind, Kind::CharDevice { major: 1, minor: 3 });
    assert_eq!(at(&tree, "run/pipe").kind, Kind::Fifo);
    let Kind::File(content) = &at(&tree, &long).kind else { panic!("not a file") };
    assert_eq!(bytes(content).unwrap(), b"long");
    let xattrs = &at(&tree, "usr/bin/ping").meta.xattrs;
    assert_eq!(xattrs.get(&b"security.capability"[..]).unwrap(), b"\x01\0\x02");
}

#[test]
fn whiteouts_become_overlay_marks_only_when_asked() {
    let file = archive(|builder| {
        for name in ["dir/.wh.gone", "other/.wh..wh..opq"] {
            builder.append_data(&mut header(EntryType::Regular, 0), name, &[][..]).unwrap();
        }
        builder.append_data(&mut header(EntryType::Directory, 0), "other/", &[][..]).unwrap();
    });
    let overlay = read(file.path(), Whiteouts::Overlay).unwrap();
    assert_eq!(at(&overlay, "dir/gone").kind, Kind::CharDevice { major: 0, minor: 0 });
    let other = at(&overlay, "other");
    assert_eq!(other.meta.xattrs.get(&b"trusted.overlay.opaque"[..]).unwrap(), b"y");
    assert_eq!(other.meta.mode, 0o4755, "the directory's own entry came after its mark");
    let literal = read(file.path(), Whiteouts::Literal).unwrap();
    assert!(matches!(at(&literal, "dir/.wh.gone").kind, Kind::File(_)));
}

#[test]
fn paths_that_lead_out_are_refused() {
    let raw = |name: &[u8]| {
        archive(|builder| {
            let mut header = header(EntryType::Regular, 0);
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
        })
    };
    let file = raw(b"a/../../etc/passwd");
    let error = read(file.path(), Whiteouts::Literal).unwrap_err();
    assert!(matches!(error, ArchiveError::Refused { .. }), "{error}");

    let through = archive(|builder| {
        builder.append_link(&mut header(EntryType::Symlink, 0), "lib", "/etc").unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0), "lib/file", &[][..]).unwrap();
    });
    let error = read(through.path(), Whiteouts::Literal).unwrap_err();
    assert!(matches!(error, ArchiveError::Refused { .. }), "{error}");

    let dangling = archive(|builder| {
        builder.append_link(&mut header(EntryType::Link, 0), "a", "b").unwrap();
    });
    assert!(matches!(read(dangling.path(), Whiteouts::Literal), Err(ArchiveError::Refused { .. })));
}

#[test]
fn a_truncated_archive_is_damaged() {
    let file = archive(|builder| {
        builder.append_data(&mut header(EntryType::Regular, 9000), "file", &[1; 9000][..]).unwrap();
    });
    file.as_file().set_len(5000).unwrap();
    let error = read(file.path(), Whiteouts::Literal).unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
}
