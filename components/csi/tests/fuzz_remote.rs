//! A stream of random requests to the drivers for NFS and iSCSI, with hostile servers, exports, portals and names in it.
//!
//! The programs by which these drivers reach a server are exchanged: `mount.nfs` knows one server, whose export is a directory of
//! the test's, and a target does not answer. What they are called with is written down, so what must hold of it is seen: no
//! option, path or secret of a request gets onto a command line where it does not belong.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;
mod stream;

use lab::{Clients, Mode, PATIENCE, connect, mount, number, obstacle, wanted};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use stream::{Sent, Stream, Words, take_back};
use tonic::{Code, Status};

const SECRET: &str = "a-secret-of-the-test";
/// As long as a name may be.
const LONG_HOST: &str = concat!(
    "a123456789a123456789a123456789a123456789a123456789a123456789.",
    "a123456789a123456789a123456789a123456789a123456789a123456789.",
    "a123456789a123456789a123456789a123456789a123456789a123456789.",
    "a123456789a123456789a123456789a123456789a123456789a123456789.example"
);

const NFS: Words = Words {
    base: &[("server", "server"), ("share", "/export")],
    entries: &[
        ("server", "server"),
        ("server", "127.0.0.1:1"),
        ("server", "-o"),
        ("server", "server:/etc"),
        ("server", LONG_HOST),
        ("share", "/export"),
        ("share", "/export/foreign"),
        ("share", "/export/../etc"),
        ("share", "export"),
        ("subDir", "team"),
        ("subDir", "team/x"),
        ("subDir", "foreign"),
        ("subDir", "foreign/file"),
        ("subDir", "foreign/file/x"),
        ("subDir", "link/x"),
        ("subDir", ".cairn-csi"),
        ("subDir", "../outside"),
        ("onDelete", "archive"),
        ("onDelete", "shred"),
        ("mountPermissions", "0770"),
        ("mountPermissions", "0777777"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("x", "y"),
    ],
    most: 3,
    fs_types: &["", "", "nfs", "nfs4", "ext4"],
    flags: &[
        "ro",
        "vers=4.1",
        "soft",
        "noatime",
        "vers=4.1,bg",
        "sec=a#b",
        "sloppy",
        "addr=127.0.0.1",
        "port=1 -o suid",
    ],
    calls: &[
        "/CreateVolume",
        "/CreateVolume",
        "/DeleteVolume",
        "/ControllerExpandVolume",
        "/NodeStageVolume",
        "/NodeStageVolume",
        "/NodePublishVolume",
        "/NodeUnpublishVolume",
        "/NodeUnstageVolume",
        "/NodeGetVolumeStats",
    ],
    modes: &[1, 5],
};

const ISCSI: Words = Words {
    base: &[("iqn", "iqn.2026-11.test:away"), ("lun", "1"), ("targetPortal", "127.0.0.1:1")],
    entries: &[
        ("iqn", "iqn.2026-11.test:away"),
        ("iqn", "iqn.2026-11.test:denied"),
        ("iqn", "iqn.2026-11.test:a/../../b"),
        ("iqn", "-o"),
        ("lun", "0"),
        ("lun", "0"),
        ("lun", "16384"),
        ("targetPortal", "127.0.0.1:1"),
        ("targetPortal", "[::1]:1"),
        ("targetPortal", LONG_HOST),
        ("targetPortal", "--op=delete"),
        ("targetPortal", "127.0.0.1:1,1"),
        ("portals", "[\"127.0.0.1:1\",\"127.0.0.1:2\"]"),
        ("portals", "[\"../../etc:1\"]"),
        ("portals", "[[[["),
        ("sessionCHAPAuth", "true"),
        ("sessionCHAPAuth", "maybe"),
        ("node.session.auth.username", "user"),
        ("node.session.auth.password", SECRET),
        ("node.session.auth.password", "two\nnode.startup = automatic"),
        ("encryption", "luks2"),
        ("x", "y"),
    ],
    most: 4,
    fs_types: &["", "", "ext4", "xfs", "nfs"],
    flags: &["ro", "noatime", "discard", "logdev=/dev/vda", "commit=99999999999"],
    calls: &["/NodeStageVolume", "/NodeStageVolume", "/NodePublishVolume", "/NodeUnstageVolume"],
    modes: &[1, 3],
};

/// The program with both drivers, and what it is led to believe.
struct Remote {
    base: tempfile::TempDir,
    daemon: Child,
}

impl Remote {
    fn start() -> Self {
        let base = tempfile::Builder::new().prefix("csi").tempdir().unwrap();
        let root = base.path().display().to_string();
        for directory in ["programs", "calls", "kubelet/full-0", "outside", "export/foreign"] {
            fs::create_dir_all(base.path().join(directory)).unwrap();
        }
        std::os::unix::fs::symlink(base.path().join("outside"), base.path().join("kubelet/link")).unwrap();
        std::os::unix::fs::symlink(base.path().join("outside"), base.path().join("export/link")).unwrap();
        // A file for each call, since some are made side by side.
        let note = format!("printf '%s\\0' \"$@\" > {root}/calls/$(basename $0).$$");
        let program = |name: &str, text: &str| {
            let path = base.path().join("programs").join(name);
            fs::write(&path, format!("#!/bin/sh\n{note}\n{text}\n")).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        program(
            "mount.nfs",
            &format!(
                "case $1 in server:/export|server:/export/*) ;; *) echo 'mount.nfs: Connection refused' >&2; exit 32;; esac\n\
                 directory={root}/export${{1#server:/export}}\n\
                 if [ ! -d $directory ]; then echo 'mount.nfs: No such file or directory' >&2; exit 32; fi\n\
                 exec mount --bind $directory $2"
            ),
        );
        program("iscsiadm", "case \"$*\" in *denied*) exit 24;; *) echo 'no connection' >&2; exit 4;; esac");
        fs::write(
            base.path().join("csi.toml"),
            format!(
                "backends = ['nfs', 'iscsi']\nnode = 'node-1'\nstate = '{root}/state'\nrun = '{root}/run'\n\
                 target_roots = ['{root}/kubelet']\nplugins_registry = '{root}/kubelet/plugins_registry'\npools = []\n"
            ),
        )
        .unwrap();
        let path = format!("{root}/programs:{}", std::env::var("PATH").unwrap());
        let log = fs::File::create(base.path().join("daemon.log")).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_cairn-csi"))
            .arg("--config")
            .arg(base.path().join("csi.toml"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { base, daemon }
    }

    fn root(&self) -> &Path {
        self.base.path()
    }

    async fn channel(&mut self, backend: &str) -> tonic::transport::Channel {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(channel) = connect(&self.root().join(format!("run/{backend}.sock"))).await {
                return channel;
            }
            assert!(self.daemon.try_wait().unwrap().is_none() && Instant::now() < deadline, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root().join("daemon.log")).unwrap_or_default()
    }

    /// What a program was called with.
    fn calls(&self, program: &str) -> Vec<Vec<String>> {
        let files = below(&self.root().join("calls"))
            .into_iter()
            .filter(|path| path.contains(&format!("/{program}.")));
        let words = |text: String| text.split_terminator('\0').map(str::to_owned).collect();
        files.map(|path| words(fs::read_to_string(path).unwrap())).collect()
    }

    /// Mounts and files that are there on the drivers' behalf.
    fn leaks(&self) -> Vec<String> {
        let base = self.root().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut found: Vec<String> =
            mounts.lines().filter(|line| line.contains(&base)).map(str::to_owned).collect();
        for directory in ["nfs/staged", "nfs/published", "nfs/mounting", "iscsi/staged", "iscsi/published"] {
            found.extend(below(&self.root().join("run").join(directory)));
        }
        found.extend(below(&self.root().join("export/.cairn-csi")));
        found
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
            if place.starts_with(self.base.path()) {
                let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// All files below a directory.
fn below(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.append(&mut below(&path));
        } else {
            found.insert(path.display().to_string());
        }
    }
    found
}

/// Sends so many requests; what the driver says to them must be the caller's to mend, or a server's that is not there.
async fn stream_to(remote: &mut Remote, backend: &str, words: Words, calls: u64, seed: u64) -> Vec<String> {
    // Any text is an identifier of a volume that somebody else made.
    let known = vec!["by-hand".to_owned()];
    let channel = remote.channel(backend).await;
    let pid = remote.daemon.id();
    let root = remote.root().to_path_buf();
    let mut stream = Stream::new(seed, &root, words, known);
    let look = |sent: &Sent, refusal: Option<&Status>| {
        if let Some(status) = refusal {
            let (code, text) = (status.code(), status.message());
            let decoding = text.contains("decode");
            let away = text.contains("Connection refused") || text.contains("does not answer");
            let wrong = matches!(code, Code::Unknown | Code::Internal) && !decoding
                || code == Code::Unavailable && !away
                || text.is_empty() && code != Code::Unimplemented;
            assert!(!wrong, "seed {seed}, {sent}: {status:?}\n{}", remote.log());
        }
        assert!(
            remote.daemon.try_wait().unwrap().is_none(),
            "seed {seed}, {sent}: it died\n{}",
            remote.log()
        );
    };
    let codes = stream.send(&channel, calls, look).await;
    println!("{backend}: {codes:?}");
    assert_eq!(remote.daemon.id(), pid);
    assert!(codes.len() >= 6 && codes["Ok"] > calls / 30, "the stream reaches deep enough: {codes:?}");
    stream.ids
}

/// Takes away whatever the records say is there.
async fn clear(remote: &mut Remote, backend: &str) -> Clients {
    let mut clients = Clients::new(remote.channel(backend).await);
    take_back(&mut clients, &remote.root().join("run").join(backend)).await;
    clients
}

#[tokio::test]
async fn random_requests_for_remote_volumes_do_no_harm() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let calls = number("CAIRN_FUZZ_CALLS", 1500);
    let seed = number("CAIRN_FUZZ_SEED", u64::from(std::process::id()));
    println!("seed {seed}, {calls} calls to each");
    let open_iscsi = below(Path::new("/var/lib/iscsi"));
    let mut remote = Remote::start();
    let root = remote.root().to_path_buf();
    let untouched =
        ["outside/untouched", "kubelet/full-0/untouched", "kubelet/full-1", "export/foreign/file"];
    for path in untouched {
        fs::write(root.join(path), path).unwrap();
    }
    // A volume that is in use all the time.
    let mut clients = Clients::new(remote.channel("nfs").await);
    let capability = mount("", Mode::MultiNodeMultiWriter);
    let parameters = [("server", "server"), ("share", "/export")];
    let own = clients.create(wanted("ours", 1 << 20, &capability, &parameters)).await.unwrap();
    let place = |name: &str| {
        fs::create_dir_all(root.join("kubelet/ours")).unwrap();
        root.join("kubelet/ours").join(name).display().to_string()
    };
    let (staging, target) = (place("staging"), place("target"));
    clients.stage(&own, &staging, &capability).await.unwrap();
    clients.publish(&own, &staging, &target, &capability, false).await.unwrap();
    fs::write(Path::new(&target).join("kept"), "kept").unwrap();

    stream_to(&mut remote, "iscsi", ISCSI, calls, seed).await;
    let ids = stream_to(&mut remote, "nfs", NFS, calls, seed).await;

    assert_eq!(below(&root.join("outside")).len(), 1, "seed {seed}");
    assert_eq!(fs::read_to_string(root.join("export/ours/kept")).unwrap(), "kept", "seed {seed}");
    assert_eq!(below(Path::new("/var/lib/iscsi")), open_iscsi, "seed {seed}: records of logins are left");
    check_calls(&remote, calls, seed);
    assert!(!remote.log().contains(SECRET), "seed {seed}: a secret is in the log");

    clear(&mut remote, "iscsi").await;
    let mut clients = clear(&mut remote, "nfs").await;
    for path in untouched {
        let held = fs::read_to_string(root.join(path));
        assert_eq!(held.ok().as_deref(), Some(path), "seed {seed}");
    }
    for id in ids.iter().chain([&own.volume_id]) {
        clients.delete(id).await.unwrap();
    }
    assert_eq!(remote.leaks(), Vec::<String>::new(), "seed {seed}\n{}", remote.log());
    assert!(!root.join("export/ours").exists());
}

/// What got onto command lines.
fn check_calls(remote: &Remote, requests: u64, seed: u64) {
    let mounting = remote.root().join("run/nfs/mounting").display().to_string();
    let calls = remote.calls("mount.nfs");
    assert!(calls.len() as u64 > requests / 150, "seed {seed}: {} mounts", calls.len());
    for call in calls {
        let [source, place, "-o", options] = call.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
            panic!("seed {seed}: mount.nfs {call:?}");
        };
        let (server, share) = source.split_once(":/").unwrap();
        assert!(!server.starts_with('-') && !server.contains(['/', ' ']), "seed {seed}: {call:?}");
        assert!(!share.split('/').any(|name| name.starts_with('.')), "seed {seed}: {call:?}");
        assert!(place.starts_with(&mounting), "seed {seed}: {call:?}");
        for option in options.split(',') {
            let known = ["vers", "soft", "timeo", "retrans", "retry", "nolock", "bg", "port", "ro", "sec"];
            let key = option.split('=').next().unwrap();
            assert!(known.contains(&key), "seed {seed}: {option} in {call:?}");
        }
    }
    let calls = remote.calls("iscsiadm");
    assert!(calls.len() as u64 > requests / 150, "seed {seed}: {} logins", calls.len());
    for call in calls {
        assert!(!call.iter().any(|word| word.contains(SECRET)), "seed {seed}: {call:?}");
        let ["-m", "node", "-T", iqn, "-p", portal, what] =
            call.iter().map(String::as_str).collect::<Vec<_>>()[..]
        else {
            panic!("seed {seed}: iscsiadm {call:?}");
        };
        assert!(iqn.starts_with("iqn.") && !iqn.contains(['/', ' ']), "seed {seed}: {call:?}");
        assert!(!portal.starts_with('-') && !portal.contains(['/', ' ', ',']), "seed {seed}: {call:?}");
        assert!(["--login", "--logout"].contains(&what), "seed {seed}: {call:?}");
    }
}
