//! Mount flags of a VolumeCapability: those every mount can have, and those of a file system.

use crate::{error::Fault, filesystem::FsType};
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

/// Which flags and file systems a backend's volumes can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSet {
    /// Names of file systems, as in `fs_type`, besides those the driver makes.
    network: &'static [&'static str],
    /// Keys with or without a value that are given to the file system.
    keys: &'static [&'static str],
}

impl OptionSet {
    /// ext4 and XFS on a device. Not here: what names another device or path (journals, logs), and quotas.
    pub const FILE_SYSTEM: Self = Self {
        network: &[],
        keys: &[
            "sync",
            "dirsync",
            "lazytime",
            "discard",
            "nodiscard",
            "commit",
            "data",
            "errors",
            "barrier",
            "nobarrier",
            "delalloc",
            "nodelalloc",
            "auto_da_alloc",
            "noauto_da_alloc",
            "stripe",
            "max_batch_time",
            "min_batch_time",
            "inode_readahead_blks",
            "init_itable",
            "noinit_itable",
            "norecovery",
            "acl",
            "noacl",
            "user_xattr",
            "allocsize",
            "inode32",
            "inode64",
            "largeio",
            "nolargeio",
            "logbsize",
            "logbufs",
            "swalloc",
            "sunit",
            "swidth",
            "wsync",
            "dax",
        ],
    };
    /// A pool's own disk.
    pub const POOL: Self = Self { network: &[], keys: &["prjquota"] };
    /// NFS: the options of nfs(5) that do not lead elsewhere.
    pub const NFS: Self = Self {
        network: &["nfs", "nfs4"],
        keys: &[
            "vers",
            "nfsvers",
            "minorversion",
            "proto",
            "port",
            "hard",
            "soft",
            "softerr",
            "softreval",
            "timeo",
            "retrans",
            "retry",
            "rsize",
            "wsize",
            "ac",
            "noac",
            "acregmin",
            "acregmax",
            "acdirmin",
            "acdirmax",
            "actimeo",
            "sec",
            "lock",
            "nolock",
            "local_lock",
            "cto",
            "nocto",
            "sharecache",
            "nosharecache",
            "resvport",
            "noresvport",
            "lookupcache",
            "migration",
            "nomigration",
            "nconnect",
            "max_connect",
            "trunkdiscovery",
            "notrunkdiscovery",
            "mountport",
            "mountproto",
            "mountvers",
            "rdirplus",
            "nordirplus",
            "acl",
            "noacl",
            "namlen",
            "bg",
            "fg",
            "sync",
            "fsc",
            "nofsc",
            "xprtsec",
        ],
    };

    /// Understands `fs_type`; empty is the driver's choice.
    ///
    /// # Errors
    /// [`Fault::Invalid`], with those there are.
    pub fn fs_type(self, name: &str) -> Result<Option<FsType>, Fault> {
        if name.is_empty() || self.network.contains(&name) {
            return Ok(None);
        }
        match FsType::parse(name) {
            Some(known) if self.network.is_empty() => Ok(Some(known)),
            _ if self.network.is_empty() => {
                Err(Fault::Invalid(format!("fs_type {name:?} is not one of ext4 and xfs")))
            }
            _ => Err(Fault::Invalid(format!("fs_type {name:?} is not {}", self.network.join(" or ")))),
        }
    }
}

/// Checked mount flags, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MountOptions(Vec<String>);

/// Flags that every mount can have; `None`: that is the default.
const ATTRIBUTES: &[(&str, Option<MountAttrFlags>)] = &[
    ("ro", Some(MountAttrFlags::MOUNT_ATTR_RDONLY)),
    ("nosuid", Some(MountAttrFlags::MOUNT_ATTR_NOSUID)),
    ("nodev", Some(MountAttrFlags::MOUNT_ATTR_NODEV)),
    ("noexec", Some(MountAttrFlags::MOUNT_ATTR_NOEXEC)),
    ("noatime", Some(MountAttrFlags::MOUNT_ATTR_NOATIME)),
    ("strictatime", Some(MountAttrFlags::MOUNT_ATTR_STRICTATIME)),
    ("nodiratime", Some(MountAttrFlags::MOUNT_ATTR_NODIRATIME)),
    ("nosymfollow", Some(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW)),
    ("defaults", None),
    ("rw", None),
    ("suid", None),
    ("exec", None),
    ("relatime", None),
    ("diratime", None),
];

impl MountOptions {
    /// Checks flags; several may be in one, with commas between them.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a flag that is not in the set.
    pub fn parse(flags: &[String], set: OptionSet) -> Result<Self, Fault> {
        let mut options = Vec::new();
        for flag in flags.iter().flat_map(|flag| flag.split(',')).filter(|flag| !flag.is_empty()) {
            let key = flag.split('=').next().unwrap_or(flag);
            let known = attribute(flag).is_some() || set.keys.contains(&key);
            if !known || flag.chars().any(char::is_control) {
                return Err(Fault::Invalid(format!("mount flag {flag:?} is not one this driver passes on")));
            }
            options.push(flag.to_owned());
        }
        Ok(Self(options))
    }

    /// The attributes of the mount.
    pub fn attributes(&self) -> MountAttrFlags {
        let mut attributes = MountAttrFlags::empty();
        for flag in self.0.iter().filter_map(|flag| attribute(flag)?.1) {
            if flag.intersects(MountAttrFlags::MOUNT_ATTR__ATIME) {
                attributes.remove(MountAttrFlags::MOUNT_ATTR__ATIME);
            }
            attributes |= flag;
        }
        attributes
    }

    /// What is given to the file system: keys, with values if they have one.
    pub fn settings(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().filter(|flag| attribute(flag).is_none()).map(|flag| match flag.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (flag.as_str(), None),
        })
    }

    /// Has `ro`.
    pub fn read_only(&self) -> bool {
        self.attributes().contains(MountAttrFlags::MOUNT_ATTR_RDONLY)
    }
}

fn attribute(flag: &str) -> Option<&'static (&'static str, Option<MountAttrFlags>)> {
    ATTRIBUTES.iter().find(|(name, _)| *name == flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<MountOptions, Fault> {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        MountOptions::parse(&flags, OptionSet::FILE_SYSTEM)
    }

    #[test]
    fn flags_go_where_they_belong() {
        let options = parse(&["ro,noatime", "discard", "commit=30"]).unwrap();
        assert_eq!(
            options.attributes(),
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME
        );
        assert!(options.read_only());
        assert_eq!(options.settings().collect::<Vec<_>>(), [("discard", None), ("commit", Some("30"))]);
    }

    #[test]
    fn the_last_kind_of_access_time_counts() {
        let options = parse(&["noatime", "strictatime"]).unwrap();
        assert_eq!(options.attributes(), MountAttrFlags::MOUNT_ATTR_STRICTATIME);
    }

    #[test]
    fn flags_that_lead_elsewhere_are_refused() {
        for flag in [
            "journal_path=/dev/vda",
            "logdev=/dev/vda",
            "rtdev=/dev/vda",
            "usrjquota=x",
            "bind",
            "a b",
            "data\n",
        ] {
            assert!(matches!(parse(&[flag]), Err(Fault::Invalid(_))), "{flag}");
        }
    }

    #[test]
    fn file_systems_by_set() {
        assert_eq!(OptionSet::FILE_SYSTEM.fs_type("ext4").unwrap(), Some(FsType::Ext4));
        assert!(OptionSet::FILE_SYSTEM.fs_type("nfs").is_err());
        assert_eq!(OptionSet::NFS.fs_type("nfs").unwrap(), None);
        assert!(OptionSet::NFS.fs_type("ext4").is_err());
    }
}
