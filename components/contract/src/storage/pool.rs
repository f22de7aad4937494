//! Pools of local volumes, and what must hold of them. The profile, the machine config and the driver's configuration
//! have the same table, [`Pool`], and are held to the same rules, [`mistakes`]. What only a node's pools must keep is in
//! [`mistakes_on_node`].

use crate::paths;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Whether a pool holds its directory volumes to their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quota {
    /// By project quotas; the pool's file system must have them switched on.
    #[default]
    Enforced,
    /// Not at all: a directory volume may fill the pool.
    Off,
}

/// A place for local volumes. A StorageClass chooses one by the parameter `pool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Pool {
    /// What StorageClasses call it.
    pub name: String,
    /// Its directory; everything in it is the driver's.
    pub path: PathBuf,
    /// A disk of its own, mounted at `path` by the driver, and made into XFS if it is blank. Absent: `path` is on a
    /// file system that is mounted already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<PathBuf>,
    /// Whether directory volumes are held to their size.
    pub quota: Quota,
    /// Bytes that all volumes and snapshots may be promised together. Absent: what the file system has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
}

/// The same as people write it.
#[derive(Deserialize)]
#[serde(rename = "Pool", deny_unknown_fields)]
struct Written {
    name: String,
    path: Option<PathBuf>,
    device: Option<PathBuf>,
    #[serde(default)]
    quota: Quota,
    limit_bytes: Option<u64>,
}

impl From<Written> for Pool {
    fn from(Written { name, path, device, quota, limit_bytes }: Written) -> Self {
        let usual = || match device {
            Some(_) => Path::new(paths::CSI_POOL_DISKS).join(&name),
            None => paths::CSI_POOL.into(),
        };
        Self { path: path.unwrap_or_else(usual), name, device, quota, limit_bytes }
    }
}

impl Pool {
    /// The one of a driver that was told of none: in the state partition.
    pub fn in_state() -> Self {
        Written {
            name: "state".to_owned(),
            path: None,
            device: None,
            quota: Quota::default(),
            limit_bytes: None,
        }
        .into()
    }
}

/// A key of a pool that cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Which pool of the list, from 0.
    pub index: usize,
    /// The key in it.
    pub key: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub fix: &'static str,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, key, problem, fix } = self;
        write!(f, "pools[{index}].{key}: {problem}; {fix}")
    }
}

/// No volume is smaller.
const LEAST: u64 = 1 << 20;

/// What is wrong with `pools`, wherever they are; volumes are mounted below `target_roots`.
pub fn mistakes(pools: &[Pool], target_roots: &[PathBuf]) -> Vec<Mistake> {
    let each = pools.iter().enumerate();
    each.flat_map(|(index, pool)| of_one(index, pool, &pools[..index], target_roots)).collect()
}

fn of_one(index: usize, pool: &Pool, before: &[Pool], target_roots: &[PathBuf]) -> Vec<Mistake> {
    let Pool { name, path, device, limit_bytes, .. } = pool;
    let mut found = Vec::new();
    let mut add = |key, problem, fix| found.push(Mistake { index, key, problem, fix });
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(harmless) {
        add("name", format!("{name:?} is no name"), "use 1 to 63 letters, digits and -");
    } else if before.iter().any(|other| other.name == *name) {
        add("name", format!("two pools are called {name:?}"), "give each a name of its own");
    }
    if !path.is_absolute() || path.parent().is_none() {
        add("path", format!("{} is no absolute path below /", path.display()), "name a directory of its own");
    }
    if target_roots.iter().any(|root| overlap(root, path)) {
        let problem = format!("{} is where volumes are mounted (target_roots)", path.display());
        add("path", problem, "name a directory of its own");
    }
    if before.iter().any(|other| overlap(&other.path, path)) {
        let problem = format!("{} is also another pool's, or in it, or around it", path.display());
        add("path", problem, "give each pool a path of its own");
    }
    if let Some(device) = device {
        if !device.starts_with("/dev") {
            add("device", format!("{} is not below /dev", device.display()), "name a block device");
        }
        if before.iter().any(|other| other.device.as_ref() == Some(device)) {
            add("device", format!("two pools have {}", device.display()), "give each a disk of its own");
        }
    }
    if let Some(limit) = limit_bytes.filter(|limit| *limit < LEAST) {
        let problem = format!("{limit} bytes hold no volume");
        add("limit_bytes", problem, "allow at least 1048576 (1 MiB), or leave it out");
    }
    found
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Directories of links that udev makes to disks, by names that stay the same from boot to boot.
const STABLE: [&str; 6] = ["by-id", "by-label", "by-partlabel", "by-partuuid", "by-path", "by-uuid"];
/// Where a node keeps what is not a pool's.
const OTHERS: [&str; 3] = [paths::CRI_STATE, paths::CSI_STATE, paths::KUBELET_STATE];

/// What is wrong with the pools of a node: [`mistakes`], and what follows from how a node is made. Only `/var` outlives a
/// reboot, and the kernel numbers disks as it finds them.
pub fn mistakes_on_node(pools: &[Pool]) -> Vec<Mistake> {
    let mut found = mistakes(pools, &[paths::KUBELET_STATE.into()]);
    for (index, Pool { path, device, .. }) in pools.iter().enumerate() {
        let mut add = |key, problem, fix| found.push(Mistake { index, key, problem, fix });
        let taken = OTHERS.iter().any(|other| overlap(Path::new(other), path));
        if path.is_absolute() && !path.starts_with("/var/lib/") {
            let problem = format!("{} is not below /var/lib, and nothing else is kept", path.display());
            add("path", problem, "leave it out, or name a directory there");
        } else if taken && !overlap(Path::new(paths::KUBELET_STATE), path) {
            let problem = format!("{} has what other programs keep, or is in it", path.display());
            add("path", problem, "leave it out, or name a directory of its own");
        }
        if let Some(device) =
            device.as_ref().filter(|device| device.starts_with("/dev") && !is_stable(device))
        {
            let problem = format!("{} may be another disk after the next boot", device.display());
            add("device", problem, "name a link below /dev/disk/by-id, by-path, by-partlabel or the like");
        }
    }
    found.sort_by_key(|mistake| mistake.index);
    found
}

fn is_stable(device: &Path) -> bool {
    let Ok(name) = device.strip_prefix("/dev/disk") else { return false };
    let parts: Vec<&str> = name.iter().filter_map(|part| part.to_str()).collect();
    matches!(parts.as_slice(), [directory, link] if STABLE.contains(directory) && *link != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct File {
        pools: Vec<Pool>,
    }

    fn pools(text: &str) -> Vec<Pool> {
        toml::from_str::<File>(text).unwrap_or_else(|error| panic!("{text}: {error}")).pools
    }

    #[test]
    fn a_pool_has_its_usual_place_unless_it_says_another() {
        let held = pools(
            "[[pools]]\nname = 'state'\n[[pools]]\nname = 'fast'\ndevice = '/dev/disk/by-id/a'\n\
             [[pools]]\nname = 'x'\npath = '/var/lib/x'\nquota = 'off'\nlimit_bytes = 2000000",
        );
        assert_eq!(held[0], Pool::in_state());
        assert_eq!(held[0].path, Path::new("/var/lib/cairn/volumes"));
        assert_eq!(held[1].path, Path::new("/var/lib/cairn/pools/fast"));
        assert_eq!((held[2].quota, held[2].limit_bytes), (Quota::Off, Some(2_000_000)));
        assert_eq!(mistakes_on_node(&held), []);
        let again = toml::to_string(&toml::Table::from_iter([(
            "pools".to_owned(),
            toml::Value::try_from(&held).unwrap(),
        )]));
        assert_eq!(pools(&again.unwrap()), held);
    }

    #[test]
    fn each_mistake_names_its_key() {
        let disk = |name: &str, device: &str| format!("[[pools]]\nname = '{name}'\ndevice = '{device}'\n");
        let place = |name: &str, path: &str| format!("[[pools]]\nname = '{name}'\npath = '{path}'\n");
        let good = disk("a", "/dev/disk/by-id/virtio-a");
        for (text, key) in [
            (disk("", "/dev/disk/by-id/a"), "pools[0].name"),
            (disk("a/b", "/dev/disk/by-id/a"), "pools[0].name"),
            (disk(&"a".repeat(64), "/dev/disk/by-id/a"), "pools[0].name"),
            (good.clone() + &disk("a", "/dev/disk/by-id/b") + "path = '/var/lib/b'", "pools[1].name"),
            (good.clone() + &disk("b", "/dev/disk/by-id/virtio-a"), "pools[1].device"),
            (disk("a", "/etc/passwd"), "pools[0].device"),
            (disk("a", "/dev/vdb"), "pools[0].device"),
            (disk("a", "/dev/disk/by-diskseq/2"), "pools[0].device"),
            (disk("a", "/dev/disk/by-id/../../vdb"), "pools[0].device"),
            (good.clone() + "path = 'relative'", "pools[0].path"),
            (place("a", "/"), "pools[0].path"),
            (place("a", "/srv/a"), "pools[0].path"),
            (place("a", "/var/lib/kubelet/a"), "pools[0].path"),
            (place("a", "/var/lib/cairn/cri"), "pools[0].path"),
            (place("a", "/var/lib/a") + &place("b", "/var/lib/a/b"), "pools[1].path"),
            (good.clone() + "limit_bytes = 0", "pools[0].limit_bytes"),
            (good.clone() + "limit_bytes = 100", "pools[0].limit_bytes"),
        ] {
            let found = mistakes_on_node(&pools(&text));
            let keys: Vec<String> =
                found.iter().map(|mistake| format!("pools[{}].{}", mistake.index, mistake.key)).collect();
            assert!(!keys.is_empty() && keys.iter().all(|found| found == key), "{text}: {found:?}");
        }
        // Elsewhere than on a node any device and any directory will do.
        assert_eq!(mistakes(&pools(&(disk("a", "/dev/loop7") + &place("b", "/srv/b"))), &[]), []);
    }
}
