//! An export as the controller sees it: a directory for each volume, and a record of each.
//!
//! The records are files in a hidden directory of the export, so every node's driver knows every volume, and a directory
//! that has no record is somebody else's: it is never given out, renamed or removed. All is done relative to the
//! opened export, without following links, for pods can make them.

use super::export::SubDir;
use crate::{
    error::{During, Fault},
    id::Name,
    mount::Tree,
    walk,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, ResolveFlags, fsync, mkdirat, openat2, renameat, statat, unlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Of the driver's own; volumes' names do not begin with a dot.
const OWN: &str = ".cairn-csi";
/// How the names of records end that are being written.
const ASIDE: &str = ".new";

/// So many archives of one name, and no more: each is looked for.
const MOST_ARCHIVES: u32 = 1000;

/// What becomes of a directory when its volume is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnDelete {
    /// Gone with all that is in it.
    #[default]
    Delete,
    /// Stays as it is.
    Retain,
    /// Stays under a name that begins with `archived-`.
    Archive,
}

impl OnDelete {
    /// From the parameter `onDelete`.
    ///
    /// # Errors
    /// [`Fault::Invalid`], with those there are.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "" | "delete" => Ok(Self::Delete),
            "retain" => Ok(Self::Retain),
            "archive" => Ok(Self::Archive),
            _ => Err(Fault::Invalid(format!("onDelete {text:?} is not one of delete, retain and archive"))),
        }
    }
}

/// A volume's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What it was asked for by.
    pub(super) name: Name,
    /// Its directory.
    pub(super) below: String,
    /// The size it was promised; an export knows no limits.
    pub(super) bytes: u64,
    /// What becomes of it.
    pub(super) on_delete: OnDelete,
    /// The mount options by which the export was reached; the volume's identifier has them, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) options: Vec<String>,
}

/// A mounted export.
#[derive(Debug)]
pub(super) struct Shelf {
    tree: Tree,
}

impl Shelf {
    /// Over a mounted export.
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree }
    }

    /// The record of the volume in a directory.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) fn record(&self, below: &SubDir) -> Result<Option<Record>, Fault> {
        let name = record_name(below);
        let read = || -> std::io::Result<Option<Record>> {
            let Some(own) = absent(self.open(Path::new(OWN)))? else { return Ok(None) };
            let Some(file) = absent(open_in(&own, Path::new(&name), OFlags::RDONLY))? else {
                return Ok(None);
            };
            let mut text = String::new();
            File::from(file).read_to_string(&mut text)?;
            Ok(Some(serde_json::from_str(&text)?))
        };
        read().during(|| format!("read the record of {} on the export", below.as_str()))
    }

    /// Makes a volume's directory, with this mode, and its record, in this order's reverse: a crash leaves a record
    /// without a directory, which the next call completes.
    ///
    /// # Errors
    /// [`Fault::AlreadyExists`] if the directory is there and has no record, or is in another volume's.
    pub(super) fn make(&self, below: &SubDir, record: &Record, mode: Option<u32>) -> Result<(), Fault> {
        let doing = |error: io::Error| explained(error, format!("make {} on the export", below.as_str()));
        // Whoever removes a volume removes all that is in it. A volume in this one has a directory, so that is refused, too.
        for around in below.around() {
            if let Some(other) = self.record(&around)? {
                return Err(Fault::AlreadyExists(format!(
                    "{} is in {}, which is the volume {}: one volume cannot be in another",
                    below.as_str(),
                    around.as_str(),
                    other.name
                )));
            }
        }
        if self.record(below)?.as_ref() != Some(record) {
            if absent(self.open(Path::new(below.as_str()))).map_err(|error| doing(error.into()))?.is_some() {
                return Err(Fault::AlreadyExists(format!(
                    "{} is on the export already, and was not made for this volume (other volumes may be in it): it is \
                     left alone",
                    below.as_str()
                )));
            }
            self.write(below, record)?;
        }
        let directory = self.descend(Path::new(below.as_str())).map_err(doing)?;
        if let Some(mode) = mode {
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode)).map_err(|error| doing(error.into()))?;
        }
        fsync(&directory).map_err(|error| doing(error.into()))
    }

    /// Writes a record beside, and puts it in its place.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) fn write(&self, below: &SubDir, record: &Record) -> Result<(), Fault> {
        let write = || -> std::io::Result<()> {
            let own = self.descend(Path::new(OWN))?;
            sweep(&own, below)?;
            let (name, aside) = (record_name(below), aside_name(below));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut file = File::from(open_in(&own, Path::new(&aside), flags)?);
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            renameat(&own, &aside, &own, &name)?;
            Ok(fsync(&own)?)
        };
        write().map_err(|error| {
            explained(error, format!("write the record of {} on the export", below.as_str()))
        })
    }

    /// Removes a volume as its record says; none is fine.
    ///
    /// # Errors
    /// If the server fails, or another node still has one of its files open.
    pub(super) fn remove(&self, below: &SubDir) -> Result<(), Fault> {
        let doing = || format!("remove {} on the export", below.as_str());
        let Some(own) = absent(self.open(Path::new(OWN))).during(doing)? else { return Ok(()) };
        sweep(&own, below).during(doing)?;
        let Some(record) = self.record(below)? else { return Ok(()) };
        match record.on_delete {
            OnDelete::Retain => {}
            OnDelete::Archive => {
                let to = self.archive_name(below).during(doing)?;
                self.rename(below, self.tree.as_fd(), &to).during(doing)?;
            }
            OnDelete::Delete => {
                // Out of sight in one step; what a crash leaves is found under this name.
                let doomed = format!("removed-{}", digest(below));
                self.rename(below, own.as_fd(), &doomed).during(doing)?;
                walk::remove(&own, &doomed).during(doing)?;
            }
        }
        unlinkat(&own, record_name(below), AtFlags::empty()).or_else(gone).during(doing)
    }

    /// A name for what is kept of a volume. One that was removed before by the same name has the first.
    fn archive_name(&self, below: &SubDir) -> std::io::Result<String> {
        let first = format!("archived-{}", below.as_str().replace('/', "-"));
        let names = std::iter::once(first.clone()).chain((2..=MOST_ARCHIVES).map(|n| format!("{first}-{n}")));
        for name in names {
            // Whatever it is: a rename would replace an empty directory.
            match statat(&self.tree, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(name),
                Err(error) => return Err(error.into()),
            }
        }
        Err(std::io::Error::other(format!("{first} is there {MOST_ARCHIVES} times: remove some of them")))
    }

    /// Renames a volume's directory, unless that is done.
    fn rename(&self, below: &SubDir, to: rustix::fd::BorrowedFd<'_>, name: &str) -> std::io::Result<()> {
        let path = PathBuf::from(below.as_str());
        let (parent, last) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let Some(parent) = absent(self.open(parent))? else { return Ok(()) };
        Ok(renameat(&parent, last, to, name).or_else(gone)?)
    }

    /// Bytes that are free, and all.
    ///
    /// # Errors
    /// If the server fails.
    pub(super) fn space(&self) -> Result<(u64, u64), Fault> {
        let root = self.open(Path::new("")).during(|| "open the export".to_owned())?;
        let held = rustix::fs::fstatvfs(&root).during(|| "measure the export".to_owned())?;
        let bytes = |blocks: u64| blocks.saturating_mul(held.f_frsize);
        Ok((bytes(held.f_bavail), bytes(held.f_blocks)))
    }

    fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        open_in(&self.tree, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens a directory, making what is not there.
    fn descend(&self, path: &Path) -> std::io::Result<OwnedFd> {
        let mut at = self.open(Path::new(""))?;
        for name in path {
            match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = open_in(&at, Path::new(name), OFlags::RDONLY | OFlags::DIRECTORY)?;
        }
        Ok(at)
    }
}

fn open_in(at: &impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Not what is in another export that the server mounts there.
    let resolve = resolve | ResolveFlags::NO_XDEV;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
    openat2(at, path, flags | OFlags::CLOEXEC, mode, resolve)
}

fn absent(opened: rustix::io::Result<OwnedFd>) -> rustix::io::Result<Option<OwnedFd>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the export is not made for is the caller's to mend; the rest is the server's fault.
fn explained(error: io::Error, what: String) -> Fault {
    match Errno::from_io_error(&error) {
        Some(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Fault::Precondition(format!(
            "{what}: on the way is something that is no directory of this export: {error}"
        )),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Fault::Precondition(format!(
            "{what}: the server does not let this node's root do that (root_squash, or an export for reading): {error}"
        )),
        _ => Fault::Io { what, source: error },
    }
}

fn gone(error: Errno) -> rustix::io::Result<()> {
    if error == Errno::NOENT { Ok(()) } else { Err(error) }
}

fn digest(below: &SubDir) -> String {
    hex::encode(Sha256::digest(below.as_str()))
}

/// Removes what a crash left of a volume's records that were being written. Another node that is writing one fails, and is asked
/// again.
fn sweep(own: &OwnedFd, below: &SubDir) -> std::io::Result<()> {
    let of_it = format!("{}.", digest(below));
    for entry in rustix::fs::Dir::read_from(own)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(of_it.as_bytes()) && name.ends_with(ASIDE.as_bytes()) {
            unlinkat(own, entry.file_name(), AtFlags::empty()).or_else(gone)?;
        }
    }
    Ok(())
}

/// Another each time, so that no two nodes write one file.
fn aside_name(below: &SubDir) -> String {
    format!("{}.{}{ASIDE}", digest(below), uuid::Uuid::new_v4())
}

fn record_name(below: &SubDir) -> String {
    format!("{}.json", digest(below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    /// A directory as if it were a mounted export; needs root.
    fn shelf(directory: &Path) -> Option<Shelf> {
        match mount::copy(directory) {
            Ok(tree) => Some(Shelf::new(tree)),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    fn record(name: &str, below: &str, on_delete: OnDelete) -> Record {
        let name = Name::parse(name).unwrap();
        Record { name, below: below.to_owned(), bytes: 1 << 20, on_delete, options: Vec::new() }
    }

    #[test]
    fn volumes_are_made_once_and_removed_as_they_say() {
        let directory = tempfile::tempdir().unwrap();
        let Some(shelf) = shelf(directory.path()) else { return };
        let at = |path: &str| directory.path().join(path);
        for (below, on_delete) in
            [("a/b", OnDelete::Delete), ("kept", OnDelete::Retain), ("old/1", OnDelete::Archive)]
        {
            let (sub, held) = (SubDir::parse(below).unwrap(), record(below, below, on_delete));
            shelf.make(&sub, &held, Some(0o2770)).unwrap();
            shelf.make(&sub, &held, Some(0o2770)).unwrap();
            assert_eq!(shelf.record(&sub).unwrap(), Some(held));
            assert_eq!(at(below).metadata().unwrap().permissions().mode() & 0o7777, 0o2770);
            fs::write(at(below).join("file"), "data").unwrap();
            shelf.remove(&sub).unwrap();
            shelf.remove(&sub).unwrap();
            assert_eq!(shelf.record(&sub).unwrap(), None);
        }
        assert!(!at("a/b").exists() && at("kept/file").exists() && at("archived-old-1/file").exists());
        assert_eq!(fs::read_dir(at(OWN)).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_a_crash_left_of_a_record_goes_with_the_next_call() {
        let directory = tempfile::tempdir().unwrap();
        let Some(shelf) = shelf(directory.path()) else { return };
        let (below, other) = (SubDir::parse("v").unwrap(), SubDir::parse("w").unwrap());
        let own = directory.path().join(OWN);
        let left = |below: &SubDir| fs::write(own.join(aside_name(below)), "half").unwrap();
        let names = || fs::read_dir(&own).unwrap().count();
        shelf.make(&below, &record("v", "v", OnDelete::Delete), None).unwrap();
        left(&below);
        left(&other);
        shelf.write(&below, &record("v", "v", OnDelete::Retain)).unwrap();
        assert_eq!(names(), 2, "its record, and what is another's");
        shelf.remove(&other).unwrap();
        left(&below);
        shelf.remove(&below).unwrap();
        assert_eq!(names(), 0);
    }

    #[test]
    fn what_is_not_a_volume_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let Some(shelf) = shelf(directory.path()) else { return };
        fs::create_dir(directory.path().join("mine")).unwrap();
        fs::write(directory.path().join("mine/file"), "precious").unwrap();
        let below = SubDir::parse("mine").unwrap();
        let refused = shelf.make(&below, &record("v", "mine", OnDelete::Delete), None).unwrap_err();
        assert!(matches!(&refused, Fault::AlreadyExists(text) if text.contains("left alone")), "{refused}");
        shelf.remove(&below).unwrap();
        assert!(directory.path().join("mine/file").exists());
    }

    #[test]
    fn no_volume_is_in_another() {
        let directory = tempfile::tempdir().unwrap();
        let Some(shelf) = shelf(directory.path()) else { return };
        let make = |name: &str, below: &str| {
            shelf.make(&SubDir::parse(below).unwrap(), &record(name, below, OnDelete::Delete), None)
        };
        let refused = |name: &str, below: &str| match make(name, below).unwrap_err() {
            Fault::AlreadyExists(text) => text,
            fault => panic!("{fault}"),
        };
        make("team", "team").unwrap();
        for below in ["team/x", "team/x/y"] {
            let text = refused("x", below);
            assert!(text.contains("which is the volume team"), "{text}");
        }
        assert!(!directory.path().join("team/x").exists());
        make("y", "group/x/y").unwrap();
        for below in ["group", "group/x"] {
            assert!(refused("around", below).contains("left alone"));
        }
        // Its neighbours are none of its business.
        make("z", "group/x/z").unwrap();
        make("teams", "teams").unwrap();
        // One that is half-made: it has a record, and its directory is made by the next call.
        let (half, held) = (SubDir::parse("half/x").unwrap(), record("half", "half/x", OnDelete::Delete));
        shelf.write(&half, &held).unwrap();
        make("whole", "half").unwrap();
        assert!(shelf.make(&half, &held, None).is_err(), "the other one was made meanwhile");
        shelf.remove(&SubDir::parse("team").unwrap()).unwrap();
        make("x", "team/x").unwrap();
    }

    #[test]
    fn archives_of_one_name_are_numbered() {
        let directory = tempfile::tempdir().unwrap();
        let Some(shelf) = shelf(directory.path()) else { return };
        let below = SubDir::parse("a/b").unwrap();
        let at = |path: &str| directory.path().join(path);
        for round in ["1", "2", "3"] {
            shelf.make(&below, &record("v", "a/b", OnDelete::Archive), None).unwrap();
            fs::write(at("a/b/round"), round).unwrap();
            shelf.remove(&below).unwrap();
        }
        // An empty one is somebody's, too.
        fs::create_dir(at("archived-a-b-4")).unwrap();
        shelf.make(&below, &record("v", "a/b", OnDelete::Archive), None).unwrap();
        shelf.remove(&below).unwrap();
        let rounds = ["archived-a-b", "archived-a-b-2", "archived-a-b-3"];
        assert_eq!(rounds.map(|name| fs::read_to_string(at(name).join("round")).unwrap()), ["1", "2", "3"]);
        assert!(at("archived-a-b-5").is_dir() && !at("a/b").exists());
    }

    #[test]
    fn links_that_pods_make_lead_nowhere() {
        let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let Some(shelf) = shelf(directory.path()) else { return };
        fs::write(elsewhere.path().join("file"), "precious").unwrap();
        symlink(elsewhere.path(), directory.path().join("link")).unwrap();
        let through = SubDir::parse("link/v").unwrap();
        assert!(shelf.make(&through, &record("v", "link/v", OnDelete::Delete), None).is_err());
        let below = SubDir::parse("v").unwrap();
        shelf.make(&below, &record("w", "v", OnDelete::Delete), None).unwrap();
        symlink(elsewhere.path(), directory.path().join("v/out")).unwrap();
        shelf.remove(&below).unwrap();
        assert!(elsewhere.path().join("file").exists() && !directory.path().join("v").exists());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_volume_of_any_depth_is_removed() {
        let directory = walk::ground();
        let Some(shelf) = shelf(directory.path()) else { return };
        let below = SubDir::parse("v").unwrap();
        shelf.make(&below, &record("v", "v", OnDelete::Delete), None).unwrap();
        walk::nest(&directory.path().join("v"), 60_000);
        shelf.remove(&below).unwrap();
        assert!(!directory.path().join("v").exists());
        assert_eq!(fs::read_dir(directory.path().join(OWN)).unwrap().count(), 0);
    }

    #[test]
    fn a_removal_that_was_cut_short_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        let Some(shelf) = shelf(directory.path()) else { return };
        let below = SubDir::parse("v").unwrap();
        shelf.make(&below, &record("v", "v", OnDelete::Delete), None).unwrap();
        let doomed = directory.path().join(OWN).join(format!("removed-{}", digest(&below)));
        fs::rename(directory.path().join("v"), doomed).unwrap();
        shelf.remove(&below).unwrap();
        assert_eq!(fs::read_dir(directory.path().join(OWN)).unwrap().count(), 0);
    }
}
