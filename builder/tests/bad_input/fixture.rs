//! A checkout with one small profile, a package for it, and the program run in it.

use crate::mirror::Answer;
use cairn::{
    image::inputs,
    lock::{Lock, LockedPackage},
    profile::Resolved,
    source::deb::Area,
};
use cairn_contract::digest::Sha256Digest;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

/// A profile that fits together. Nothing of ours is in it, so no compiler is needed to get as far as the tree.
pub(crate) const PROFILE: &str = r#"
name = "small"
[kernel]
package = "linux-image-test"
initrd_modules = ["dm-verity", "squashfs", "overlay", "virtio_blk"]
[packages]
install = ["systemd", "udev"]
[kubelet.labels]
"anuket.io/profile" = "basic"
"#;

/// Where the package is on a mirror.
pub(crate) const PACKAGE: &str = "/debian/pool/main/l/linux-image-test_1_amd64.deb";

/// A checkout with a profile, a cache beside it, and nothing else.
pub(crate) struct Checkout {
    folder: tempfile::TempDir,
    before: BTreeSet<PathBuf>,
}

impl Checkout {
    /// With `profile` as `profiles/small.toml`.
    pub(crate) fn new(profile: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for directory in ["rootfs", "profiles", "cache"] {
            std::fs::create_dir(folder.path().join(directory)).unwrap();
        }
        let mut checkout = Self { folder, before: BTreeSet::new() };
        std::fs::write(checkout.path("profiles/small.toml"), profile).unwrap();
        checkout.before = checkout.files();
        checkout
    }

    /// With the good profile and a lock for it, which has one package: this one.
    pub(crate) fn locked(package: &[u8]) -> Self {
        let mut checkout = Self::new(PROFILE);
        let resolved = Resolved::load(&checkout.path("profiles/small.toml")).unwrap();
        let lock = Lock {
            version: 1,
            suite: "trixie".to_owned(),
            architecture: "amd64".to_owned(),
            source_date_epoch: 1_795_000_000,
            wishes: inputs::wishes(&resolved.profile).digest(),
            packages: vec![LockedPackage {
                name: "linux-image-test".to_owned(),
                version: "1".to_owned(),
                architecture: "amd64".to_owned(),
                source: "linux".to_owned(),
                archive: Area::Main,
                filename: PACKAGE.trim_start_matches("/debian/").to_owned(),
                size: package.len() as u64,
                digest: Sha256Digest::new(Sha256::digest(package).into()),
            }],
            urls: Vec::new(),
            images: Vec::new(),
        };
        lock.save(&checkout.path("profiles/small.lock")).unwrap();
        checkout.before = checkout.files();
        checkout
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// `cairn` in the checkout, with the checkout's cache and no proxy.
    pub(crate) fn cairn(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        command.args(arguments).current_dir(self.folder.path()).env("CAIRN_CACHE", self.path("cache"));
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&self.cairn(arguments).output().unwrap())
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
                // Directories of the cache are made at once and for good.
                if !entry.path().starts_with(self.path("cache")) || entry.file_type().unwrap().is_file() {
                    found.insert(entry.path());
                }
            }
        }
        found
    }

    /// Files and directories that were not there before, relative.
    pub(crate) fn new_files(&self) -> Vec<String> {
        let new = self.files().difference(&self.before).cloned().collect::<Vec<_>>();
        new.iter().map(|path| path.strip_prefix(self.folder.path()).unwrap().display().to_string()).collect()
    }

    /// Nothing is left of a command but unfinished downloads, which the next one takes up.
    pub(crate) fn assert_nothing_new_but_parts(&self) {
        let new = self.new_files();
        assert!(
            new.iter().all(|file| file.starts_with("cache/blobs/") && file.ends_with(".part")),
            "{new:?}"
        );
    }
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Ended with `code` and one message, the last thing said, which has all of `parts` in it.
    #[track_caller]
    pub(crate) fn assert_refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let (said, message) =
            self.stderr.rsplit_once("cairn: ").unwrap_or_else(|| panic!("no message: {self:#?}"));
        assert!(said.is_empty() || said.ends_with('\n'), "{self:#?}");
        assert!(!said.lines().any(|line| line.starts_with("cairn: ")), "two messages: {self:#?}");
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("Error {"), "{self:#?}");
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

/// A binary package with a kernel in it, and so many bytes that cannot be compressed.
pub(crate) fn package(noise: usize) -> Vec<u8> {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(noise)
    .collect();
    let control = tar(&[("./control", b"Package: linux-image-test\nVersion: 1\nArchitecture: amd64\n")]);
    let data = tar(&[
        ("./boot/vmlinuz-6.12-test", b"kernel"),
        ("./usr/lib/modules/6.12-test/modules.builtin", b""),
        ("./usr/share/noise", &noise),
    ]);
    let mut archive = ar::Builder::new(Vec::new());
    for (name, content) in
        [("debian-binary", b"2.0\n".to_vec()), ("control.tar", control), ("data.tar", data)]
    {
        let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
        archive.append(&header, content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// A mirror's answer: the package.
pub(crate) fn whole(package: &[u8]) -> [(String, Answer); 1] {
    [(PACKAGE.to_owned(), Answer::File(Arc::new(package.to_vec())))]
}

/// How to run a command with `directory` on a file system of its own that holds `mebibytes`; `None` where that
/// needs rights that are not to be had. What is left in it is listed in `listing`.
pub(crate) fn on_a_small_disk(directory: &Path, mebibytes: u32, listing: &Path) -> Option<Command> {
    let flags: &[&str] = match works(&["--mount"]) {
        true => &["--mount"],
        false if works(&["--mount", "--map-root-user"]) => &["--mount", "--map-root-user"],
        false => return None,
    };
    // The mount is the command's alone and ends with it.
    let script = "mount -t tmpfs -o size=\"$1\"m cairn-test \"$2\" || exit 99\n\
         directory=$2 listing=$3; shift 3\n\
         \"$@\"; code=$?\n\
         find \"$directory\" -mindepth 1 -not -type d > \"$listing\"; exit $code";
    let mut command = Command::new("unshare");
    command.args(flags).args(["sh", "-c", script, "sh"]).arg(mebibytes.to_string());
    command.arg(directory).arg(listing);
    Some(command)
}

fn works(flags: &[&str]) -> bool {
    let mount = "mount -t tmpfs cairn-test /mnt";
    let output = Command::new("unshare").args(flags).args(["sh", "-c", mount]).output();
    output.is_ok_and(|output| output.status.success())
}
