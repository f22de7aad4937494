//! What is mounted in a container: the kernel's file systems, the pod's files, and what the pod's author asked for.

use super::{Input, SpecError};
use crate::shim::sandbox::shm_path;
use cairn_contract::cri;
use oci_spec::runtime::Mount;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How mount events travel between the node and the container, for all of the container's mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Propagation {
    Private,
    Slave,
    Shared,
}

impl Propagation {
    /// OCI's `rootfsPropagation`.
    pub(super) fn root(self) -> &'static str {
        match self {
            Self::Private | Self::Slave => "slave",
            Self::Shared => "shared",
        }
    }
}

fn mount(destination: &str, kind: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_path_buf()))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

fn bind(destination: &str, source: &Path, options: &[&str]) -> Mount {
    mount(destination, "bind", source, options)
}

/// All mounts, in order, and the strongest propagation among them.
pub(super) fn resolve(
    input: &Input<'_>,
    privileged: bool,
    readonly_root: bool,
) -> Result<(Vec<Mount>, Propagation), SpecError> {
    let access = if privileged { "rw" } else { "ro" };
    let hardened = ["nosuid", "noexec", "nodev"];
    let with = |extra: &[&'static str]| [&hardened[..], extra].concat();
    let mut mounts = vec![
        mount("/proc", "proc", Path::new("proc"), &hardened),
        mount("/dev", "tmpfs", Path::new("tmpfs"), &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            Path::new("devpts"),
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &hardened),
        mount("/sys", "sysfs", Path::new("sysfs"), &with(&[access])),
        mount("/sys/fs/cgroup", "cgroup", Path::new("cgroup"), &with(&["relatime", access])),
    ];
    let shm = if input.node_ipc { PathBuf::from("/dev/shm") } else { shm_path(input.pod_run) };
    mounts.push(bind("/dev/shm", &shm, &["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"]));
    let file_access = if readonly_root { "ro" } else { "rw" };
    for name in ["resolv.conf", "hostname", "hosts"] {
        let source = input.pod_state.join(name);
        if source.exists() {
            mounts.push(bind(&format!("/etc/{name}"), &source, &["rbind", "rprivate", file_access]));
        }
    }
    let mut wanted: Vec<&cri::Mount> = input.config.mounts.iter().collect();
    // A mount below another comes after it.
    wanted.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    let mut propagation = Propagation::Private;
    for mount in wanted {
        let (oci, its) = volume(mount)?;
        mounts.retain(|held| held.destination() != oci.destination());
        mounts.push(oci);
        propagation = propagation.max(its);
    }
    Ok((mounts, propagation))
}

/// One of the pod author's mounts.
fn volume(wanted: &cri::Mount) -> Result<(Mount, Propagation), SpecError> {
    let refuse = |reason: &str| {
        Err(SpecError::Refused(format!(
            "mount of {} on {}: {reason}",
            wanted.host_path, wanted.container_path
        )))
    };
    if !wanted.container_path.starts_with('/') {
        return refuse("the container path must be absolute");
    }
    if wanted.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        return refuse("image volumes are not supported by this runtime yet");
    }
    if !wanted.uid_mappings.is_empty() || !wanted.gid_mappings.is_empty() {
        return refuse("user namespaces are not supported by this runtime yet");
    }
    let source = Path::new(&wanted.host_path);
    if !source.is_absolute() {
        return refuse("the host path must be absolute");
    }
    if !source.exists() {
        // Kubelet creates what should be there; what it leaves out is a directory by CRI's custom.
        fs::create_dir_all(source)
            .map_err(|error| SpecError::Refused(format!("cannot make {}: {error}", wanted.host_path)))?;
    }
    let source = fs::canonicalize(source)
        .map_err(|error| SpecError::Refused(format!("cannot resolve {}: {error}", wanted.host_path)))?;
    let (propagation, option) = match wanted.propagation() {
        cri::MountPropagation::PropagationPrivate => (Propagation::Private, "rprivate"),
        cri::MountPropagation::PropagationHostToContainer => (Propagation::Slave, "rslave"),
        cri::MountPropagation::PropagationBidirectional => (Propagation::Shared, "rshared"),
    };
    let access = match (wanted.readonly, wanted.recursive_read_only) {
        (_, true) if !wanted.readonly || propagation != Propagation::Private => {
            return refuse("recursive_read_only needs readonly and private propagation");
        }
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    let mut options = vec!["rbind", option, access];
    options.extend(wanted.mount_options.iter().map(String::as_str));
    Ok((bind(&wanted.container_path, &source, &options), propagation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(host: &Path) -> cri::Mount {
        cri::Mount {
            host_path: host.display().to_string(),
            container_path: "/data".into(),
            readonly: true,
            ..cri::Mount::default()
        }
    }

    #[test]
    fn a_volume_becomes_a_recursive_bind() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("made");
        let (mount, propagation) = volume(&wanted(&missing)).unwrap();
        assert!(missing.is_dir());
        assert_eq!(mount.options().as_deref().unwrap(), ["rbind", "rprivate", "ro"]);
        assert_eq!(propagation, Propagation::Private);
        let shared = cri::Mount {
            propagation: cri::MountPropagation::PropagationBidirectional.into(),
            ..wanted(directory.path())
        };
        assert_eq!(volume(&shared).unwrap().1.root(), "shared");
    }

    #[test]
    fn contradictions_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let base = wanted(directory.path());
        let refused = [
            cri::Mount { container_path: "data".into(), ..base.clone() },
            cri::Mount { recursive_read_only: true, readonly: false, ..base.clone() },
            cri::Mount { uid_mappings: vec![cri::IdMapping::default()], ..base },
        ];
        assert!(refused.iter().all(|mount| volume(mount).is_err()));
    }
}
