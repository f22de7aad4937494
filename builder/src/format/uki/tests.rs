//! Images are read by `objdump` and `sbverify`'s sister tools and read back; damaged ones are survived.
//!
//! Where systemd's stub is not installed, a small stub made here stands in for it.

use super::*;
use proptest::prelude::*;
use std::process::Command;

const STUBS: [&str; 2] =
    ["/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "/tmp/stub/usr/lib/systemd/boot/efi/linuxx64.efi.stub"];

/// A PE32+ file with two sections, space for `spare` more headers, and nothing that runs.
pub(crate) fn small_stub(spare: usize) -> Vec<u8> {
    let table = 0x40 + 4 + 20 + 240;
    let headers_size = (table + (2 + spare) * 40).next_multiple_of(512);
    let mut stub = vec![0; headers_size + 2 * 512];
    let mut put = |at: usize, bytes: &[u8]| stub[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &[0x64, 0x86, 2, 0]);
    put(0x44 + 16, &[240, 0, 0x2e, 0x02]);
    let optional = 0x58;
    put(optional, &[0x0b, 0x02]);
    for (at, value) in [
        (4, 512u32),
        (8, 512),
        (16, 0x1000),
        (20, 0x1000),
        (32, 0x1000),
        (36, 512),
        (56, 0x3000),
        (60, headers_size as u32),
        (108, 16),
    ] {
        put(optional + at, &value.to_le_bytes());
    }
    put(optional + 68, &10u16.to_le_bytes());
    for (index, name) in [b".text\0\0\0", b".sbat\0\0\0"].iter().enumerate() {
        let at = table + index * 40;
        put(at, *name);
        for (field, value) in [
            (8, 300u32),
            (12, 0x1000 * (index as u32 + 1)),
            (16, 512),
            (20, (headers_size + index * 512) as u32),
            (36, 0x4000_0040),
        ] {
            put(at + field, &value.to_le_bytes());
        }
    }
    if spare < 12 {
        // Fill the gap behind the headers, so that exactly `spare` fit.
        let end = table + (2 + spare) * 40;
        stub[end..headers_size].fill(0xcc);
    }
    stub
}

fn stubs() -> Vec<Vec<u8>> {
    let mut stubs = vec![small_stub(12)];
    match STUBS.iter().find_map(|path| std::fs::read(path).ok()) {
        Some(stub) => stubs.push(stub),
        None => println!("skipped the part with systemd's stub: not installed"),
    }
    stubs
}

fn parts<'a>(stub: &'a [u8], kernel: &'a [u8], initrd: &'a [u8]) -> Parts<'a> {
    Parts {
        stub,
        os_release: b"ID=cairn\nPRETTY_NAME=\"Cairn\"\n",
        command_line: "quiet roothash=00ff",
        kernel_release: "6.12.0-test",
        kernel,
        initrd,
        splash: None,
    }
}

#[test]
fn sections_come_back_as_they_went_in() {
    let (kernel, initrd) = (small_stub(0), vec![0x5a; 1_234_567]);
    for stub in stubs() {
        let parts = parts(&stub, &kernel, &initrd);
        let image = build(&parts).unwrap();
        assert_eq!(image, build(&parts).unwrap());
        let found = sections(&image).unwrap();
        let before = sections(&stub).unwrap();
        assert_eq!(found[..before.len()], before, "the stub's own sections must stay");
        let added: Vec<_> =
            found[before.len()..].iter().map(|section| (section.name.as_str(), section.content)).collect();
        assert_eq!(
            added,
            [
                (".osrel", parts.os_release),
                (".cmdline", parts.command_line.as_bytes()),
                (".uname", parts.kernel_release.as_bytes()),
                (".initrd", &initrd[..]),
                (".linux", &kernel[..]),
            ]
        );
        assert!(found.windows(2).all(|pair| pair[0].name == ".reloc"
            || pair[1].name == ".reloc"
            || pair[0].address < pair[1].address));
        assert!(found[before.len()..].iter().all(|section| section.address % 4096 == 0));
        assert_eq!(command_line(&image).unwrap().as_deref(), Some("quiet roothash=00ff"));
        assert_eq!(command_line(&stub).unwrap(), None);
    }
}

#[test]
fn objdump_and_sbverify_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.efi");
    let (kernel, initrd) = (small_stub(0), vec![0x5a; 100_000]);
    for stub in stubs() {
        std::fs::write(&path, build(&parts(&stub, &kernel, &initrd)).unwrap()).unwrap();
        let Ok(output) = Command::new("objdump").args(["-h", "-p"]).arg(&path).output() else {
            println!("skipped: no objdump here");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for name in [".osrel", ".cmdline", ".uname", ".initrd", ".linux", ".sbat"] {
            assert!(text.contains(&format!(" {name} ")), "{name} is not in\n{text}");
        }
        assert!(text.contains(".initrd       000186a0"), "{text}");
        if let Ok(output) = Command::new("sbverify").arg("--list").arg(&path).output() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("No signature table present"), "{text}");
            assert!(!text.contains("warning"), "{text}");
        }
    }
}

#[test]
fn what_cannot_work_is_refused() {
    let kernel = small_stub(0);
    let roomy = small_stub(12);
    let build = |parts: Parts<'_>| build(&parts).map(drop);
    assert!(matches!(build(parts(&small_stub(3), &kernel, b"")), Err(Error::NoRoom { room: 3, needed: 5 })));
    assert!(matches!(build(parts(b"MZ", &kernel, b"")), Err(Error::Stub(_))));
    assert!(matches!(build(parts(&roomy, b"no kernel", b"")), Err(Error::Kernel(_))));
    let finished = super::build(&parts(&roomy, &kernel, b"")).unwrap();
    assert!(matches!(build(parts(&finished, &kernel, b"")), Err(Error::Occupied(".osrel"))));
    let long = "x".repeat(2048);
    assert!(matches!(
        build(Parts { command_line: &long, ..parts(&roomy, &kernel, b"") }),
        Err(Error::CommandLine(2048))
    ));
    let mut signed = roomy.clone();
    signed[0x58 + 112 + 32] = 1;
    assert!(matches!(build(parts(&signed, &kernel, b"")), Err(Error::Stub(_))));
}

proptest! {
    #[test]
    fn damaged_images_never_panic(
        changes in prop::collection::vec((0usize..0x300, any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (stub, kernel) = (small_stub(12), small_stub(0));
        let mut image = super::build(&parts(&stub, &kernel, b"initrd")).unwrap();
        for (at, value) in changes {
            image[at] = value;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        let _ = sections(&image);
        let _ = command_line(&image);
        let _ = super::build(&parts(&image, &kernel, b"initrd"));
    }
}
