//! An unpacked package is what dpkg-deb says is in it: every path, mode, owner, size and link.
//!
//! Needs dpkg-deb, tar and a mirror that the machine's apt configuration names.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use cairn::{
    source::{
        cache::Cache,
        deb::{Archive, Mirror, unpack},
        fetch::{Download, Fetcher},
        progress::silent,
    },
    tree::{Entries, Kind},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Setuid programs, hard links, foreign owners, long names, several compressions.
const PACKAGES: &[&str] =
    &["sudo", "kmod", "tzdata", "base-passwd", "libpam-modules-bin", "systemd", "ca-certificates"];

/// Mode and owners, then size or target, as `tar -tv` writes them.
fn list(tree: &Entries, prefix: &str, out: &mut BTreeMap<String, String>) {
    for (name, node) in tree {
        let path = format!("{prefix}{}", String::from_utf8_lossy(name));
        let meta = &node.meta;
        let (letter, size, target) = match &node.kind {
            Kind::Directory(children) => {
                list(children, &format!("{path}/"), out);
                ('d', 0, String::new())
            }
            Kind::File(content) => ('-', content.len(), String::new()),
            Kind::Symlink(target) => ('l', 0, String::from_utf8_lossy(target).into_owned()),
            other => panic!("{path} is {other:?}"),
        };
        let mut mode = String::from(letter);
        for (shift, special, lower, upper) in
            [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
        {
            let bits = meta.mode >> shift;
            mode.push(if bits & 4 != 0 { 'r' } else { '-' });
            mode.push(if bits & 2 != 0 { 'w' } else { '-' });
            mode.push(match (bits & 1 != 0, meta.mode & special != 0) {
                (true, false) => 'x',
                (false, false) => '-',
                (true, true) => lower,
                (false, true) => upper,
            });
        }
        out.insert(path, format!("{mode} {}/{} {size} {target}", meta.uid, meta.gid));
    }
}

/// What tar lists; hard links get the line of what they link to.
fn listed(deb: &Path) -> Option<BTreeMap<String, String>> {
    let mut archive =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn().ok()?;
    let tar = Command::new("tar")
        .args(["--numeric-owner", "-tvf", "-"])
        .stdin(archive.stdout.take()?)
        .output()
        .ok()?;
    assert!(archive.wait().ok()?.success() && tar.status.success());
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for line in String::from_utf8_lossy(&tar.stdout).lines() {
        let mut rest = line;
        let mut word = || {
            let (word, after) = rest.trim_start().split_once(' ').unwrap();
            rest = after;
            word.to_owned()
        };
        let (mode, owner, size, _, _) = (word(), word(), word(), word(), word());
        let name = |path: &str| path.trim_start_matches("./").trim_end_matches('/').to_owned();
        if mode.starts_with('h') {
            let (path, target) = rest.split_once(" link to ").unwrap();
            let same = all[&name(target)].clone();
            all.insert(name(path), same);
        } else {
            let (path, target) = rest.split_once(" -> ").unwrap_or((rest, ""));
            all.insert(name(path), format!("{mode} {owner} {size} {target}"));
        }
    }
    all.remove("");
    Some(all)
}

#[test]
fn every_entry_is_dpkg_debs() {
    let mirror = match Mirror::from_apt(Path::new("/")) {
        Ok(mirror) => mirror,
        Err(error) => return println!("skipped: {error}"),
    };
    let cache = Cache::open(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cairn-cache")).unwrap();
    let fetcher = Fetcher::new(cache.clone(), mirror.proxies.clone()).unwrap();
    let archive = match Archive::load(&fetcher, &mirror, "trixie", "amd64", &silent) {
        Ok(archive) => archive,
        Err(error) => return println!("skipped: {error}"),
    };
    for name in PACKAGES {
        let package = archive.index.get(name).unwrap();
        let download = Download {
            what: (*name).to_owned(),
            url: format!("{}/{}", mirror.uri(package.area), package.filename),
            digest: package.digest,
            size: Some(package.size),
        };
        let paths = fetcher.blobs(&[download], &silent).unwrap();
        let Some(theirs) = listed(&paths[0]) else { return println!("skipped: no dpkg-deb or tar") };
        let unpacked = unpack(&cache, &package.digest).unwrap();
        assert_eq!(unpacked.name, *name);
        assert_eq!(unpacked.field("Version"), Some(package.version.as_str()));
        let mut ours = BTreeMap::new();
        list(&unpacked.tree, "", &mut ours);
        println!("{name}: {} entries", ours.len());
        assert!(theirs.len() > 5);
        for (path, line) in &theirs {
            assert_eq!(ours.get(path), Some(line), "{name}: {path}");
        }
        assert_eq!(ours.len(), theirs.len(), "{name}");
    }
}
