//! The sources of a container's bind mounts, where root of its user namespace can reach them.
//!
//! libcontainer mounts as the container's root, who on the node is nobody: the way to a volume below
//! `/var/lib/kubelet` is closed to it. So the shim, which is root, copies each source into the bundle, with its owners
//! shifted where the configuration asks for it, and takes the copies away once the container has its own.

use super::launch::user_namespace;
use crate::idmap;
use oci_spec::runtime::Spec;
use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

/// Directory of the copies in a bundle.
pub const DIRECTORY: &str = "mounts";

/// The copies; they go when this goes.
#[derive(Debug)]
pub(super) struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        idmap::detach_all(&self.0);
    }
}

/// Copies the sources of the bind mounts in `spec` into the bundle and makes `spec` name them, without mappings,
/// which libcontainer refuses. A container without a user namespace needs nothing of this.
///
/// # Errors
/// What cannot be copied or mapped, in words; no copy is left.
pub(super) fn stage(bundle: &Path, spec: &mut Spec) -> Result<Option<Staged>, String> {
    let Some(users) = user_namespace(spec).map(Path::to_path_buf) else { return Ok(None) };
    let Some(linux) = spec.linux_mut() else { return Ok(None) };
    // The namespace at that path has its ranges already.
    linux.set_uid_mappings(None).set_gid_mappings(None);
    let directory = bundle.join(DIRECTORY);
    let staged = Staged(directory.clone());
    try_stage(&directory, &users, spec).map_err(|error| error.to_string())?;
    Ok(Some(staged))
}

fn try_stage(directory: &Path, users: &Path, spec: &mut Spec) -> io::Result<()> {
    let users = File::open(users)?;
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (number, mount) in mounts.iter_mut().enumerate() {
        if mount.typ().as_deref() != Some("bind") {
            continue;
        }
        let Some(source) = mount.source() else { continue };
        let source = fs::canonicalize(source)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", source.display())))?;
        let recursive = mount.options().iter().flatten().any(|option| option == "rbind");
        let copy = idmap::copy(&source, recursive)?;
        if mount.uid_mappings().is_some() {
            idmap::shift(copy.as_fd(), users.as_fd(), &source)?;
        }
        let place = directory.join(number.to_string());
        if source.is_dir() {
            fs::create_dir(&place)?;
        } else {
            File::create(&place)?;
        }
        idmap::attach(copy.as_fd(), &place)?;
        mount.set_source(Some(place)).set_uid_mappings(None).set_gid_mappings(None);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}
