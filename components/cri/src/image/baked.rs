//! Images that came with the node image.

use super::{Image, ImageSource, error::ImageError, manifest, reference::Reference};
use cairn_contract::{baked::BakedIndex, digest::Sha256Digest};
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

/// The baked images, as they are on the node's read-only file system.
#[derive(Debug, Default)]
pub(super) struct Baked {
    root: PathBuf,
    pub(super) images: Vec<Image>,
    layers: HashSet<Sha256Digest>,
}

impl Baked {
    /// Reads the index below `root`. Without an index there are no baked images.
    pub(super) fn load(root: &Path) -> Result<Self, ImageError> {
        let bad = |path: &Path, reason: &dyn std::fmt::Display| {
            ImageError::Baked(format!("{}: {reason}", path.display()))
        };
        let path = root.join("index.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(bad(&path, &error)),
        };
        let index: BakedIndex = serde_json::from_slice(&text).map_err(|error| bad(&path, &error))?;
        let mut baked = Self { root: root.to_owned(), ..Self::default() };
        for entry in index.images {
            let path = root.join("configs").join(entry.config.hex());
            let bytes = std::fs::read(&path).map_err(|error| bad(&path, &error))?;
            if Sha256Digest::new(Sha256::digest(&bytes).into()) != entry.config {
                return Err(bad(&path, &"its digest is not its name"));
            }
            let (config, _) = manifest::parse_config(&bytes).map_err(|error| bad(&path, &error))?;
            let (mut repo_tags, mut repo_digests) = (Vec::new(), Vec::new());
            for name in &entry.names {
                let reference: Reference =
                    name.parse().map_err(|error| bad(&root.join("index.json"), &error))?;
                if reference.digest().is_none() {
                    repo_tags.push(reference.to_string());
                }
                repo_digests.push(reference.at(entry.manifest).to_string());
            }
            repo_tags.sort();
            repo_digests.sort();
            repo_digests.dedup();
            for layer in &entry.layers {
                let path = root.join("layers").join(layer.hex());
                if !path.is_dir() {
                    return Err(bad(&path, &"the layer is missing"));
                }
                baked.layers.insert(*layer);
            }
            baked.images.push(Image {
                id: entry.config,
                repo_tags,
                repo_digests,
                size: entry.size,
                config,
                layers: entry.layers,
                annotations: std::collections::BTreeMap::new(),
                pinned: true,
                source: ImageSource::Baked,
            });
        }
        Ok(baked)
    }

    /// Is the image part of the node image?
    pub(super) fn contains(&self, id: &Sha256Digest) -> bool {
        self.images.iter().any(|image| image.id == *id)
    }

    /// A baked layer's directory.
    pub(super) fn layer(&self, diff_id: &Sha256Digest) -> Option<PathBuf> {
        self.layers.contains(diff_id).then(|| self.root.join("layers").join(diff_id.hex()))
    }
}
