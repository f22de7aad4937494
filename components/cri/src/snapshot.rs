//! A container's root file system: the image's layers below, a writable directory on top.

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
    },
};
use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Where a container's writable files are: `upper`, and overlayfs's own `work`, in one directory.
#[derive(Debug)]
pub struct Snapshot {
    directory: PathBuf,
    place: PathBuf,
}

impl Snapshot {
    /// The snapshot kept in `directory` and mounted at `place`.
    pub fn new(directory: impl Into<PathBuf>, place: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), place: place.into() }
    }

    /// Mounts `layers` (top first) under the writable directory, which is made if absent.
    pub fn mount(&self, layers: &[PathBuf]) -> io::Result<()> {
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
        match mount_by_descriptor(layers, &upper, &work, &self.place) {
            // A kernel before 6.8 knows no `lowerdir+`: give all of them in one option.
            Err(Errno::INVAL | Errno::NOSYS) => mount_by_options(layers, &upper, &work, &self.place),
            result => Ok(result?),
        }
        .map_err(|error| io::Error::new(error.kind(), format!("cannot mount the container's root: {error}")))
    }

    /// Unmounts it; not mounted is fine.
    pub fn unmount(&self) {
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

    /// Makes a directory in the mounted root, following links as the container would.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.place, open, Mode::empty())?;
        let mut reached = PathBuf::from("/");
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let parent = openat2(&root, &reached, open, Mode::empty(), ResolveFlags::IN_ROOT)?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Err(error) if error != Errno::EXIST => return Err(error.into()),
                _ => reached.push(name),
            }
        }
        Ok(())
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
        if let Err(error) = snapshot.mount(&layers) {
            println!("skipped: no overlay on this file system: {error}");
            return;
        }
        assert_eq!(fs::read_to_string(place.join("name")).unwrap(), "top");
        snapshot.make_directory(Path::new("/link/made")).unwrap();
        assert!(place.join("etc/made").is_dir(), "the link is followed inside the root");
        assert!(!layers[1].join("etc/made").exists() && !Path::new("/etc/made").exists());
        assert!(snapshot.usage().1 >= 3);
        snapshot.remove().unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
}
