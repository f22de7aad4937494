//! What each key of `[storage]` needs of an image: packages and modules that a profile can be asked about before
//! anything is built, programs and modules that must be found in the finished tree. One table for both, so that a
//! backend that gains a need gains both checks.

use super::model::Storage;

/// What one key of `[storage]` needs.
#[derive(Debug)]
pub struct Need {
    /// The key, below `storage`.
    pub key: &'static str,
    /// Whether the key is on.
    pub is_wanted: fn(&Storage) -> bool,
    /// Debian packages.
    pub packages: &'static [&'static str],
    /// Files that these packages bring, absolute paths: programs, and udev rules without which programs wait for ever.
    pub files: &'static [&'static str],
    /// Kernel modules, with underscores. They are loaded when first used.
    pub modules: &'static [&'static str],
}

/// libdevmapper waits for udev to say that a device is there; these rules say it.
const DM_RULES: &str = "/usr/lib/udev/rules.d/95-dm-notify.rules";

/// Everything that `[storage]` can need.
pub const NEEDS: &[Need] = &[
    Need {
        key: "local",
        is_wanted: |storage| storage.local,
        packages: &["e2fsprogs"],
        files: &["/usr/sbin/mkfs.ext4", "/usr/sbin/e2fsck", "/usr/sbin/resize2fs"],
        modules: &["loop", "quota_v2", "ext4"],
    },
    Need {
        key: "pools",
        is_wanted: Storage::has_pool_disks,
        packages: &["udev"],
        // Without them no disk has a name that lasts. What is made on it is storage.xfs' need.
        files: &["/usr/lib/udev/rules.d/60-persistent-storage.rules"],
        modules: &[],
    },
    Need {
        key: "nfs",
        is_wanted: |storage| storage.nfs,
        packages: &["nfs-common"],
        files: &["/usr/sbin/mount.nfs"],
        modules: &["nfs", "nfsv3", "nfsv4"],
    },
    Need {
        key: "iscsi",
        is_wanted: |storage| storage.iscsi,
        packages: &["open-iscsi", "e2fsprogs"],
        files: &[
            "/usr/sbin/iscsiadm",
            "/usr/sbin/iscsid",
            "/etc/iscsi/iscsid.conf",
            "/usr/sbin/mkfs.ext4",
            "/usr/sbin/e2fsck",
            "/usr/sbin/resize2fs",
        ],
        modules: &["iscsi_tcp", "sd_mod", "ext4"],
    },
    Need {
        key: "multipath",
        is_wanted: |storage| storage.multipath,
        packages: &["multipath-tools", "dmsetup"],
        files: &["/usr/sbin/multipathd", "/usr/sbin/multipath", "/usr/sbin/dmsetup", DM_RULES],
        modules: &["dm_multipath", "dm_service_time"],
    },
    Need {
        key: "encryption",
        is_wanted: |storage| storage.encryption,
        packages: &["cryptsetup-bin", "dmsetup"],
        files: &["/usr/sbin/cryptsetup", "/usr/sbin/dmsetup", DM_RULES],
        modules: &["dm_crypt"],
    },
    Need {
        key: "xfs",
        is_wanted: |storage| storage.xfs,
        packages: &["xfsprogs"],
        files: &["/usr/sbin/mkfs.xfs", "/usr/sbin/xfs_growfs"],
        modules: &["xfs"],
    },
];
