//! Images as volumes: an image's files, read-only, at a place in a container.
//!
//! The merged layers are mounted in the container's bundle and then bound like a path of the node's. The image is held
//! as the container's own is, so it cannot be removed while the container is there.

use super::{Runtime, RuntimeError};
use crate::{
    image::{Image, ImageHold},
    snapshot::{self, Owners},
    traces,
};
use cairn_contract::cri;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// Directory of the mounted images in a bundle.
pub(super) const DIRECTORY: &str = "images";

/// The image that a mount is of.
pub(super) fn wanted(mount: &cri::Mount) -> Option<&cri::ImageSpec> {
    mount.image.as_ref().filter(|image| !image.image.is_empty())
}

/// The first mount of an image that is to be written to.
fn writable(config: &cri::ContainerConfig) -> Option<&cri::Mount> {
    config.mounts.iter().find(|mount| wanted(mount).is_some() && !mount.readonly)
}

impl Runtime {
    /// The images of a container's mounts, in the order of those mounts that are of one, each held.
    pub(super) fn hold_volumes(
        &self,
        config: &cri::ContainerConfig,
    ) -> Result<Vec<(Arc<Image>, ImageHold)>, RuntimeError> {
        if let Some(mount) = writable(config) {
            return Err(RuntimeError::Invalid(format!(
                "{}: an image is mounted read-only; set `readonly`",
                mount.container_path
            )));
        }
        let images = &self.inner.images;
        let find = |spec: &cri::ImageSpec| {
            let missing = || RuntimeError::NotFound(format!("image `{}` of a volume", spec.image));
            let image = images.resolve(&spec.image).ok_or_else(missing)?;
            let hold = images.hold(&image).ok_or_else(missing)?;
            Ok((image, hold))
        };
        config.mounts.iter().filter_map(wanted).map(find).collect()
    }

    /// Mounts those images in the bundle; the result is the container's configuration with their paths.
    pub(super) fn mount_volumes(
        &self,
        bundle: &Path,
        config: &cri::ContainerConfig,
        images: &[Arc<Image>],
        owners: Option<&Owners>,
    ) -> Result<cri::ContainerConfig, RuntimeError> {
        let mut config = config.clone();
        let mounts = config.mounts.iter_mut().filter(|mount| wanted(mount).is_some());
        for (number, (mount, image)) in mounts.zip(images).enumerate() {
            let place = bundle.join(DIRECTORY).join(number.to_string());
            let layers = self.inner.images.layers(image);
            let mounted = || snapshot::mount_read_only(&layers, owners, &place);
            traces::step_at_once("mount image volume", &[], mounted)
                .map_err(|error| RuntimeError::fault("cannot mount the image of a volume", error))?;
            let source = below(&place, &mount.image_sub_path).map_err(|error| {
                let image = wanted(mount).map_or("", |image| image.image.as_str());
                RuntimeError::Invalid(format!(
                    "image_sub_path `{}` of {image}: {error}",
                    mount.image_sub_path
                ))
            })?;
            *mount = cri::Mount {
                container_path: mount.container_path.clone(),
                host_path: source.display().to_string(),
                readonly: true,
                mount_options: ["nosuid", "nodev"].map(str::to_owned).to_vec(),
                ..Default::default()
            };
        }
        Ok(config)
    }
}

/// A path in a mounted image, following links as if the image were `/`. The image does not change, so what it is now
/// it stays.
fn below(root: &Path, path: &str) -> io::Result<PathBuf> {
    if path.is_empty() {
        return Ok(root.to_path_buf());
    }
    if Path::new(path).components().any(|part| part == Component::ParentDir || part == Component::RootDir) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it must be a relative path without `..`"));
    }
    let open = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, open | OFlags::DIRECTORY, Mode::empty())?;
    let found =
        openat2(root, path, open, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_not_written_to() {
        let mount = |image: &str, readonly| cri::Mount {
            image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
            readonly,
            ..Default::default()
        };
        let config = |mounts| cri::ContainerConfig { mounts, ..Default::default() };
        assert!(writable(&config(vec![mount("", false), mount("a", true)])).is_none());
        assert!(writable(&config(vec![mount("a", true), mount("b", false)])).is_some());
    }

    #[test]
    fn sub_paths_stay_in_the_image() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink("/a", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("away")).unwrap();
        assert_eq!(below(&root, "").unwrap(), root);
        assert_eq!(below(&root, "link/b").unwrap(), root.join("a/b"));
        for path in ["../x", "/a", "a/../..", "away", "absent"] {
            assert!(below(&root, path).is_err(), "{path}");
        }
    }
}
