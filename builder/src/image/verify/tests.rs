//! A small but complete image is built, read, and damaged in every way that matters.

use super::*;
use crate::{
    format::{squashfs, uki},
    image::{
        disk::{self, DiskParts},
        inspect::{self, InspectError},
    },
    tree::{Content, Kind, Metadata, Node},
};
use cairn_contract::manifest::{ImageRelease, Inputs, MANIFEST_FORMAT, PartitionRole, Sizes};
use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, path::PathBuf, sync::Arc};

const MIB: u64 = 1 << 20;

struct Built {
    folder: tempfile::TempDir,
    manifest: Manifest,
}

impl Built {
    fn raw(&self) -> PathBuf {
        self.folder.path().join("small.raw")
    }

    fn partition(&self, role: PartitionRole) -> &Partition {
        self.manifest.partitions.iter().find(|partition| partition.role == role).unwrap()
    }

    fn flip(&self, at: u64) {
        let file = File::options().read(true).write(true).open(self.raw()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    /// The subjects of the checks that fail.
    fn failures(&self) -> Vec<String> {
        let done = verify(self.folder.path()).unwrap();
        done.failures().map(|check| check.subject.clone()).collect()
    }
}

fn node(kind: Kind) -> Node {
    Node { meta: Metadata { mode: 0o755, uid: 0, gid: 0, xattrs: BTreeMap::new() }, kind }
}

fn tree() -> Node {
    let file = |bytes: Vec<u8>| node(Kind::File(Content::Bytes(Arc::from(bytes))));
    // Hardly compressible, so that the hash tree has a level.
    let text = (0..150_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes())
        .collect();
    let etc = node(Kind::Directory([(b"os-release".to_vec(), file(b"ID=cairn\n".to_vec()))].into()));
    let link = node(Kind::Symlink(b"etc/os-release".to_vec()));
    node(Kind::Directory(
        [(b"etc".to_vec(), etc), (b"big".to_vec(), file(text)), (b"link".to_vec(), link)].into(),
    ))
}

fn output(path: &Path) -> OutputFile {
    let extent = Extent::open(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    OutputFile { name, size: extent.size(), digest: digest(&extent).unwrap() }
}

fn build() -> Built {
    let folder = tempfile::tempdir().unwrap();
    let [root, hashes, uki_path, raw] =
        ["root", "verity", "small.efi", "small.raw"].map(|name| folder.path().join(name));
    let options = squashfs::Options::new(1_750_000_000);
    let mut out = File::create(&root).unwrap();
    squashfs::write(&tree(), &options, &squashfs::Zstd { level: 3 }, &mut out, &|_| {}).unwrap();
    let parameters = verity::Parameters { salt: vec![7; 32], uuid: uuid::Uuid::from_bytes([5; 16]) };
    let mut out = File::create(&hashes).unwrap();
    let root_hash = verity::write(&Extent::open(&root).unwrap(), &parameters, &mut out).unwrap();
    let command_line = format!("quiet roothash={root_hash}");
    let (stub, kernel) = (uki::tests::small_stub(12), uki::tests::small_stub(0));
    let parts = uki::Parts {
        stub: &stub,
        os_release: b"ID=cairn\n",
        command_line: &command_line,
        kernel_release: "6.12.0",
        kernel: &kernel,
        initrd: b"initrd",
        splash: None,
    };
    std::fs::write(&uki_path, uki::build(&parts).unwrap()).unwrap();
    let parts = DiskParts {
        profile: "small",
        version: "1.0.0",
        timestamp: 1_750_000_000,
        esp_size: 36 * MIB,
        slot_size: 2 * MIB,
        verity_size: MIB,
        boot_loader: Content::Bytes(Arc::from(&b"MZ loader"[..])),
        uki: &uki_path,
        root: &root,
        verity: &hashes,
        root_hash,
    };
    let partitions = disk::write(&parts, &raw).unwrap();
    let nothing = Sha256Digest::new([0; 32]);
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        release: ImageRelease {
            profile: "small".into(),
            version: "1.0.0".into(),
            kernel: "6.12.0".into(),
            suite: "trixie".into(),
            source_date_epoch: 1_750_000_000,
            architecture: "amd64".into(),
        },
        inputs: Inputs { profile: nothing, lock: nothing },
        root_hash: root_hash.to_string(),
        command_line,
        files: vec![output(&uki_path), output(&raw)],
        partitions,
        packages: vec![],
        components: vec![],
        images: vec![],
        sizes: Sizes { uki: 0, root: 0, verity: 0, root_uncompressed: 0, raw: 0, raw_allocated: 0 },
    };
    std::fs::write(folder.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    Built { folder, manifest }
}

#[test]
fn a_good_image_verifies_and_shows_what_is_in_it() {
    let built = build();
    for path in [built.folder.path().to_owned(), built.raw(), built.folder.path().join("manifest.json")] {
        let done = verify(&path).unwrap();
        assert!(done.is_good(), "{done:#?}");
        assert!(done.checks.iter().all(|check| !matches!(check.outcome, Outcome::Skipped(_))));
    }
    let seen = inspect::inspect(&built.raw()).unwrap();
    assert_eq!(seen.kernels[0].command_line, built.manifest.command_line);
    assert_eq!((seen.kernels[0].release.as_str(), seen.warnings.len()), ("6.12.0", 0));
    assert_eq!(
        seen.partitions.iter().map(|view| view.label.as_str()).collect::<Vec<_>>(),
        ["esp", "cairn_1.0.0", "cairn_1.0.0", "_empty", "_empty"]
    );
    assert_eq!(seen.root.unwrap().partition, 2);
    let paths: Vec<_> = inspect::tree(&built.raw()).unwrap().into_iter().map(|entry| entry.path).collect();
    assert_eq!(paths, ["/", "/big", "/etc", "/etc/os-release", "/link"]);
    let mut content = Vec::new();
    inspect::read_file(&built.raw(), "/etc/os-release", &mut content).unwrap();
    assert_eq!(content, b"ID=cairn\n");
    let refuse = |path| inspect::read_file(&built.raw(), path, &mut Vec::new()).unwrap_err();
    assert!(matches!(refuse("/none"), InspectError::NoFile(_)));
    assert!(matches!(refuse("/link"), InspectError::NotAFile(_)));
}

#[test]
fn without_a_manifest_the_image_is_checked_against_itself() {
    let built = build();
    std::fs::remove_file(built.folder.path().join("manifest.json")).unwrap();
    let done = verify(&built.raw()).unwrap();
    assert!(done.is_good());
    assert!(done.checks.iter().any(|check| matches!(check.outcome, Outcome::Skipped(_))));
    assert!(
        done.checks
            .iter()
            .any(|check| check.subject == "root hash" && matches!(check.outcome, Outcome::Passed(_)))
    );
}

#[test]
fn each_flipped_byte_is_caught_by_the_check_it_concerns() {
    let built = build();
    let root = built.partition(PartitionRole::RootA).clone();
    let hashes = built.partition(PartitionRole::VerityA).clone();
    let esp = built.partition(PartitionRole::Esp).clone();
    let size = built.manifest.files[1].size;
    for (at, expected) in [
        (root.offset + 200, vec!["partition root-A (cairn_1.0.0)", "root hash"]),
        (hashes.offset + 4096 + 40, vec!["partition verity-A (cairn_1.0.0)", "root hash"]),
        (esp.offset + 510, vec!["partition ESP (esp)", "EFI system partition"]),
        (512 + 60, vec!["partition table"]),
        (size - 452, vec!["partition table"]),
    ] {
        built.flip(at);
        let failures = built.failures();
        assert_eq!(failures[0], "file small.raw");
        for subject in &expected {
            assert!(failures.contains(&(*subject).to_owned()), "{subject} not in {failures:?}");
        }
        built.flip(at);
    }
    assert!(built.failures().is_empty());
}

#[test]
fn truncated_absent_and_foreign_files_are_told_plainly() {
    let built = build();
    let size = built.manifest.files[1].size;
    let raw = File::options().write(true).open(built.raw()).unwrap();
    raw.set_len(size - 3 * MIB).unwrap();
    let failures = built.failures();
    assert!(
        failures.contains(&"file small.raw".to_owned()) && failures.contains(&"partition table".to_owned()),
        "{failures:?}"
    );
    raw.set_len(300).unwrap();
    assert!(built.failures().contains(&"partition table".to_owned()));
    assert!(inspect::inspect(&built.raw()).unwrap_err().to_string().contains("is not a disk image"));
    std::fs::remove_file(built.raw()).unwrap();
    assert!(matches!(verify(built.folder.path()), Err(OpenError::Absent(_))));
    let garbage = built.folder.path().join("garbage");
    std::fs::write(&garbage, vec![0x5a; 3_000_000]).unwrap();
    let error = verify(&garbage).unwrap_err();
    assert!(error.is_mistake() && error.to_string().contains("is not a disk image"), "{error}");
}

#[test]
fn a_manifest_of_another_build_does_not_fit() {
    let built = build();
    let mut other = built.manifest.clone();
    other.root_hash = "00".repeat(32);
    other.partitions[1].uuid = uuid::Uuid::nil().to_string();
    other.command_line = "quiet".into();
    other.files[0].digest = Sha256Digest::new([9; 32]);
    std::fs::write(built.folder.path().join("manifest.json"), serde_json::to_vec(&other).unwrap()).unwrap();
    let failures = built.failures();
    assert_eq!(
        failures,
        ["file small.efi", "partitions", "kernel image EFI/Linux/cairn_1.0.0+3.efi", "root hash"]
    );
}
