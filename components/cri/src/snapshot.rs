//! A container's root file system: the image's layers below, a writable directory on top.
//!
//! For a pod with a user namespace the layers are copies of their mounts whose owners are shifted; overlayfs itself
//! cannot be mounted so. What the container writes is its user's on disk.

use crate::{idmap, userns::UserNamespace};
use rustix::{
    fd::AsFd,
    fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, openat2},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
    },
};
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, chown},
    path::{Component, Path, PathBuf},
};

/// Where a container's writable files are: `upper`, and overlayfs's own `work`, in one directory.
#[derive(Debug)]
pub struct Snapshot {
    directory: PathBuf,
    place: PathBuf,
}

/// Whose a mounted tree is to be.
#[derive(Debug, Clone)]
pub struct Owners {
    /// The ranges.
    pub users: UserNamespace,
    /// The namespace's file, `/proc/<pid>/ns/user` or a mount of it.
    pub namespace: PathBuf,
}

impl Snapshot {
    /// The snapshot kept in `directory` and mounted at `place`.
    pub fn new(directory: impl Into<PathBuf>, place: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), place: place.into() }
    }

    /// Mounts `layers` (top first) under the writable directory, which is made if absent.
    pub fn mount(&self, layers: &[PathBuf], owners: Option<&Owners>) -> io::Result<()> {
        let (upper, work) = (self.upper(), self.directory.join("work"));
        for directory in [&upper, &work, &self.place] {
            fs::create_dir_all(directory)?;
        }
        if layers.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an image without layers has no root file system",
            ));
        }
        if let Some(owners) = owners {
            let (uid, gid) = owners.users.root();
            chown(&upper, Some(uid), Some(gid))?;
        }
        let shifted = owners.map(|owners| Shifted::new(&self.shifted(), layers, owners)).transpose()?;
        let layers = shifted.as_ref().map_or(layers, |shifted| &shifted.layers);
        match mount_by_descriptor(layers, &upper, &work, &self.place) {
            // A kernel before 6.8 knows no `lowerdir+`: give all of them in one option.
            Err(Errno::INVAL | Errno::NOSYS) => mount_by_options(layers, &upper, &work, &self.place),
            result => Ok(result?),
        }
        .map_err(|error| io::Error::new(error.kind(), format!("cannot mount the container's root: {error}")))
    }

    /// Where the layers' shifted copies are while it is mounted.
    fn shifted(&self) -> PathBuf {
        self.directory.join("layers")
    }

    /// Unmounts it; not mounted is fine.
    pub fn unmount(&self) {
        idmap::detach_all(&self.shifted());
        while unmount(&self.place, UnmountFlags::DETACH).is_ok() {}
    }

    /// Unmounts it and removes what the container wrote.
    pub fn remove(&self) -> io::Result<()> {
        self.unmount();
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where the container's changes are.
    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// Bytes and inodes that the container's changes take on disk.
    pub fn usage(&self) -> (u64, u64) {
        let entries = walkdir::WalkDir::new(self.upper()).into_iter().flatten();
        let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512));
        sizes.fold((0, 0), |(bytes, inodes), size| (bytes + size, inodes + 1))
    }

    /// Makes a directory in the mounted root, of its root's, following links as the container would.
    pub fn make_directory(&self, path: &Path, owners: Option<&Owners>) -> io::Result<()> {
        let owner = owners.map(|owners| owners.users.root());
        let owner = owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid))).unzip();
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.place, open, Mode::empty())?;
        let mut reached = PathBuf::from("/");
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let parent = openat2(&root, &reached, open, Mode::empty(), ResolveFlags::IN_ROOT)?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Err(error) if error != Errno::EXIST => return Err(error.into()),
                Err(_) => {}
                Ok(()) => chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?,
            }
            reached.push(name);
        }
        Ok(())
    }
}

/// Mounts `layers` (top first) alone at `place`, which is made: nothing in it can be changed.
pub fn mount_read_only(layers: &[PathBuf], owners: Option<&Owners>, place: &Path) -> io::Result<()> {
    let beside = |name: &str| place.with_extension(name);
    // Below the others, since overlayfs wants two where nothing can be written.
    let empty = beside("empty");
    for directory in [place, &empty] {
        fs::create_dir_all(directory)?;
    }
    let shifted = owners.map(|owners| Shifted::new(&beside("layers"), layers, owners)).transpose()?;
    let layers = shifted.as_ref().map_or(layers, |shifted| &shifted.layers);
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers.iter().chain([&empty]) {
        fsconfig_set_string(&overlay, "lowerdir+", layer)?;
    }
    fsconfig_create(&overlay)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mounted = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    idmap::attach(mounted.as_fd(), place)
}

/// Copies of layers with shifted owners, while overlayfs takes its own copies of them.
#[derive(Debug)]
struct Shifted {
    directory: PathBuf,
    layers: Vec<PathBuf>,
}

impl Shifted {
    fn new(directory: &Path, layers: &[PathBuf], owners: &Owners) -> io::Result<Self> {
        let users = File::open(&owners.namespace)?;
        let mut shifted = Self { directory: directory.to_path_buf(), layers: Vec::new() };
        for (number, layer) in layers.iter().enumerate() {
            let place = directory.join(number.to_string());
            fs::create_dir_all(&place)?;
            let copy = idmap::copy(layer, false)?;
            idmap::shift(copy.as_fd(), users.as_fd(), layer)?;
            idmap::attach(copy.as_fd(), &place)?;
            shifted.layers.push(place);
        }
        Ok(shifted)
    }
}

impl Drop for Shifted {
    fn drop(&mut self) {
        idmap::detach_all(&self.directory);
    }
}

fn mount_by_descriptor(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    place: &Path,
) -> rustix::io::Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(&overlay, "lowerdir+", layer)?;
    }
    fsconfig_set_string(&overlay, "upperdir", upper)?;
    fsconfig_set_string(&overlay, "workdir", work)?;
    fsconfig_create(&overlay)?;
    let mounted = fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&mounted, "", rustix::fs::CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn mount_by_options(layers: &[PathBuf], upper: &Path, work: &Path, place: &Path) -> io::Result<()> {
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    let options = CString::new(options)?;
    Ok(mount("overlay", place, "overlay", MountFlags::empty(), options.as_c_str())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_show_through_and_changes_stay_above() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["top", "bottom"].iter().map(|name| base.path().join(name)).collect();
        for layer in &layers {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join("name"), layer.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        std::os::unix::fs::symlink("/etc", layers[1].join("link")).unwrap();
        fs::create_dir(layers[1].join("etc")).unwrap();
        let place = base.path().join("place");
        let snapshot = Snapshot::new(base.path().join("snapshot"), &place);
        if let Err(error) = snapshot.mount(&layers, None) {
            println!("skipped: no overlay on this file system: {error}");
            return;
        }
        assert_eq!(fs::read_to_string(place.join("name")).unwrap(), "top");
        snapshot.make_directory(Path::new("/link/made"), None).unwrap();
        assert!(place.join("etc/made").is_dir(), "the link is followed inside the root");
        assert!(!layers[1].join("etc/made").exists() && !Path::new("/etc/made").exists());
        assert!(snapshot.usage().1 >= 3);
        snapshot.remove().unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
}
