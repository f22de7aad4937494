//! `[storage]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Volumes that pods can use, served by the CSI driver. What each key needs of the image is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Volumes on the node's own disks: directories with a quota in the state partition, and disk images in files.
    pub local: bool,
    /// NFS volumes, NFSv4 and NFSv3.
    pub nfs: bool,
    /// iSCSI volumes.
    pub iscsi: bool,
    /// Several ways to one iSCSI volume, by dm-multipath.
    pub multipath: bool,
    /// LUKS2 encryption of volumes, with keys that the cluster keeps.
    pub encryption: bool,
    /// XFS on volumes that ask for it, besides ext4.
    pub xfs: bool,
}

impl Storage {
    /// Whether there are volumes of any kind, and so work for the driver.
    pub fn is_on(&self) -> bool {
        self.local || self.nfs || self.iscsi
    }

    /// Whether volumes are formatted: NFS volumes are not.
    pub fn formats(&self) -> bool {
        self.local || self.iscsi
    }
}
