//! `[disk]` and `[security]`

use crate::profile::value::{AbsolutePath, HostPath, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Partitions, compression and output formats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// EFI system partition. It must hold two UKIs, the old and the new one of an update.
    pub esp_size: Size,
    /// Root partition of each of the two slots; the root must fit, and its successors.
    pub slot_size: Size,
    /// Hash partition of each slot; without it, what a full slot needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verity_size: Option<Size>,
    /// Smallest state partition a node will start with; it is made at first boot and takes the rest of the disk.
    pub state_minimum: Size,
    /// zstd level of the root file system, 1 to 22.
    pub squashfs_level: u8,
    /// Block size of the root file system: a power of two from 4 KiB to 1 MiB. Larger compresses better, smaller
    /// reads less for each file.
    pub squashfs_block: Size,
    /// zstd level of the initramfs, 1 to 22.
    pub initrd_level: u8,
    /// Image files made.
    pub formats: Vec<OutputFormat>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            esp_size: Size::mib(128),
            slot_size: Size::mib(256),
            verity_size: None,
            state_minimum: Size::mib(512),
            squashfs_level: 15,
            squashfs_block: Size::bytes(128 << 10),
            initrd_level: 12,
            formats: vec![OutputFormat::Raw],
        }
    }
}

impl Disk {
    /// Size of each hash partition: as given, or what dm-verity (SHA-256, 4096-byte blocks, superblock in front)
    /// needs for a root that fills its slot, rounded up to 1 MiB.
    pub fn verity_partition(&self) -> Size {
        const BLOCK: u64 = 4096;
        const HASHES_PER_BLOCK: u64 = BLOCK / 32;
        if let Some(size) = self.verity_size {
            return size;
        }
        let mut level = self.slot_size.get().div_ceil(BLOCK);
        let mut blocks = 1;
        while level > 1 {
            level = level.div_ceil(HASHES_PER_BLOCK);
            blocks += level;
        }
        Size::bytes((blocks * BLOCK).next_multiple_of(1 << 20))
    }
}

/// Form of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// The disk, byte for byte, with holes.
    Raw,
    /// QEMU's format.
    Qcow2,
}

/// Who may talk to the node, and what it trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// What the serial and VGA consoles show. There is no login in either case.
    pub console: Console,
    /// The management API. It also needs a CA from the machine config to be on.
    pub api: Api,
    /// Programs that keep their setuid or setgid bit. All others lose it: nobody logs in, and root needs none.
    pub setuid: Vec<AbsolutePath>,
    /// Sign the UKI for Secure Boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<SecureBoot>,
}

/// What the consoles show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    /// Boot messages, then the node's name, addresses and state.
    #[default]
    Status,
    /// Nothing.
    None,
}

/// The management API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// gRPC; clients show a certificate of the machine config's CA.
    #[default]
    MutualTls,
    /// Off, whatever the machine config says.
    Off,
}

/// Keys for Secure Boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecureBoot {
    /// Private key, PEM (PKCS#8).
    pub key: HostPath,
    /// Its certificate, PEM.
    pub certificate: HostPath,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_partition_fits_a_full_slot() {
        for (slot, expected) in [(256, 3), (512, 5), (1024, 9)] {
            // 256 MiB: 65536 blocks, 512 + 4 + 1 hash blocks and the superblock: 2.02 MiB.
            let disk = Disk { slot_size: Size::mib(slot), ..Disk::default() };
            assert_eq!(disk.verity_partition(), Size::mib(expected), "{slot} MiB");
        }
        let disk = Disk { verity_size: Some(Size::mib(7)), ..Disk::default() };
        assert_eq!(disk.verity_partition(), Size::mib(7));
    }
}
