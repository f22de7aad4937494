//! Reads files out of the root file system of an image, without mounting it.

use super::Image;
use crate::error::{Error, Fault, UserError};
use backhand::{FilesystemReader, InnerNode, Node, SquashfsFileReader};
use cairn_contract::{
    baked::{BakedImage, BakedIndex},
    digest::Sha256Digest,
    manifest::PartitionRole,
    paths,
    storage::{BackendKind, StorageConfig},
};
use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

/// Repository under which the probe image is baked in.
const PROBE: &str = "cairn.local/probe";
/// Its program, should the image name no entry point.
const DEFAULT_PROGRAM: &str = "/cairn-probe";

/// A file of a baked-in layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// Path in the container, without the leading `/`.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub kind: LayerFileKind,
}

/// Its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerFileKind {
    /// A directory.
    Directory,
    /// Bytes.
    File(Vec<u8>),
    /// A link to that.
    Link(PathBuf),
}

/// The probe as it is in the image: the program that containers in scenarios run, and how it is started.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Full reference, `cairn.local/probe:0.1.0`.
    pub reference: String,
    /// CRI image id.
    pub id: Sha256Digest,
    /// The OCI image configuration, byte for byte.
    pub config: Vec<u8>,
    /// Files of all layers, lowest first.
    pub files: Vec<LayerFile>,
}

impl Probe {
    /// The `config` object of the image configuration.
    pub fn run_config(&self) -> serde_json::Value {
        let config: serde_json::Value = serde_json::from_slice(&self.config).unwrap_or_default();
        config.get("config").cloned().unwrap_or_default()
    }

    /// Path of the program in the container, for commands run in it.
    pub fn program(&self) -> String {
        let config = self.run_config();
        config
            .pointer("/Entrypoint/0")
            .and_then(serde_json::Value::as_str)
            .unwrap_or(DEFAULT_PROGRAM)
            .to_owned()
    }
}

/// The root file system of `image`.
pub struct Root<'a> {
    reader: FilesystemReader<'a>,
    path: PathBuf,
}

impl Root<'_> {
    /// Opens slot A of the disk.
    pub fn open(image: &Image) -> Result<Self, Error> {
        let partition = image.partition(PartitionRole::RootA)?;
        let file = File::open(&image.raw).map_err(Fault::io(format!("read {}", image.raw.display())))?;
        let reader = FilesystemReader::from_reader_with_offset(BufReader::new(file), partition.offset);
        let reader = reader.map_err(|error| UserError::BadImage {
            path: image.raw.clone(),
            reason: format!("the root file system at byte {} cannot be read: {error}", partition.offset),
        })?;
        Ok(Self { reader, path: image.raw.clone() })
    }

    /// The probe image.
    pub fn probe(&self) -> Result<Probe, Error> {
        let base = Path::new(paths::BAKED_IMAGES);
        let index = self.read(&base.join("index.json"))?;
        let index: BakedIndex = serde_json::from_slice(&index)
            .map_err(|error| self.bad(format!("{}/index.json: {error}", base.display())))?;
        let (image, reference) = find_probe(&index).ok_or_else(|| {
            self.bad(format!("no image {PROBE} is baked in; scenarios run their containers from it"))
        })?;
        let mut files = Vec::new();
        for layer in &image.layers {
            self.layer(&base.join("layers").join(layer.hex()), &mut files)?;
        }
        let config = self.read(&base.join("configs").join(image.config.hex()))?;
        Ok(Probe { reference, id: image.config, config, files })
    }

    /// The kinds of volumes that its CSI driver serves; none if it has no driver.
    pub fn volumes(&self) -> Result<Vec<BackendKind>, Error> {
        let path = Path::new(paths::CSI_CONFIG);
        if !self.reader.files().any(|node| node.fullpath == path) {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&self.read(path)?).into_owned();
        let config: StorageConfig =
            toml::from_str(&text).map_err(|error| self.bad(format!("{}: {error}", path.display())))?;
        Ok(config.backends)
    }

    fn layer(&self, directory: &Path, files: &mut Vec<LayerFile>) -> Result<(), Error> {
        for node in self.reader.files() {
            let Ok(path) = node.fullpath.strip_prefix(directory) else { continue };
            if path.as_os_str().is_empty() {
                continue;
            }
            let kind = match &node.inner {
                InnerNode::Dir(_) => LayerFileKind::Directory,
                InnerNode::File(file) => LayerFileKind::File(self.content(node, file)?),
                InnerNode::Symlink(link) => LayerFileKind::Link(link.link.clone()),
                // Whiteouts; the probe has one layer and nothing to hide.
                _ => continue,
            };
            files.push(LayerFile { path: path.to_owned(), mode: u32::from(node.header.permissions), kind });
        }
        Ok(())
    }

    /// A file's content by its path in the image.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let node = self.reader.files().find(|node| node.fullpath == path);
        match node.map(|node| (node, &node.inner)) {
            Some((node, InnerNode::File(file))) => self.content(node, file),
            _ => Err(self.bad(format!("{} is not in the root file system", path.display()))),
        }
    }

    /// Offset in the file system of the first data block of a file that is larger than a block.
    pub fn first_block(&self, path: &Path) -> Result<u64, Error> {
        let node = self.reader.files().find(|node| node.fullpath == path);
        match node.map(|node| &node.inner) {
            Some(InnerNode::File(file)) if !file.block_sizes().is_empty() => Ok(file.blocks_start()),
            _ => Err(self.bad(format!("{} is no file with data blocks of its own", path.display()))),
        }
    }

    fn content(&self, node: &Node<SquashfsFileReader>, file: &SquashfsFileReader) -> Result<Vec<u8>, Error> {
        let mut content = Vec::with_capacity(file.file_len());
        let read = self.reader.file(file).reader().read_to_end(&mut content);
        read.map_err(|error| self.bad(format!("{} cannot be read: {error}", node.fullpath.display())))?;
        Ok(content)
    }

    fn bad(&self, reason: String) -> Error {
        UserError::BadImage { path: self.path.clone(), reason }.into()
    }
}

fn find_probe(index: &BakedIndex) -> Option<(&BakedImage, String)> {
    index.images.iter().find_map(|image| {
        let name = image
            .names
            .iter()
            .find(|name| name.rsplit_once(':').is_some_and(|(repository, _)| repository == PROBE));
        name.map(|name| (image, name.clone()))
    })
}
