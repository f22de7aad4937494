//! Container images made in memory, byte for byte the same every time.

use cairn_contract::digest::Sha256Digest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{self, Write};

/// Media types of the OCI image specification, 1.1.
pub mod media {
    /// Image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Layer, zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Layer, uncompressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Bytes with a media type, addressed by their digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Media type.
    pub media_type: &'static str,
    /// SHA-256 of `bytes`.
    pub digest: Sha256Digest,
    /// Content.
    pub bytes: bytes::Bytes,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: sha256(&bytes), bytes: bytes.into() }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(bytes).into())
}

/// One layer being written. Entries keep their order; owner is root, time is 1970.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("bytes", &self.tar.get_ref().len()).finish()
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<Self> {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// Adds a directory.
    pub fn directory(mut self, path: &str, mode: u32) -> io::Result<Self> {
        let mut header = header(tar::EntryType::Directory, mode);
        self.tar.append_data(&mut header, format!("{}/", path.trim_end_matches('/')), io::empty())?;
        Ok(self)
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> io::Result<Self> {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Hides a file or directory of the layers below (OCI layer specification, "Whiteouts").
    pub fn whiteout(self, path: &str) -> io::Result<Self> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let separator = if directory.is_empty() { "" } else { "/" };
        self.file(&format!("{directory}{separator}.wh.{name}"), 0o644, b"")
    }

    /// Hides everything that layers below have in a directory.
    pub fn opaque(self, directory: &str) -> io::Result<Self> {
        self.file(&format!("{directory}/.wh..wh..opq"), 0o644, b"")
    }

    /// Packs it. Returns the blob and the digest of the uncompressed tar.
    fn finish(self, compression: Compression) -> io::Result<(Blob, Sha256Digest)> {
        let tar = self.tar.into_inner()?;
        let diff_id = sha256(&tar);
        let blob = match compression {
            Compression::None => Blob::new(media::LAYER, tar),
            Compression::Gzip => {
                // Without name and time in the header: deterministic.
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar)?;
                Blob::new(media::LAYER_GZIP, encoder.finish()?)
            }
            Compression::Zstd => Blob::new(media::LAYER_ZSTD, zstd::encode_all(&*tar, 3)?),
        };
        Ok((blob, diff_id))
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Collects layers and configuration.
#[derive(Debug)]
pub struct ImageBuilder {
    architecture: &'static str,
    config: Value,
    layers: Vec<(Blob, Sha256Digest)>,
}

impl ImageBuilder {
    /// For Linux on `architecture` (OCI's name: `amd64`).
    pub fn new(architecture: &'static str) -> Self {
        Self { architecture, config: json!({}), layers: Vec::new() }
    }

    /// The `config` object of the image configuration: `Entrypoint`, `Env`, `User`, …
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Adds a layer on top.
    pub fn layer(mut self, layer: Layer, compression: Compression) -> io::Result<Self> {
        self.layers.push(layer.finish(compression)?);
        Ok(self)
    }

    /// The image.
    pub fn build(self) -> SyntheticImage {
        let diff_ids: Vec<_> = self.layers.iter().map(|(_, diff_id)| diff_id).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": [],
        });
        let config = Blob::new(media::CONFIG, config.to_string().into_bytes());
        let layers: Vec<_> = self.layers.into_iter().map(|(blob, _)| blob).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(media::MANIFEST, manifest.to_string().into_bytes());
        SyntheticImage { architecture: self.architecture, manifest, config, layers }
    }
}

/// A finished image of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntheticImage {
    architecture: &'static str,
    /// Manifest.
    pub manifest: Blob,
    /// Configuration; its digest is the image id of CRI.
    pub config: Blob,
    /// Layers, lowest first.
    pub layers: Vec<Blob>,
}

/// An image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntheticIndex {
    /// The index.
    pub index: Blob,
    /// What it points to.
    pub images: Vec<SyntheticImage>,
}

impl SyntheticIndex {
    /// Points to `images`, in that order.
    pub fn new(images: Vec<SyntheticImage>) -> Self {
        let manifests: Vec<_> = images
            .iter()
            .map(|image| {
                let mut descriptor = image.manifest.descriptor();
                descriptor["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
                descriptor
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests });
        Self { index: Blob::new(media::INDEX, index.to_string().into_bytes()), images }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn image() -> SyntheticImage {
        let base = Layer::new().directory("data", 0o755).unwrap().file("data/keep", 0o644, b"kept").unwrap();
        let top = Layer::new()
            .whiteout("data/gone")
            .unwrap()
            .opaque("data/dir")
            .unwrap()
            .link("data/l", "keep")
            .unwrap();
        ImageBuilder::new("amd64")
            .config(json!({ "Entrypoint": ["/probe"] }))
            .layer(base, Compression::Gzip)
            .unwrap()
            .layer(top, Compression::Zstd)
            .unwrap()
            .build()
    }

    #[test]
    fn the_same_image_twice_is_the_same_bytes() {
        assert_eq!(image(), image());
        assert_eq!(SyntheticIndex::new(vec![image()]), SyntheticIndex::new(vec![image()]));
    }

    #[test]
    fn diff_ids_are_digests_of_the_unpacked_layers() {
        let image = image();
        let config: Value = serde_json::from_slice(&image.config.bytes).unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&*image.layers[0].bytes).read_to_end(&mut tar).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&tar).to_string());
        let tar = zstd::decode_all(&*image.layers[1].bytes).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][1], sha256(&tar).to_string());
        let names: Vec<_> = tar::Archive::new(&*tar)
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["data/.wh.gone", "data/dir/.wh..wh..opq", "data/l"]);
    }
}
