//! mount.nfs(8), the field's own: it resolves names, negotiates versions, and says why not.
//!
//! It can be killed where it waits for a server, which a thread of ours in mount(2) cannot. It needs a path to mount on;
//! that is a directory of ours for a moment, from which the mount is copied and taken away, so that what a pod sees is
//! attached as any other volume is ([`crate::mount`]).

use crate::{
    error::{During, Fault},
    mount::{self, Tree},
    program,
};
use rustix::mount::{UnmountFlags, unmount};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// How long a server is waited for.
const PATIENCE: Duration = Duration::from_secs(50);

/// What mount.nfs says of a version that the server does not know, or the kernel.
const UNKNOWN_VERSION: &str = "requested NFS version or transport protocol is not supported";

/// Where mounts are made.
#[derive(Debug)]
pub(super) struct Bench(PathBuf);

impl Bench {
    /// In a directory of ours; what a crash left there is taken away.
    ///
    /// # Errors
    /// If the directory cannot be made or emptied.
    pub(super) fn open(directory: PathBuf) -> Result<Self, Fault> {
        let doing = || format!("make {}", directory.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).during(doing)?;
        for entry in fs::read_dir(&directory).during(doing)? {
            clear(&entry.during(doing)?.path())?;
        }
        Ok(Self(directory))
    }

    /// Mounts `source` (`host:/path`) with these options.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if the server has no such directory, [`Fault::Unavailable`] if it does not answer,
    /// [`Fault::Precondition`] if it refuses, [`Fault::Invalid`] for options it does not take.
    pub(super) fn mount(&self, source: &str, options: &[String]) -> Result<Tree, Fault> {
        let place = self.0.join(uuid::Uuid::new_v4().to_string());
        fs::DirBuilder::new().mode(0o700).create(&place).during(|| format!("make {}", place.display()))?;
        let tree = mount_at(source, &place, options);
        match (tree, clear(&place)) {
            (Ok(tree), Ok(())) => Ok(tree),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
        }
    }

    /// Mounts with the newest version that both sides know, unless `options` name one.
    ///
    /// mount.nfs left to itself asks for version 3 when version 4 has no such directory, and then waits for a port mapper
    /// that is not there: here version 3 is only asked for if the server does not know version 4.
    ///
    /// # Errors
    /// As [`Bench::mount`].
    pub(super) fn mount_newest(&self, source: &str, options: &[String]) -> Result<Tree, Fault> {
        if options.iter().any(|option| names_version(option)) {
            return self.mount(source, options);
        }
        let with = |version: &str| [options, &[version.to_owned()]].concat();
        match self.mount(source, &with("vers=4")) {
            Err(Fault::Precondition(text)) if text.contains(UNKNOWN_VERSION) => {
                self.mount(source, &with("vers=3"))
            }
            ended => ended,
        }
    }
}

/// Whether an option says which version of NFS it shall be (nfs(5)).
fn names_version(option: &str) -> bool {
    let key = option.split('=').next().unwrap_or_default();
    matches!(key, "vers" | "nfsvers" | "minorversion" | "v2" | "v3" | "v4" | "v4.0" | "v4.1" | "v4.2")
}

fn mount_at(source: &str, place: &Path, options: &[String]) -> Result<Tree, Fault> {
    let mut command = Command::new("mount.nfs");
    command.arg(source).arg(place).env("LC_ALL", "C").env_remove("LANG");
    if !options.is_empty() {
        command.arg("-o").arg(options.join(","));
    }
    let ended = program::run(&mut command, b"", PATIENCE).map_err(|fault| match fault {
        Fault::Unavailable(_) => {
            Fault::Unavailable(format!("{source}: the server did not answer within {} s", PATIENCE.as_secs()))
        }
        other => other,
    })?;
    if !ended.status.success() {
        return Err(explained(source, &ended.complaint).unwrap_or_else(|| ended.fault()));
    }
    mount::copy(place)
}

/// Takes whatever is mounted here away, and the directory. The mount's copies live on.
fn clear(place: &Path) -> Result<(), Fault> {
    while unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    fs::remove_dir(place).during(|| format!("remove {}", place.display()))
}

/// What mount.nfs said, as a kind of fault (utils/mount/error.c).
fn explained(source: &str, complaint: &str) -> Option<Fault> {
    let says = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
    let text = || format!("{source}: {complaint}");
    if says(&["No such file or directory", "not exported", "Stale file handle"]) {
        Some(Fault::NotFound(text()))
    } else if says(&[
        "incorrect mount option",
        "invalid option",
        "Invalid argument",
        "option is not supported",
    ]) {
        Some(Fault::Invalid(text()))
    } else if says(&[
        "access denied",
        "Operation not permitted",
        "Permission denied",
        "not supported",
        "rpc.statd",
    ]) {
        Some(Fault::Precondition(text()))
    } else if says(&[
        "timed out",
        "refused",
        "No route to host",
        "unreachable",
        "is down",
        "Failed to resolve server",
        "not responding",
        "Connection reset",
    ]) {
        Some(Fault::Unavailable(text()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    #[test]
    fn versions_are_told_from_other_options() {
        for option in ["vers=4.1", "nfsvers=3", "v4.2", "v3", "minorversion=1"] {
            assert!(names_version(option), "{option}");
        }
        for option in ["soft", "versions", "port=2049", "proto=tcp6", "ro"] {
            assert!(!names_version(option), "{option}");
        }
    }

    #[test]
    fn complaints_have_their_codes() {
        for (complaint, code) in [
            (
                "mount.nfs: mounting a:/b failed, reason given by server: No such file or directory",
                Code::NotFound,
            ),
            ("mount.nfs: access denied by server while mounting a:/b", Code::FailedPrecondition),
            (
                "mount.nfs: requested NFS version or transport protocol is not supported for a:/b",
                Code::FailedPrecondition,
            ),
            ("mount.nfs: an incorrect mount option was specified", Code::InvalidArgument),
            ("mount.nfs: Connection refused", Code::Unavailable),
            ("mount.nfs: Connection timed out", Code::Unavailable),
            ("mount.nfs: Failed to resolve server x: Name or service not known", Code::Unavailable),
        ] {
            let status = Status::from(explained("a:/b", complaint).unwrap());
            assert_eq!(status.code(), code, "{complaint}");
            assert!(status.message().starts_with("a:/b: mount.nfs"), "{}", status.message());
        }
        assert!(explained("a:/b", "mount.nfs: strange").is_none());
    }

    #[test]
    fn what_a_crash_left_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let bench = directory.path().join("nfs");
        fs::create_dir_all(bench.join("left")).unwrap();
        Bench::open(bench.clone()).unwrap();
        assert_eq!(fs::read_dir(&bench).unwrap().count(), 0);
    }
}
