//! `[storage]`

use cairn_contract::storage::Pool;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Volumes that pods can use, served by the CSI driver. What each key needs of the image is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Volumes on the node's own disks: directories with a quota, and disk images in files.
    pub local: bool,
    /// NFS volumes, NFSv4 and NFSv3.
    pub nfs: bool,
    /// iSCSI volumes.
    pub iscsi: bool,
    /// Several ways to one iSCSI volume, by dm-multipath.
    pub multipath: bool,
    /// LUKS2 encryption of volumes, with keys that the cluster keeps.
    pub encryption: bool,
    /// XFS on volumes that ask for it, besides ext4, and on disks with pools.
    pub xfs: bool,
    /// Places for local volumes, as in the driver's own configuration. The first is the default one, a StorageClass names
    /// another by its parameter `pool`. Without any there is one, `state`, in the state partition. The machine config
    /// may have others in their place, for one machine: `[[storage.pools]]` with the same keys.
    #[schemars(schema_with = "pools_schema")]
    pub pools: Vec<Pool>,
    /// Address and port that serve the driver's Prometheus metrics at `/metrics`, without authentication. The machine
    /// config may have another: `storage.metrics_address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "metrics_address_schema")]
    pub metrics_address: Option<SocketAddr>,
}

fn metrics_address_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "examples": ["127.0.0.1:10098"] })
}

/// [`Pool`] is the driver's; a test holds this to it.
fn pools_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": false,
            "required": ["name"],
            "properties": {
                "name": {
                    "type": "string", "pattern": "^[A-Za-z0-9-]{1,63}$", "examples": ["fast"],
                    "description": "What StorageClasses call it.",
                },
                "device": {
                    "type": "string", "examples": ["/dev/disk/by-id/nvme-eui.00253851"],
                    "description": "A disk of its own, which the driver mounts and, if it is blank, makes into XFS (wants `storage.xfs`). By a name below `/dev/disk/by-*` that is the same at every boot. A node whose disk is missing boots all the same. Absent: the pool is on the state partition.",
                },
                "path": {
                    "type": "string", "examples": ["/var/lib/cairn/volumes"],
                    "description": "Its directory, below `/var/lib`; everything in it is the driver's. Absent: `/var/lib/cairn/pools/<name>` with a device, `/var/lib/cairn/volumes` without.",
                },
                "quota": {
                    "type": "string", "enum": ["enforced", "off"], "default": "enforced",
                    "description": "Whether directory volumes are held to their size by project quotas, or may fill the pool.",
                },
                "limit_bytes": {
                    "type": "integer", "minimum": 1_048_576,
                    "description": "Bytes that volumes and snapshots may be promised together. Absent: what the file system has.",
                },
            },
        },
    })
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

    /// Whether a pool has a disk of its own.
    pub fn has_pool_disks(&self) -> bool {
        self.pools.iter().any(|pool| pool.device.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_schema_of_pools_has_the_drivers_keys_and_defaults() {
        let schema = pools_schema(&mut schemars::SchemaGenerator::default()).to_value();
        let keys = &schema["items"]["properties"];
        let whole = json!({ "name": "a", "path": "/a", "device": "/dev/a", "quota": "off", "limit_bytes": 1_048_576 });
        let pool: Pool = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!(serde_json::to_value(pool).unwrap(), whole);
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(keys), names(&whole));
        let least: Pool = serde_json::from_value(json!({ "name": "a" })).unwrap();
        assert_eq!(serde_json::to_value(least.quota).unwrap(), keys["quota"]["default"]);
        for quota in keys["quota"]["enum"].as_array().unwrap() {
            serde_json::from_value::<Pool>(json!({ "name": "a", "quota": quota })).unwrap();
        }
    }
}
