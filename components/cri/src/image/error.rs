//! What can go wrong with images, by whose fault it is.

use super::{
    hosts::HostsError, keyring::KeyringError, manifest::ManifestError, reference::InvalidReference,
    unpack::UnpackError,
};
use cairn_contract::digest::Sha256Digest;
use std::{fmt, io, path::Path, sync::Arc};

/// Why an image operation failed. Cloneable, because pulls that share a download share its failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The caller's text is no image reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A `hosts.toml` is malformed or names a file that cannot be read.
    #[error(transparent)]
    Hosts(#[from] Arc<HostsError>),
    /// The node's file of credentials cannot be used.
    #[error(transparent)]
    Keyring(#[from] Arc<KeyringError>),
    /// The baked index or one of its files is malformed: the node image itself is wrong.
    #[error("baked images: {0}")]
    Baked(String),
    /// No endpoint has the image.
    #[error("{reference}: not found: {detail}")]
    NotFound {
        /// What was asked for.
        reference: String,
        /// What each endpoint said.
        detail: String,
    },
    /// An endpoint wants other credentials.
    #[error("{reference}: access denied, check the pull secret or registry_auth: {detail}")]
    Denied {
        /// What was asked for.
        reference: String,
        /// What each endpoint said.
        detail: String,
    },
    /// Every endpoint failed in a way that may pass.
    #[error("{reference}: no registry could serve it: {detail}")]
    Unavailable {
        /// What was asked for.
        reference: String,
        /// What each endpoint said.
        detail: String,
    },
    /// Bytes stopped coming.
    #[error(
        "{what}: no byte received for {seconds} s (pull_progress_timeout_seconds); check the network to {host}"
    )]
    Stalled {
        /// What was being fetched.
        what: String,
        /// From where.
        host: String,
        /// The deadline.
        seconds: u64,
    },
    /// What was received is not what its name promises.
    #[error("{what}: wrong content from {host}: expected {expected}, received {actual}")]
    Mismatch {
        /// What was fetched.
        what: String,
        /// From where.
        host: String,
        /// The promise: a digest or a size.
        expected: String,
        /// The reality.
        actual: String,
    },
    /// A manifest, index or configuration that cannot be used.
    #[error("{reference}: {source}")]
    Manifest {
        /// Which image.
        reference: String,
        /// What is wrong with it.
        source: Arc<ManifestError>,
    },
    /// A layer that cannot be unpacked.
    #[error("layer {layer}: {source}")]
    Unpack {
        /// The layer's blob.
        layer: Sha256Digest,
        /// What is wrong.
        source: Arc<UnpackError>,
    },
    /// The image is part of the node image.
    #[error(
        "image {0} is baked into the node image and cannot be removed; build an image without it instead"
    )]
    Pinned(Sha256Digest),
    /// A container uses the image.
    #[error("image {0} is in use by a container; remove the container first")]
    InUse(Sha256Digest),
    /// The store's file system failed.
    #[error("image store: {what}: {source}")]
    Io {
        /// Operation and path.
        what: String,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A background task ended without a result: the runtime is shutting down, or it panicked.
    #[error("image store: {0} was interrupted")]
    Interrupted(&'static str),
}

impl ImageError {
    /// For `map_err`: names the operation and the path.
    pub(super) fn io<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what: format!("{what} {}", path.display()), source: Arc::new(source) }
    }
}

/// Everything an error and its causes say, in one line: reqwest hides the interesting part in the causes.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
