//! Images that are not there, not whole or not images.

use crate::fixture::Outcome;
use cairn::{
    format::{
        extent::Extent,
        squashfs::{self, Zstd},
        verity,
    },
    image::disk::{self, DiskParts},
    tree::{Content, Node},
};
use cairn_contract::{
    digest::Sha256Digest,
    manifest::{ImageRelease, Inputs, MANIFEST_FORMAT, Manifest, OutputFile, Sizes},
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

const MIB: u64 = 1 << 20;

/// An output directory whose disk is laid out as the builder does, but boots nothing.
struct Image {
    folder: tempfile::TempDir,
    length: u64,
}

impl Image {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [root, hashes, uki, raw] =
            ["root", "verity", "small.efi", "small.raw"].map(|name| folder.path().join(name));
        let mut tree = Node::directory();
        tree.insert("etc/os-release", Node::file(0o644, *b"ID=cairn\n")).unwrap();
        let mut out = File::create(&root).unwrap();
        squashfs::write(&tree, &squashfs::Options::new(1), &Zstd { level: 1 }, &mut out, &|_| {}).unwrap();
        let parameters = verity::Parameters { salt: vec![7; 32], uuid: uuid::Uuid::from_bytes([5; 16]) };
        let mut out = File::create(&hashes).unwrap();
        let root_hash = verity::write(&Extent::open(&root).unwrap(), &parameters, &mut out).unwrap();
        std::fs::write(&uki, b"MZ no kernel").unwrap();
        let parts = DiskParts {
            profile: "small",
            version: "1.0.0",
            timestamp: 1_750_000_000,
            esp_size: 36 * MIB,
            slot_size: 2 * MIB,
            verity_size: MIB,
            boot_loader: Content::Bytes(b"MZ loader".to_vec().into()),
            uki: &uki,
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
                kernel: "6.12".into(),
                suite: "trixie".into(),
                source_date_epoch: 1_750_000_000,
                architecture: "amd64".into(),
            },
            inputs: Inputs { profile: nothing, lock: nothing },
            root_hash: root_hash.to_string(),
            command_line: "quiet".into(),
            files: vec![file(&uki), file(&raw)],
            partitions,
            packages: vec![],
            components: vec![],
            images: vec![],
            sizes: Sizes { uki: 0, root: 0, verity: 0, root_uncompressed: 0, raw: 0, raw_allocated: 0 },
        };
        std::fs::write(folder.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        let length = raw.metadata().unwrap().len();
        Self { folder, length }
    }

    fn raw(&self) -> PathBuf {
        self.folder.path().join("small.raw")
    }

    fn truncate(&self, length: u64) {
        File::options().write(true).open(self.raw()).unwrap().set_len(length).unwrap();
    }
}

fn file(path: &Path) -> OutputFile {
    let extent = Extent::open(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    OutputFile { name, size: path.metadata().unwrap().len(), digest: disk::digest(&extent).unwrap() }
}

fn cairn(command: &str, image: &Path) -> Outcome {
    cairn_with(command, image, &[])
}

fn cairn_with(command: &str, image: &Path, options: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let mut cairn = Command::new(env!("CARGO_BIN_EXE_cairn"));
    cairn.arg(command).arg(image).args(options).current_dir(folder.path());
    let outcome = Outcome::of(&cairn.output().unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{command} left something");
    outcome
}

#[test]
fn a_truncated_image_is_called_that() {
    let image = Image::new();
    let (folder, length) = (image.folder.path(), image.length);
    let sizes = |left: u64| format!("{left} bytes of {length}");

    // In the last megabyte: only the backup of the partition table is gone.
    image.truncate(length - MIB / 2);
    let inspected = cairn("inspect", &image.raw());
    assert_eq!(inspected.code, Some(0), "{inspected:#?}");
    assert!(inspected.stderr.contains("the backup partition table is damaged"), "{inspected:#?}");
    cairn("verify", &image.raw()).assert_refused(1, &["checks failed"]);

    // In the middle.
    image.truncate(length / 2);
    let cut_off = sizes(length / 2);
    cairn("inspect", folder).assert_refused(1, &["small.raw is cut off", &cut_off, "copy or build it again"]);
    let verified = cairn("verify", folder);
    verified.assert_refused(1, &["is not what it should be", "checks failed"]);
    for line in [
        format!("small.raw is cut off: {cut_off}"),
        format!("it has {} bytes instead of {length}", length / 2),
    ] {
        assert!(
            verified.stdout.lines().any(|seen| seen.starts_with("FAILED") && seen.contains(&line)),
            "{verified:#?}"
        );
    }
    let says = format!("is {} bytes long, but its manifest says {length}", length / 2);
    cairn("test", folder).assert_refused(2, &["small.raw", &says, "truncated", "build it again"]);

    // So short that nothing says what it was, except the manifest.
    image.truncate(300);
    cairn("inspect", folder).assert_refused(2, &["small.raw is not a disk image", "300 bytes are too few"]);
    cairn("verify", folder).assert_refused(1, &["is not what it should be"]);
    cairn("test", folder).assert_refused(2, &["is 300 bytes long"]);

    // Without a manifest the partition table still knows.
    std::fs::remove_file(folder.join("manifest.json")).unwrap();
    let image = Image::new();
    std::fs::remove_file(image.folder.path().join("manifest.json")).unwrap();
    image.truncate(length / 2);
    cairn("inspect", &image.raw()).assert_refused(1, &["is cut off", &cut_off]);
    cairn("verify", &image.raw()).assert_refused(1, &["checks failed"]);
    cairn("test", &image.raw()).assert_refused(2, &["manifest.json", "not found"]);
}

#[test]
fn what_is_no_image_is_the_users_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.raw");
    std::fs::write(&garbage, vec![0x5a; 3_000_000]).unwrap();
    let none = folder.path().join("none");
    for command in ["inspect", "verify"] {
        cairn(command, &none).assert_refused(2, &["there is no image at", "none", "`cairn build` makes one"]);
        cairn(command, &garbage)
            .assert_refused(2, &["garbage.raw is not a disk image", "no partition table"]);
        cairn(command, folder.path()).assert_refused(2, &["has no manifest.json"]);
    }
    cairn("test", &none).assert_refused(2, &["there is no image here", "none"]);
    cairn("test", &garbage).assert_refused(2, &["manifest.json", "not found"]);
    std::fs::write(folder.path().join("manifest.json"), "{\n  nonsense").unwrap();
    for command in ["inspect", "verify", "test"] {
        cairn(command, folder.path()).assert_refused(2, &["manifest.json", "line 2"]);
    }
}

#[test]
fn without_qemu_the_package_to_install_is_named() {
    let image = Image::new();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .arg("test")
        .arg(image.folder.path())
        .env("PATH", folder.path())
        .current_dir(folder.path())
        .output()
        .unwrap();
    Outcome::of(&output)
        .assert_refused(2, &["qemu-system-x86_64 was not found in PATH", "apt install qemu-system-x86"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(!image.folder.path().join("test-artefacts").exists());
}

#[test]
fn a_broken_kernel_image_does_not_hide_the_rest() {
    let image = Image::new();
    let folder = image.folder.path();
    let inspect = |options: &[&str]| {
        let outcome = cairn_with("inspect", folder, options);
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        assert!(outcome.stderr.starts_with("warning: EFI/Linux/cairn_1.0.0+3.efi: "), "{outcome:#?}");
        outcome.stdout
    };
    let overview = inspect(&[]);
    assert!(overview.starts_with("small 1.0.0: Debian trixie of 2025-06-15T"), "{overview}");
    assert!(overview.contains("in partition 2") && overview.contains("loader/loader.conf"), "{overview}");
    let json: serde_json::Value =
        serde_json::from_str(&inspect(&["--partitions", "--tree", "--json"])).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["partitions", "tree"]);
    assert_eq!(json["partitions"].as_array().unwrap().len(), 5);
    assert!(json["tree"].as_array().unwrap().iter().any(|entry| entry["path"] == "/etc/os-release"));
    assert!(inspect(&["--tree"]).contains("-rw-r--r--     0     0          9 /etc/os-release\n"));

    let read = cairn_with("inspect", folder, &["--file", "/etc/os-release"]);
    assert_eq!((read.code, read.stdout.as_str()), (Some(0), "ID=cairn\n"), "{read:#?}");
    cairn_with("inspect", folder, &["--file", "/none"]).assert_refused(2, &["the image has no file /none"]);
    cairn_with("inspect", folder, &["--file", "/etc"]).assert_refused(2, &["/etc is not a regular file"]);

    cairn("verify", folder).assert_refused(1, &["1 of "]);
    let verified = cairn_with("verify", folder, &["--json"]);
    verified.assert_refused(1, &["checks failed"]);
    let json: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(json["good"], false);
    let failed =
        json["checks"].as_array().unwrap().iter().find(|check| check["outcome"] == "failed").unwrap();
    assert_eq!(failed["subject"], "EFI system partition");

    std::fs::remove_file(folder.join("manifest.json")).unwrap();
    cairn_with("inspect", &image.raw(), &["--packages"])
        .assert_refused(2, &["manifest.json", "not beside the image"]);
}
