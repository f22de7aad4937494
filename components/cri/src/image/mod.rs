//! Images: where a container's root file system comes from.
//!
//! An image is a configuration (its SHA-256 is the image id) and an ordered list of layers. A layer is kept
//! unpacked, once, in a directory named by the digest of its uncompressed archive (`diff_id`), so two images that
//! share a layer share the directory whatever lies below it. [`ImageService::layers`] turns an image into the
//! overlayfs lower directories of a container.
//!
//! Two kinds of images look alike from outside: those **baked** into the node image (read-only, covered by
//! dm-verity, pinned, never pulled) and those **pulled** from a registry into the store. A pulled image that
//! contains a baked layer uses it in place.
//!
//! Where a byte goes: [`registry`] downloads it from the places [`hosts`] names, with credentials of the pull or of
//! the node's [`keyring`] (retrying, resuming, trying mirrors), [`layer`] hashes and inflates
//! it while it arrives, [`unpack`] writes it below a directory that a hostile archive cannot leave, [`store`]
//! makes the finished layer visible by one rename. A power cut leaves complete layers and an `ingest/` directory
//! that the next start empties.

mod auth;
mod baked;
mod catalog;
mod error;
mod fixup;
mod flight;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod heap;
mod hosts;
mod keyring;
mod layer;
mod manifest;
mod platform;
mod pull;
mod reference;
mod registry;
mod remove;
mod server;
mod store;
mod unpack;

pub use auth::{Auth, PullSecret};
pub use error::ImageError;
pub use reference::{InvalidReference, Reference};
pub use server::ImageServer;

use cairn_contract::{digest::Sha256Digest, runtime::RuntimeConfig};
use oci_spec::image::ImageConfiguration;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSource {
    /// Part of the node image: used in place, pinned.
    Baked,
    /// From a registry, in the store.
    Pulled,
}

/// One image. Immutable; a changed name makes a new value.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration: CRI's image id.
    pub id: Sha256Digest,
    /// Full references with tag, `docker.io/library/busybox:1.37`; sorted.
    pub repo_tags: Vec<String>,
    /// Full references with the digest of the manifest (of the index, for a multi-platform image); sorted.
    pub repo_digests: Vec<String>,
    /// Bytes of the unpacked layers.
    pub size: u64,
    /// Entry point, environment, user and so on.
    pub config: ImageConfiguration,
    /// Digests of the uncompressed layers, lowest first.
    pub layers: Vec<Sha256Digest>,
    /// Annotations of the manifest; none for baked images.
    pub annotations: BTreeMap<String, String>,
    /// Never to be garbage collected.
    pub pinned: bool,
    /// Baked or pulled.
    pub source: ImageSource,
}

/// What the image store occupies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// The store's directory; the file system it is on is the image file system.
    pub path: PathBuf,
    /// Bytes of pulled layers, manifests and configurations. Baked images cost nothing here.
    pub used_bytes: u64,
    /// Inodes of the same.
    pub inodes_used: u64,
}

/// Keeps an image's layers from removal while a container uses them; dropping it lets go.
///
/// Not recorded on disk: after a restart the owner of the containers takes its holds again, before the server
/// takes requests.
#[must_use = "the layers are held only as long as this lives"]
#[derive(Debug)]
pub struct ImageHold {
    image: Sha256Digest,
    service: Arc<pull::Inner>,
}

impl Drop for ImageHold {
    fn drop(&mut self) {
        self.service.catalog().release_image(&self.image);
    }
}

/// The image store and its registry client. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct ImageService {
    inner: Arc<pull::Inner>,
}

impl ImageService {
    /// Loads the store below `config.state` and the baked index, and heals what a crash left: half-made layers,
    /// records whose layers are gone, layers that no image uses.
    ///
    /// # Errors
    /// When the store's directories cannot be made or read, or the baked index is malformed.
    pub async fn open(config: &RuntimeConfig) -> Result<Self, ImageError> {
        Ok(Self { inner: Arc::new(pull::Inner::open(config.clone()).await?) })
    }

    /// The image with this id (`sha256:…`, its hex digits, or a prefix of them that fits only one), tag or digest
    /// reference. `busybox` means `docker.io/library/busybox:latest`.
    pub fn resolve(&self, reference_or_id: &str) -> Option<Arc<Image>> {
        self.inner.catalog().resolve(reference_or_id)
    }

    /// Every image, by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.catalog().list()
    }

    /// Makes `reference` present and returns it. A name that is baked in, or a digest that is present, costs no
    /// network. Concurrent pulls of one reference share one download; dropping the last of their futures stops
    /// it and leaves nothing behind.
    ///
    /// # Errors
    /// See [`ImageError`]; the store is unchanged then, save for complete layers kept for the next attempt until
    /// the next start or removal.
    pub async fn pull(&self, reference: &str, secret: Option<PullSecret>) -> Result<Arc<Image>, ImageError> {
        pull::pull(&self.inner, reference, secret).await
    }

    /// Removes the image that `reference` (or id) names, with all its names, and the layers nothing else uses.
    /// An unknown image is fine.
    ///
    /// # Errors
    /// [`ImageError::Pinned`] for a baked image that has no pulled names, [`ImageError::InUse`] while an
    /// [`ImageHold`] lives.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        pull::remove(&self.inner, reference).await
    }

    /// Overlayfs lower directories of `image`, **top first**.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        self.inner.lower_directories(image)
    }

    /// Keeps `image` from removal. `None` if it is already gone.
    pub fn hold(&self, image: &Image) -> Option<ImageHold> {
        let held = self.inner.catalog().hold_image(&image.id);
        held.then(|| ImageHold { image: image.id, service: Arc::clone(&self.inner) })
    }

    /// What the image store occupies now.
    pub fn fs_info(&self) -> FsUsage {
        self.inner.usage()
    }
}
