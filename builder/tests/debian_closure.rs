//! The closure of packages is apt's: the same wishes, the same suites, the same mirror, both answers compared.
//!
//! Needs apt and a mirror that the machine's apt configuration names.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use cairn::source::{
    cache::Cache,
    deb::{Archive, Mirror, Request, resolve, suites},
    fetch::Fetcher,
    progress::silent,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const SUITE: &str = "trixie";
const ARCHITECTURE: &str = "amd64";

/// What profiles want, and what is awkward: virtual packages, alternatives, long chains.
const SETS: &[&[&str]] = &[
    &["systemd", "udev", "linux-image-cloud-amd64"],
    &[
        "systemd",
        "systemd-sysv",
        "systemd-timesyncd",
        "udev",
        "kmod",
        "dbus-broker",
        "e2fsprogs",
        "ca-certificates",
    ],
    &["linux-image-amd64", "nfs-common", "open-iscsi", "cryptsetup-bin", "nftables", "conntrack", "ethtool"],
    &["bash", "coreutils", "util-linux", "mount", "iproute2", "procps"],
    &["systemd-boot", "systemd-repart", "dosfstools", "qemu-utils"],
    &["postfix"],
    &["python3-apt", "debhelper"],
    &["default-jre-headless"],
    &["nginx", "postgresql"],
    &["openssh-server", "rsyslog", "logrotate", "cron"],
];

/// An apt that knows nothing of this machine: no packages installed, our suites only.
struct Apt {
    root: PathBuf,
}

impl Apt {
    fn new(root: &Path, mirror: &Mirror) -> Result<Self, String> {
        for directory in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/sources.list.d",
            "state/lists/partial",
            "cache/archives/partial",
        ] {
            fs::create_dir_all(root.join(directory)).map_err(|error| error.to_string())?;
        }
        fs::write(root.join("status"), "").map_err(|error| error.to_string())?;
        let mut list = String::new();
        for (suite, area) in suites(SUITE) {
            let (keyring, uri) = (mirror.keyring.display(), mirror.uri(area));
            list += &format!("deb [arch={ARCHITECTURE} signed-by={keyring}] {uri} {suite} main\n");
        }
        fs::write(root.join("etc/apt/sources.list"), list).map_err(|error| error.to_string())?;
        let apt = Self { root: root.to_owned() };
        apt.run(&["update"]).map(|_| apt)
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let root = self.root.display();
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C").env("APT_CONFIG", "/dev/null");
        for option in [
            format!("Dir::Etc={root}/etc/apt"),
            format!("Dir::State={root}/state"),
            format!("Dir::State::status={root}/status"),
            format!("Dir::Cache={root}/cache"),
            format!("APT::Architecture={ARCHITECTURE}"),
            format!("APT::Architectures={ARCHITECTURE}"),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Check-Valid-Until=false".to_owned(),
            "APT::Update::Post-Invoke-Success=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        let output = command.args(arguments).output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Names and versions it would install.
    fn closure(&self, wanted: &[&str]) -> BTreeMap<String, String> {
        let arguments = [&["-s", "install", "--no-install-recommends", "-y"], wanted].concat();
        let answer = self.run(&arguments).unwrap();
        // Inst systemd (257.8-1~deb13u2 Debian:13.8/stable [amd64])
        let lines = answer.lines().filter_map(|line| line.strip_prefix("Inst "));
        lines
            .map(|line| {
                let (name, rest) = line.split_once(" (").unwrap();
                (name.to_owned(), rest.split(' ').next().unwrap().to_owned())
            })
            .collect()
    }
}

#[test]
fn the_closure_is_apts() {
    let mirror = match Mirror::from_apt(Path::new("/")) {
        Ok(mirror) => mirror,
        Err(error) => return println!("skipped: {error}"),
    };
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let cache = Cache::open(directory.join("cairn-cache")).unwrap();
    let fetcher = Fetcher::new(cache, mirror.proxies.clone()).unwrap();
    let archive = match Archive::load(&fetcher, &mirror, SUITE, ARCHITECTURE, &silent) {
        Ok(archive) => archive,
        Err(error) => return println!("skipped: {error}"),
    };
    let root = tempfile::tempdir().unwrap();
    let apt = match Apt::new(root.path(), &mirror) {
        Ok(apt) => apt,
        Err(error) => return println!("skipped: no usable apt: {error}"),
    };
    let mut wrong = Vec::new();
    // apt holds itself for essential, though its package is not marked so.
    let essential = [(&["systemd", "apt"][..], true)];
    for (set, essential) in SETS.iter().map(|set| (*set, false)).chain(essential) {
        let wanted: Vec<_> = set.iter().map(ToString::to_string).collect();
        let request =
            Request { wanted: &wanted, excluded: &BTreeSet::new(), essential, architecture: ARCHITECTURE };
        let resolution = resolve(&archive.index, request).unwrap();
        let ours: BTreeMap<_, _> = resolution
            .packages
            .iter()
            .map(|package| (package.name.to_string(), package.version.to_string()))
            .collect();
        let theirs = apt.closure(&[set, if essential { &["?essential"] } else { &[] }].concat());
        let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
            a.iter()
                .filter(|(name, version)| b.get(*name) != Some(version))
                .map(|(n, v)| format!("{n}={v}"))
                .collect::<Vec<_>>()
        };
        println!("{set:?}: {} packages", theirs.len());
        assert!(!theirs.is_empty());
        if ours != theirs {
            wrong.push(format!(
                "{set:?}: only we: {:?}; only apt: {:?}",
                only(&ours, &theirs),
                only(&theirs, &ours)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
