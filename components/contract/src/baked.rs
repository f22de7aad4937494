//! Images baked into the node image, under [`crate::paths::BAKED_IMAGES`].
//!
//! The builder unpacks every layer at build time; the runtime uses the directories in place as overlay lower
//! directories: no pull, no copy, and dm-verity covers every byte. Layout:
//!
//! ```text
//! index.json                this document
//! configs/<hex>             the OCI image configuration, byte for byte (its SHA-256 is the image id)
//! layers/<diff id hex>/     one unpacked layer; whiteouts as overlayfs wants them (0:0 character device,
//!                           trusted.overlay.opaque="y")
//! ```

use crate::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

/// `index.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakedIndex {
    /// Every image, ordered by first name.
    pub images: Vec<BakedImage>,
}

/// One image of the platform the node image is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakedImage {
    /// Full references, registry included: `cairn.local/probe:0.1.0`.
    pub names: Vec<String>,
    /// Digest of the OCI image configuration: the image id of CRI.
    pub config: Sha256Digest,
    /// Digest of the image manifest it came from; with a name's repository it forms a repo digest.
    pub manifest: Sha256Digest,
    /// Uncompressed-layer digests, lowest first. Directory `layers/<hex>`.
    pub layers: Vec<Sha256Digest>,
    /// Bytes of all unpacked files.
    pub size: u64,
}
