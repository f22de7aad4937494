//! Paths from requests: where a volume is staged or published.
//!
//! The kubelet's directory has parts that pods can write to. So a path is never walked as a whole: it is opened from a
//! trusted root without following links or leaving it (openat2(2)), and everything is done relative to the opened
//! parent.

use super::{
    Tree, silent,
    unmounts::{self, GIVE_UP, Outcome, PATIENCE, Unmounts},
};
use crate::error::{During, Fault};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{
        AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, mkdirat, openat, openat2,
        statx, unlinkat,
    },
    io::Errno,
    mount::{MoveMountFlags, UnmountFlags, move_mount, unmount},
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

/// Longest path, in bytes: the kernel's.
const LONGEST: usize = 4095;

/// The directories below which volumes are mounted.
#[derive(Debug, Clone)]
pub struct Targets {
    roots: Vec<PathBuf>,
    unmounts: Unmounts,
}

/// A path below one of them. It need not exist.
#[derive(Debug, Clone)]
pub struct Place {
    root: PathBuf,
    parent: PathBuf,
    name: OsString,
    unmounts: Unmounts,
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// A directory or file, and nothing mounted on it.
    Bare {
        /// A directory.
        directory: bool,
    },
    /// Something is mounted there.
    Mounted {
        /// Device number and inode of the mount's root.
        identity: (u64, u64),
    },
}

impl Targets {
    /// Volumes are mounted below `roots` only.
    pub fn new(roots: &[PathBuf]) -> Self {
        Self { roots: roots.to_vec(), unmounts: Unmounts::default() }
    }

    /// Checks a path of a request; `field` is its name in messages.
    ///
    /// # Errors
    /// [`Fault::Invalid`] if it is no absolute path below one of the directories, without `.` and `..`.
    pub fn place(&self, path: &str, field: &str) -> Result<Place, Fault> {
        let wrong = |what: &str| Err(Fault::Invalid(format!("{field} {what}: {path:?}")));
        if path.is_empty() {
            return Err(Fault::Invalid(format!("{field} is missing")));
        }
        if path.len() > LONGEST || path.contains('\0') {
            return Err(Fault::Invalid(format!("{field} is no path: it is too long, or has a zero byte")));
        }
        let whole = Path::new(path);
        // Path::components drops "." without a word.
        let straight = path.split('/').all(|part| part != "." && part != "..");
        if !whole.is_absolute() || !straight {
            return wrong("is not an absolute path without . and ..");
        }
        let below = self.roots.iter().find_map(|root| Some((root, whole.strip_prefix(root).ok()?)));
        let Some((root, rest)) = below else {
            return wrong("is not below the directories this driver mounts in (target_roots)");
        };
        match (rest.parent(), rest.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) => {
                let (root, unmounts) = (root.clone(), self.unmounts.clone());
                Ok(Place { root, parent: parent.to_path_buf(), name: name.to_owned(), unmounts })
            }
            _ => wrong("is a directory this driver mounts in, not one below it"),
        }
    }
}

impl Place {
    /// The whole path, for records and messages.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.parent).join(&self.name)
    }

    /// Its parent directory, reached without following links.
    fn parent(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &self.root, flags, Mode::empty())?;
        if self.parent.as_os_str().is_empty() {
            return Ok(root);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(root, &self.parent, flags, Mode::empty(), resolve)
    }

    fn opened(&self) -> Result<OwnedFd, Fault> {
        self.parent().map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => {
                Fault::Precondition(format!("{} does not exist", self.root.join(&self.parent).display()))
            }
            Errno::LOOP | Errno::XDEV => {
                Fault::Invalid(format!("there is a link on the way to {}", self.path().display()))
            }
            error => Fault::Io {
                what: format!("open the parent of {}", self.path().display()),
                source: error.into(),
            },
        })
    }

    /// What is there now.
    ///
    /// # Errors
    /// If there is a link on the way, or the disk fails.
    pub fn see(&self) -> Result<Seen, Fault> {
        match self.parent() {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Seen::Nothing),
            _ => self.see_in(&self.opened()?),
        }
    }

    fn see_in(&self, parent: &OwnedFd) -> Result<Seen, Fault> {
        // A server that does not answer must not be asked.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        match statx(parent, &self.name, flags, StatxFlags::TYPE | StatxFlags::INO) {
            Err(Errno::NOENT) => Ok(Seen::Nothing),
            Err(error) => match silent::mounted(parent, &self.name) {
                Ok(Some(identity)) => Ok(Seen::Mounted { identity }),
                _ => Err(error).during(|| format!("look at {}", self.path().display())),
            },
            Ok(seen) if seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
                let device = rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor);
                Ok(Seen::Mounted { identity: (device, seen.stx_ino) })
            }
            Ok(seen) => {
                let kind = rustix::fs::FileType::from_raw_mode(seen.stx_mode.into());
                Ok(Seen::Bare { directory: kind.is_dir() })
            }
        }
    }

    /// Makes a directory, or an empty file, to mount on; it may be there.
    ///
    /// # Errors
    /// If its parent does not exist, or something else is there.
    pub fn make(&self, directory: bool) -> Result<(), Fault> {
        let parent = self.opened()?;
        let made = if directory {
            mkdirat(&parent, &self.name, Mode::from_raw_mode(0o750))
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&parent, &self.name, flags, Mode::from_raw_mode(0o640)).map(drop)
        };
        match made {
            Ok(()) => Ok(()),
            // What is in it would be hidden, and nobody could say later whose it is.
            Err(Errno::EXIST) => match self.see_in(&parent)? {
                Seen::Bare { directory: is } if is == directory && self.is_empty(&parent, directory)? => {
                    Ok(())
                }
                _ => Err(Fault::Precondition(format!(
                    "{} is there already, and no empty {} to mount on",
                    self.path().display(),
                    if directory { "directory" } else { "file" }
                ))),
            },
            Err(error) => Err(error).during(|| format!("make {}", self.path().display())),
        }
    }

    /// Attaches a mount here.
    ///
    /// # Errors
    /// If nothing is here, or a link.
    pub fn attach(&self, tree: Tree) -> Result<(), Fault> {
        let parent = self.opened()?;
        move_mount(&tree, "", &parent, &self.name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .during(|| format!("mount on {}", self.path().display()))
    }

    /// Unmounts whatever is mounted here; nothing is fine.
    ///
    /// # Errors
    /// [`Fault::Precondition`] if it is in use, [`Fault::Unavailable`] if it takes long: it goes on, and the next call waits for
    /// its end.
    pub fn detach(&self) -> Result<(), Fault> {
        let parent = match self.parent() {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            _ => self.opened()?,
        };
        let path = self.path();
        loop {
            let is_mounted = matches!(self.see_in(&parent)?, Seen::Mounted { .. });
            if !is_mounted && !self.unmounts.is_going(&path) {
                return Ok(());
            }
            let network = is_mounted && self.is_last_of_network(&parent);
            let (at, name) =
                (parent.try_clone().during(|| "keep a directory open".to_owned())?, self.name.clone());
            let work = move || {
                if network {
                    flush(&at, &name);
                }
                unmount_in(&at, &name, UnmountFlags::NOFOLLOW)
            };
            match self.unmounts.run(&path, network, PATIENCE, work) {
                Outcome::Ended(Ok(())) => {}
                Outcome::Ended(Err(Errno::BUSY)) => {
                    return Err(Fault::Precondition(format!(
                        "{} is in use by a process of the node",
                        path.display()
                    )));
                }
                Outcome::Ended(Err(error)) => {
                    return Err(error).during(|| format!("unmount {}", path.display()));
                }
                Outcome::Waits { since, network: true } if since >= GIVE_UP => {
                    tracing::warn!(path = %path.display(), "its server says nothing: what it has not taken is given up");
                    let forced = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                    if is_mounted {
                        unmount_in(&parent, &self.name, forced)
                            .during(|| format!("unmount {}", path.display()))?;
                    }
                    self.unmounts.forget(&path);
                }
                Outcome::Waits { network, .. } => {
                    let whom = if network { "server" } else { "device" };
                    return Err(Fault::Unavailable(format!(
                        "{} is not unmounted yet: its {whom} has not taken all that was written",
                        path.display()
                    )));
                }
            }
        }
    }

    fn is_last_of_network(&self, parent: &OwnedFd) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let seen = statx(parent, &self.name, flags, StatxFlags::MNT_ID);
        let info = std::fs::read_to_string("/proc/self/mountinfo");
        matches!((seen, info), (Ok(seen), Ok(info)) if unmounts::is_last_of_network(&info, seen.stx_mnt_id))
    }

    /// Removes the empty directory or empty file that was mounted on; nothing is fine, and what is not empty is not what was
    /// mounted on, and left alone.
    ///
    /// # Errors
    /// If it is mounted.
    pub fn remove(&self) -> Result<(), Fault> {
        let parent = match self.parent() {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            _ => self.opened()?,
        };
        let flags = match self.see_in(&parent)? {
            Seen::Nothing => return Ok(()),
            Seen::Mounted { .. } => {
                return Err(Fault::Precondition(format!("{} is mounted", self.path().display())));
            }
            Seen::Bare { directory } if !self.is_empty(&parent, directory)? => {
                tracing::warn!(path = %self.path().display(), "is not empty: it is left alone");
                return Ok(());
            }
            Seen::Bare { directory: true } => AtFlags::REMOVEDIR,
            Seen::Bare { directory: false } => AtFlags::empty(),
        };
        match unlinkat(&parent, &self.name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).during(|| format!("remove {}", self.path().display())),
        }
    }

    /// Whether what is here, a directory or not, has nothing in it.
    fn is_empty(&self, parent: &OwnedFd, directory: bool) -> Result<bool, Fault> {
        let look = || -> rustix::io::Result<bool> {
            if !directory {
                let seen = statx(parent, &self.name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::SIZE)?;
                return Ok(seen.stx_size == 0);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            for entry in Dir::read_from(openat(parent, &self.name, flags, Mode::empty())?)? {
                if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        look().during(|| format!("look into {}", self.path().display()))
    }
}

/// Has a file system write what it holds. One that cannot, or may not be opened, is unmounted as it is.
fn flush(parent: &OwnedFd, name: &OsStr) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flushed = openat(parent, name, flags, Mode::empty()).and_then(rustix::fs::syncfs);
    if let Err(error) = flushed {
        tracing::warn!(?name, "not all that was written may be on the server: {error}");
    }
}

/// umount2(2) takes a path only: through the open parent it cannot be led elsewhere.
fn unmount_in(parent: &OwnedFd, name: &OsStr, flags: UnmountFlags) -> Result<(), Errno> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend(name.as_bytes());
    unmount(path, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn only_straight_paths_below_a_root() {
        let targets = Targets::new(&["/var/lib/kubelet".into(), "/tmp/x".into()]);
        let place = targets.place("/var/lib/kubelet/pods/1/mount", "target_path").unwrap();
        assert_eq!(place.path(), Path::new("/var/lib/kubelet/pods/1/mount"));
        targets.place("/tmp/x/a", "target_path").unwrap();
        for path in [
            "",
            "relative/path",
            "/etc/passwd",
            "/var/lib/kubelet",
            "/var/lib/kubelet/",
            "/var/lib/kubeletx/a",
            "/var/lib/kubelet/../../../etc",
            "/var/lib/kubelet/./a",
            "/var/lib/kubelet/a/..",
            "/tmp/x/a\0b",
            &format!("/tmp/x/{}", "a".repeat(5000)),
        ] {
            let error = targets.place(path, "target_path").unwrap_err();
            assert!(matches!(error, Fault::Invalid(_)), "{path}: {error}");
            assert!(error.to_string().starts_with("target_path "), "{error}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), root.path().join("link")).unwrap();
        let targets = Targets::new(&[root.path().into()]);
        let place =
            |path: &str| targets.place(root.path().join(path).to_str().unwrap(), "target_path").unwrap();
        assert!(matches!(place("link/a").make(true), Err(Fault::Invalid(_))));
        assert!(matches!(place("link").make(true), Err(Fault::Precondition(_))));
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        assert!(matches!(place("none/a").make(true), Err(Fault::Precondition(_))));
        assert_eq!(place("none/a").see().unwrap(), Seen::Nothing);
    }

    #[test]
    fn all_that_is_mounted_on_a_place_is_unmounted() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let targets = Targets::new(&[root.path().into()]);
        let place = targets.place(root.path().join("d").to_str().unwrap(), "target_path").unwrap();
        place.make(true).unwrap();
        for _ in 0..2 {
            place.attach(crate::mount::copy(root.path()).unwrap()).unwrap();
        }
        let used = fs::File::open(root.path().join("d")).unwrap();
        assert!(matches!(place.detach(), Err(Fault::Precondition(text)) if text.contains("in use")));
        drop(used);
        place.detach().unwrap();
        place.detach().unwrap();
        assert_eq!(place.see().unwrap(), Seen::Bare { directory: true });
    }

    #[test]
    fn only_what_is_empty_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let targets = Targets::new(&[root.path().into()]);
        let place =
            |path: &str| targets.place(root.path().join(path).to_str().unwrap(), "target_path").unwrap();
        place("d").make(true).unwrap();
        place("d").make(true).unwrap();
        assert!(place("d").make(false).is_err());
        place("f").make(false).unwrap();
        assert_eq!(place("f").see().unwrap(), Seen::Bare { directory: false });
        fs::write(root.path().join("f"), "data").unwrap();
        fs::write(root.path().join("d/x"), "data").unwrap();
        for (name, directory) in [("f", false), ("d", true)] {
            place(name).remove().unwrap();
            assert_eq!(place(name).see().unwrap(), Seen::Bare { directory });
            let refused = place(name).make(directory).unwrap_err();
            assert!(matches!(&refused, Fault::Precondition(text) if text.contains("no empty")), "{refused}");
        }
        fs::remove_file(root.path().join("d/x")).unwrap();
        place("d").remove().unwrap();
        place("d").remove().unwrap();
        assert_eq!(place("d").see().unwrap(), Seen::Nothing);
    }
}
