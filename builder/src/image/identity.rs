//! Identifiers that do not depend on chance: every UUID and salt is the hash of what it identifies.
//!
//! Two images of one version and profile have the same disk GUID, wherever they are built; the parts that tell
//! them apart (root hash, partition GUIDs of root and verity) come from the content itself.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What keeps our hashes apart from everybody else's.
const NAMESPACE: &str = "cairn/image/1";

/// Hashes a role of one version of one profile's image.
fn hash(profile: &str, version: &str, role: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [NAMESPACE, profile, version, role] {
        // Lengths keep ("ab", "c") and ("a", "bc") apart.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

/// The UUID (version 8, RFC 9562) of a role: `disk`, `esp`, `root-b`.
pub fn uuid(profile: &str, version: &str, role: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash(profile, version, role)[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The 32-byte salt of the hash tree.
pub fn salt(profile: &str, version: &str) -> Vec<u8> {
    hash(profile, version, "verity-salt").to_vec()
}

/// A FAT volume id.
pub fn volume_id(profile: &str, version: &str) -> u32 {
    let [a, b, c, d, ..] = hash(profile, version, "esp-volume");
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_versions_are_told_apart_and_nothing_else_matters() {
        assert_eq!(uuid("worker", "1", "disk"), uuid("worker", "1", "disk"));
        assert_ne!(uuid("worker", "1", "disk"), uuid("worker", "1", "esp"));
        assert_ne!(uuid("worker", "1", "disk"), uuid("worker1", "", "disk"));
        assert_eq!(uuid("worker", "1", "disk").get_version_num(), 8);
    }
}
