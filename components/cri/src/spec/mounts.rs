//! What is mounted in a container: the kernel's file systems, the pod's files, and what the pod's author asked for.

use super::{Input, SpecError, devices::Node, mapping};
use crate::{
    shim::sandbox::shm_path,
    userns::{IdRange, UserNamespace},
};
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
            let mut file = bind(&format!("/etc/{name}"), &source, &["rbind", "rprivate", file_access]);
            map_owners(&mut file, input.users.as_ref());
            mounts.push(file);
        }
    }
    let mut wanted: Vec<&cri::Mount> = input.config.mounts.iter().collect();
    // A mount below another comes after it.
    wanted.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    let travels = |mount: &&cri::Mount| mount.propagation() != cri::MountPropagation::PropagationPrivate;
    let mounted = if wanted.iter().any(travels) {
        fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| SpecError::Refused(format!("cannot read the node's mounts: {error}")))?
    } else {
        String::new()
    };
    let mut propagation = Propagation::Private;
    for mount in wanted {
        let (oci, its) = volume(mount, input.users.as_ref(), &mounted)?;
        mounts.retain(|held| held.destination() != oci.destination());
        mounts.push(oci);
        propagation = propagation.max(its);
    }
    Ok((mounts, propagation))
}

/// Whether mount events can travel as wanted to and from `path`, by the lines of `/proc/self/mountinfo`
/// (proc_pid_mountinfo(5)): the mount that `path` is on must be shared, or for one direction at least a slave.
fn travels(mounted: &str, path: &Path, wanted: Propagation) -> bool {
    let mounts = mounted.lines().filter_map(|line| {
        let (fields, _) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(4);
        let place = PathBuf::from(fields.next()?.replace("\\040", " "));
        path.starts_with(&place).then(|| (place.components().count(), fields.skip(1).collect::<Vec<_>>()))
    });
    // Of mounts on one place the last one hides those before; `max_by_key` gives the last of equals.
    let Some((_, tags)) = mounts.max_by_key(|(depth, _)| *depth) else { return false };
    let tagged = |kind: &str| tags.iter().any(|tag| tag.starts_with(kind));
    match wanted {
        Propagation::Private => true,
        Propagation::Slave => tagged("shared:") || tagged("master:"),
        Propagation::Shared => tagged("shared:"),
    }
}

/// The propagation that a plugin's mount asks for, if it does.
///
/// # Errors
/// When mount events cannot travel so, in words.
pub(super) fn asked_propagation(mount: &Mount) -> Result<Option<Propagation>, String> {
    let asks = |option: &String| match option.as_str() {
        "rslave" | "slave" => Some(Propagation::Slave),
        "rshared" | "shared" => Some(Propagation::Shared),
        _ => None,
    };
    let Some(wanted) = mount.options().iter().flatten().filter_map(asks).max() else { return Ok(None) };
    let source = mount.source().clone().unwrap_or_default();
    let source = fs::canonicalize(&source).map_err(|error| format!("{}: {error}", source.display()))?;
    let mounted = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    if travels(&mounted, &source, wanted) {
        Ok(Some(wanted))
    } else {
        Err(format!("{} is not on a shared mount, which its propagation needs", source.display()))
    }
}

/// A device of the node's, lent.
pub(super) fn device(node: &Node) -> Mount {
    let mut mount = bind("", &node.source, &["bind", "rprivate", "nosuid", "noexec"]);
    mount.set_destination(node.oci.path().clone());
    mount
}

/// The owners of what is mounted are those of the pod.
fn map_owners(mount: &mut Mount, users: Option<&UserNamespace>) {
    mount
        .set_uid_mappings(users.map(|users| mapping(users.uids)))
        .set_gid_mappings(users.map(|users| mapping(users.gids)));
}

/// Whether a mount's owners are to be mapped: to the pod's ranges, since others would be nobody in it.
fn mapped(wanted: &cri::Mount, users: Option<&UserNamespace>) -> Result<bool, String> {
    if wanted.uid_mappings.is_empty() && wanted.gid_mappings.is_empty() {
        return Ok(false);
    }
    let Some(users) = users else {
        return Err("its owners are to be mapped, but the pod has no user namespace".to_owned());
    };
    let range = |mappings, kind| IdRange::of(mappings, kind).map_err(|error| error.to_string());
    let (uids, gids) = (range(&wanted.uid_mappings, "user ids")?, range(&wanted.gid_mappings, "group ids")?);
    if *users != (UserNamespace { uids, gids }) {
        return Err(
            "its owners are to be mapped to other ranges than the pod's user namespace has".to_owned()
        );
    }
    Ok(true)
}

/// Options of a bind mount that CRI and CDI may add (mount(8)).
const OPTIONS: [&str; 17] = [
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nosymfollow",
    "rslave",
    "slave",
];

/// One of the pod author's mounts; `mounted` is `/proc/self/mountinfo`.
fn volume(
    wanted: &cri::Mount,
    users: Option<&UserNamespace>,
    mounted: &str,
) -> Result<(Mount, Propagation), SpecError> {
    let refuse = |reason: &str| {
        Err(SpecError::Refused(format!(
            "mount of {} on {}: {reason}",
            wanted.host_path, wanted.container_path
        )))
    };
    if !wanted.container_path.starts_with('/') {
        return refuse("the container path must be absolute");
    }
    let mapped = match mapped(wanted, users) {
        Ok(mapped) => mapped,
        Err(reason) => return refuse(&reason),
    };
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
    if propagation != Propagation::Private && !travels(mounted, &source, propagation) {
        return refuse(&format!(
            "{option} propagation is asked for, but the path is not on a shared mount (see `mount --make-rshared`)"
        ));
    }
    let access = match (wanted.readonly, wanted.recursive_read_only) {
        (_, true) if !wanted.readonly || propagation != Propagation::Private => {
            return refuse("recursive_read_only needs readonly and private propagation");
        }
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    if let Some(odd) = wanted.mount_options.iter().find(|option| !OPTIONS.contains(&option.as_str())) {
        return refuse(&format!(
            "`{odd}` is not an option of a bind mount; those are {}",
            OPTIONS.join(", ")
        ));
    }
    let mut options = vec!["rbind", option, access];
    options.extend(wanted.mount_options.iter().map(String::as_str));
    let mut mount = bind(&wanted.container_path, &source, &options);
    map_owners(&mut mount, users.filter(|_| mapped));
    Ok((mount, propagation))
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
        let (mount, propagation) = volume(&wanted(&missing), None, "").unwrap();
        assert!(missing.is_dir());
        assert_eq!(mount.options().as_deref().unwrap(), ["rbind", "rprivate", "ro"]);
        assert_eq!(propagation, Propagation::Private);
        let shared = cri::Mount {
            propagation: cri::MountPropagation::PropagationBidirectional.into(),
            ..wanted(directory.path())
        };
        let node = "1 0 8:1 / / rw shared:1 - ext4 x rw\n";
        assert_eq!(volume(&shared, None, node).unwrap().1.root(), "shared");
        assert!(volume(&shared, None, &node.replace(" shared:1", "")).is_err());
    }

    #[test]
    fn events_travel_only_over_shared_mounts() {
        let node = "1 0 8:1 / / rw shared:1 - ext4 x rw\n2 1 8:2 / /a rw master:1 - ext4 y rw\n\
                    3 2 8:3 / /a/b\\040c rw,noatime - ext4 z rw\n";
        let able = |path: &str| {
            [Propagation::Private, Propagation::Slave, Propagation::Shared]
                .map(|wanted| travels(node, Path::new(path), wanted))
        };
        assert_eq!(able("/x"), [true, true, true]);
        assert_eq!(able("/a/x"), [true, true, false]);
        assert_eq!(able("/a/b c/x"), [true, false, false]);
        assert_eq!(able("/ab"), [true, true, true], "a name that only starts alike is another");
    }

    #[test]
    fn contradictions_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let base = wanted(directory.path());
        let refused = [
            cri::Mount { container_path: "data".into(), ..base.clone() },
            cri::Mount { recursive_read_only: true, readonly: false, ..base.clone() },
            cri::Mount { mount_options: vec!["noexec".into(), "uid=0".into()], ..base.clone() },
            cri::Mount { uid_mappings: vec![cri::IdMapping::default()], ..base },
        ];
        assert!(refused.iter().all(|mount| volume(mount, None, "").is_err()));
    }
}
