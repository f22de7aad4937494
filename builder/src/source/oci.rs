//! Container images to be baked into a node image.
//!
//! Read is an OCI image layout, a directory or an uncompressed tar archive of one. The answer is what
//! [`cairn_contract::baked`] wants to be laid out: the configuration byte for byte, and every layer as a tree with
//! overlayfs' whiteouts. Every blob is checked against its digest on the way, every layer against the
//! configuration's diff id. [`synthesize`] makes a one-layer image out of a tree.

use super::{
    archive::{self, ArchiveError, Compression, Whiteouts},
    cache::{Cache, StorageError},
    file::{self, FileError},
};
use crate::tree::{Content, Entries, Kind, Node};
use cairn_contract::digest::Sha256Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Annotation of an index's entry with the image's name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same, as containerd and others write it, with the registry.
const IMAGE_NAME: &str = "io.containerd.image.name";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Why a layout gives no images.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// Something in it is missing or wrong.
    #[error("{layout} is not an OCI image layout we can bake in: {why}")]
    Invalid {
        /// The layout.
        layout: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It has images, but none for this platform.
    #[error("{layout} has no image for linux/{architecture}")]
    OtherPlatform {
        /// The layout.
        layout: PathBuf,
        /// The OCI name of the architecture.
        architecture: String,
    },
    /// An archive is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The layout's directory cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The cache fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// One image of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name the layout gives it, if any.
    pub name: Option<String>,
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// Its digest: the image id.
    pub config_digest: Sha256Digest,
    /// Digest of the manifest.
    pub manifest_digest: Sha256Digest,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed archive.
    pub diff_id: Sha256Digest,
    /// Its files.
    pub tree: Entries,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Sha256Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Config {
    architecture: String,
    os: String,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Sha256Digest>,
}

/// Reads all images for `linux/<architecture>` (OCI's name: `amd64`) in a layout.
///
/// # Errors
/// It is no layout, damaged, or has nothing for this architecture.
pub fn read(cache: &Cache, path: &Path, architecture: &str) -> Result<Vec<Image>, OciError> {
    let meta = std::fs::metadata(path).map_err(StorageError::at(path))?;
    let tree = if meta.is_dir() { file::read(path)? } else { archive::read(path, Whiteouts::Literal)? };
    let layout = Layout { cache, path, tree };
    layout.images(architecture)
}

struct Layout<'l> {
    cache: &'l Cache,
    path: &'l Path,
    tree: Entries,
}

impl Layout<'_> {
    fn invalid(&self, why: String) -> OciError {
        OciError::Invalid { layout: self.path.to_owned(), why }
    }

    fn images(&self, architecture: &str) -> Result<Vec<Image>, OciError> {
        let index = self.content("index.json")?;
        let index: Index = self.parse("index.json", &archive::bytes(index)?)?;
        let mut images = Vec::new();
        for descriptor in &index.manifests {
            let name =
                [IMAGE_NAME, REF_NAME].iter().find_map(|key| descriptor.annotations.get(*key)).cloned();
            self.visit(descriptor, name.as_deref(), architecture, 0, &mut images)?;
        }
        if images.is_empty() {
            let (layout, architecture) = (self.path.to_owned(), architecture.to_owned());
            return Err(OciError::OtherPlatform { layout, architecture });
        }
        Ok(images)
    }

    /// Takes the image, or those of a nested index, that are for this platform.
    fn visit(
        &self,
        descriptor: &Descriptor,
        name: Option<&str>,
        architecture: &str,
        depth: u32,
        images: &mut Vec<Image>,
    ) -> Result<(), OciError> {
        let is_other = |platform: &Platform| platform.os != "linux" || platform.architecture != architecture;
        if descriptor.platform.as_ref().is_some_and(is_other) {
            return Ok(());
        }
        let bytes = self.blob(&descriptor.digest)?;
        if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
            if depth == 4 {
                return Err(self.invalid("its indexes are nested too deeply".to_owned()));
            }
            let index: Index = self.parse("an index", &bytes)?;
            for inner in &index.manifests {
                self.visit(inner, name, architecture, depth + 1, images)?;
            }
            return Ok(());
        }
        let manifest: Manifest = self.parse("a manifest", &bytes)?;
        let config_bytes = self.blob(&manifest.config.digest)?;
        let config: Config = self.parse("a configuration", &config_bytes)?;
        if config.os != "linux" || config.architecture != architecture {
            return Ok(());
        }
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(
                self.invalid("manifest and configuration disagree on the number of layers".to_owned())
            );
        }
        let layers = config.rootfs.diff_ids.iter().zip(&manifest.layers);
        images.push(Image {
            name: name.map(str::to_owned),
            config_digest: manifest.config.digest,
            config: config_bytes,
            manifest_digest: descriptor.digest,
            layers: layers.map(|(diff_id, layer)| self.layer(*diff_id, layer)).collect::<Result<_, _>>()?,
        });
        Ok(())
    }

    fn layer(&self, diff_id: Sha256Digest, descriptor: &Descriptor) -> Result<Layer, OciError> {
        let compression = match descriptor.media_type.rsplit(['.', '+']).next() {
            Some("tar") => Compression::None,
            Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            _ => return Err(self.invalid(format!("layers of type {} are not known", descriptor.media_type))),
        };
        let content = self.content(&blob_path(&descriptor.digest))?;
        let path = archive::unpacked(self.cache, &diff_id, |out| {
            let mut compressed = Hashing::new(open(content)?);
            let mut uncompressed = Hashing::new(compression.reader(&mut compressed)?);
            io::copy(&mut uncompressed, out)?;
            let found = uncompressed.digest();
            drop(uncompressed);
            io::copy(&mut compressed, &mut io::sink())?;
            if compressed.digest() != descriptor.digest || found != diff_id {
                return Err(io::Error::other(format!(
                    "layer {} is not what its digests say",
                    descriptor.digest
                )));
            }
            Ok(())
        })
        .map_err(|error| match error {
            ArchiveError::Damaged { source, .. } => self.invalid(source.to_string()),
            other => other.into(),
        })?;
        Ok(Layer { diff_id, tree: archive::read(&path, Whiteouts::Overlay)? })
    }

    fn content(&self, path: &str) -> Result<&Content, OciError> {
        let names: Vec<_> = path.split('/').map(|name| name.as_bytes().to_vec()).collect();
        match archive::find(&self.tree, &names) {
            Some(Node { kind: Kind::File(content), .. }) => Ok(content),
            _ => Err(self.invalid(format!("it has no {path}"))),
        }
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Vec<u8>, OciError> {
        let bytes = archive::bytes(self.content(&blob_path(digest))?)?;
        let found = Sha256Digest::new(Sha256::digest(&bytes).into());
        if found == *digest {
            Ok(bytes)
        } else {
            Err(self.invalid(format!("blob {digest} has digest {found}")))
        }
    }

    fn parse<T: DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, OciError> {
        serde_json::from_slice(bytes).map_err(|error| self.invalid(format!("{what} is malformed: {error}")))
    }
}

fn blob_path(digest: &Sha256Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn open(content: &Content) -> io::Result<Box<dyn Read + '_>> {
    Ok(match content {
        Content::Bytes(bytes) => Box::new(&bytes[..]),
        Content::Range { path, offset, length } => {
            let mut file = File::open(path.as_path())?;
            file.seek(SeekFrom::Start(*offset))?;
            Box::new(io::BufReader::with_capacity(1 << 16, file).take(*length))
        }
    })
}

/// A stream that is hashed as it passes.
struct Hashing<S> {
    stream: S,
    hash: Sha256,
}

impl<S> Hashing<S> {
    fn new(stream: S) -> Self {
        Self { stream, hash: Sha256::new() }
    }

    fn digest(&self) -> Sha256Digest {
        Sha256Digest::new(self.hash.clone().finalize().into())
    }
}

impl<S: Read> Read for Hashing<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

impl<S: Write> Write for Hashing<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.stream.write(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Makes a one-layer image for `linux/<architecture>` out of a tree.
///
/// `process` is the `config` object of the OCI image configuration (`Entrypoint`, `User`, …). The same arguments
/// give the same digests anywhere: nothing has a time but `epoch` (seconds since 1970).
///
/// # Errors
/// A file of the tree cannot be read.
pub fn synthesize(
    name: &str,
    tree: Entries,
    process: &serde_json::Value,
    architecture: &str,
    epoch: u64,
) -> Result<Image, OciError> {
    let mut layer = Hashing::new(Counting { bytes: 0 });
    write_layer(&tree, epoch, &mut layer).map_err(StorageError::at(Path::new(name)))?;
    let diff_id = layer.digest();
    // serde_json orders the keys of its maps.
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": process,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    })
    .to_string()
    .into_bytes();
    let config_digest = Sha256Digest::new(Sha256::digest(&config).into());
    let descriptor = |media_type: &str, digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: Default::default(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: descriptor(CONFIG, config_digest, config.len() as u64),
        layers: vec![descriptor(LAYER, diff_id, layer.stream.bytes)],
    };
    let manifest =
        serde_json::to_vec(&manifest).map_err(io::Error::from).map_err(StorageError::at(Path::new(name)))?;
    Ok(Image {
        name: Some(name.to_owned()),
        config,
        config_digest,
        manifest_digest: Sha256Digest::new(Sha256::digest(&manifest).into()),
        layers: vec![Layer { diff_id, tree }],
    })
}

/// Takes bytes and keeps their number.
struct Counting {
    bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.bytes += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a tree as a layer: a tar archive, sorted, with one time for everything.
///
/// # Errors
/// A file cannot be read, or the output not written.
pub fn write_layer(tree: &Entries, epoch: u64, output: &mut impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(output);
    write_entries(tree, "", epoch, &mut builder)?;
    builder.finish()
}

fn write_entries(
    entries: &Entries,
    prefix: &str,
    epoch: u64,
    builder: &mut tar::Builder<&mut impl Write>,
) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    for (name, node) in entries {
        let name = std::str::from_utf8(name).map_err(io::Error::other)?;
        let path = format!("{prefix}{name}");
        let mut header = tar::Header::new_gnu();
        header.set_mode(u32::from(node.meta.mode));
        header.set_uid(u64::from(node.meta.uid));
        header.set_gid(u64::from(node.meta.gid));
        header.set_mtime(epoch);
        header.set_size(0);
        if !node.meta.xattrs.is_empty() {
            let records = node.meta.xattrs.iter().map(|(name, value)| {
                let name = std::str::from_utf8(name).map_err(io::Error::other)?;
                Ok((format!("SCHILY.xattr.{name}"), value.as_slice()))
            });
            let records = records.collect::<io::Result<Vec<_>>>()?;
            builder.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value)))?;
        }
        let mut device = |kind, major, minor| {
            header.set_entry_type(kind);
            header.set_device_major(major)?;
            header.set_device_minor(minor)
        };
        match &node.kind {
            Kind::Directory(_) => header.set_entry_type(tar::EntryType::Directory),
            Kind::File(content) => header.set_size(content.len()),
            Kind::Symlink(_) => header.set_entry_type(tar::EntryType::Symlink),
            Kind::CharDevice { major, minor } => device(tar::EntryType::Char, *major, *minor)?,
            Kind::BlockDevice { major, minor } => device(tar::EntryType::Block, *major, *minor)?,
            Kind::Fifo => header.set_entry_type(tar::EntryType::Fifo),
        }
        match &node.kind {
            Kind::Directory(children) => {
                let path = format!("{path}/");
                builder.append_data(&mut header, &path, io::empty())?;
                write_entries(children, &path, epoch, builder)?;
            }
            Kind::File(content) => builder.append_data(&mut header, &path, open(content)?)?,
            Kind::Symlink(target) => {
                builder.append_link(&mut header, &path, std::ffi::OsStr::from_bytes(target))?;
            }
            _ => builder.append_data(&mut header, &path, io::empty())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
