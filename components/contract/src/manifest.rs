//! `manifest.json`: what an image is made of, written by the builder beside the image and read by `verify`,
//! `inspect`, `test` and pipelines.

use crate::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

/// The form of [`Manifest`]; raised when a reader of the old form would misread the new one.
pub const MANIFEST_FORMAT: u32 = 1;

/// What one build made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// What the node itself also knows.
    pub release: ImageRelease,
    /// SHA-256 of the resolved profile and of the lock.
    pub inputs: Inputs,
    /// dm-verity root hash of the root file system, 64 hex digits.
    pub root_hash: String,
    /// Kernel command line in the UKI.
    pub command_line: String,
    /// Files beside the manifest.
    pub files: Vec<OutputFile>,
    /// GPT of the raw image, by first sector.
    pub partitions: Vec<Partition>,
    /// Debian packages, by name.
    pub packages: Vec<Package>,
    /// Our components, by name.
    pub components: Vec<Component>,
    /// Container images baked in, by first name.
    pub images: Vec<crate::baked::BakedImage>,
    /// Sizes that budgets speak of, in bytes.
    pub sizes: Sizes,
}

/// The part of the manifest that is also in the image, `/usr/lib/cairn/release.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRelease {
    /// Profile name.
    pub profile: String,
    /// Version of the image; slots are labelled `cairn_<version>`.
    pub version: String,
    /// Kernel release, as `uname -r` says.
    pub kernel: String,
    /// Debian suite.
    pub suite: String,
    /// Every timestamp in the image, seconds since 1970.
    pub source_date_epoch: u64,
    /// Architecture in Debian's terms: `amd64`.
    pub architecture: String,
}

/// Digests of what the build started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The fully resolved profile.
    pub profile: Sha256Digest,
    /// The lock file.
    pub lock: Sha256Digest,
}

/// One file of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputFile {
    /// File name, without directory.
    pub name: String,
    /// Length in bytes, holes included.
    pub size: u64,
    /// SHA-256 of the whole file, holes read as zeros.
    pub digest: Sha256Digest,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionRole {
    /// EFI system partition.
    Esp,
    /// Root file system, slot A.
    RootA,
    /// Hash tree, slot A.
    VerityA,
    /// Root file system, slot B.
    RootB,
    /// Hash tree, slot B.
    VerityB,
    /// Node state; present once the node has made it.
    State,
}

/// One GPT entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// What it is for.
    pub role: PartitionRole,
    /// GPT label.
    pub label: String,
    /// Partition type GUID, lower case.
    pub type_uuid: String,
    /// Partition GUID, lower case.
    pub uuid: String,
    /// First byte in the image.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the whole partition; absent for empty slots.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<Sha256Digest>,
}

/// One Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Binary package.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Source package, for licence and vulnerability look-ups.
    pub source: String,
    /// SHA-256 of the .deb.
    pub digest: Sha256Digest,
    /// Bytes of its files in the image.
    pub installed_size: u64,
}

/// One of our programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Crate name.
    pub name: String,
    /// Crate version.
    pub version: String,
    /// Path in the image.
    pub path: String,
    /// SHA-256 of the program.
    pub digest: Sha256Digest,
    /// Bytes.
    pub size: u64,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// The UKI.
    pub uki: u64,
    /// The compressed root file system.
    pub root: u64,
    /// Its hash tree.
    pub verity: u64,
    /// All files in the root, uncompressed.
    pub root_uncompressed: u64,
    /// The raw image, holes included.
    pub raw: u64,
    /// The raw image, blocks that are not holes.
    pub raw_allocated: u64,
}
