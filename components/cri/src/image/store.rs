//! The store on disk. Blocking; called from `spawn_blocking`.
//!
//! ```text
//! images/<config hex>.json   one record per pulled image: names, layers, content
//! content/<hex>              manifests and configurations, byte for byte
//! layers/<diff id hex>/      fs/: the unpacked layer; layer.json: what it amounts to
//! fixups/<config hex>/fs/    see [`super::fixup`]
//! ingest/                    everything half-made or half-removed; emptied at start
//! ```
//!
//! Nothing appears under its final name before it is complete and on the disk: it is written in `ingest/`, synced,
//! and renamed. So whatever is there after a power cut is whole.

use super::{error::ImageError, remove::remove_all, unpack::Unpacked};
use cairn_contract::digest::Sha256Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// One pulled image, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Configuration digest; also the file name.
    pub(super) config: Sha256Digest,
    /// Manifests and configuration in the content store.
    pub(super) content: Vec<Sha256Digest>,
    /// Diff ids, lowest first.
    pub(super) layers: Vec<Sha256Digest>,
    /// Bytes of file contents.
    pub(super) size: u64,
    /// Full references with tag, and when each was given: of two records that claim a tag, the later is right.
    pub(super) tags: BTreeMap<String, u64>,
    /// Full references with digest.
    pub(super) digests: Vec<String>,
    /// The manifest's annotations.
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// What a stored layer amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerInfo {
    pub(super) size: u64,
    pub(super) disk: u64,
    pub(super) inodes: u64,
    /// Directories the archive did not describe.
    #[serde(default)]
    pub(super) implicit: Vec<PathBuf>,
}

impl From<Unpacked> for LayerInfo {
    fn from(unpacked: Unpacked) -> Self {
        // JSON has no words for paths that are not UTF-8; those keep their plain attributes.
        let implicit = unpacked.implicit.into_iter().filter(|path| path.to_str().is_some()).collect();
        Self { size: unpacked.size, disk: unpacked.disk, inodes: unpacked.inodes, implicit }
    }
}

/// What was found at start.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) records: Vec<(Record, Vec<u8>)>,
    pub(super) layers: BTreeMap<Sha256Digest, LayerInfo>,
}

/// The store's directory.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    next: AtomicU64,
}

/// A directory in `ingest/`, removed when dropped unless it was committed.
#[derive(Debug)]
pub(super) struct Ingest {
    path: PathBuf,
    committed: bool,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = remove_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove; the next start will");
        }
    }
}

impl Ingest {
    /// Where the layer's files go.
    pub(super) fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }
}

impl Store {
    /// Opens the store, empties `ingest/`, and reads what is there. Records that cannot be used are removed.
    pub(super) fn open(root: &Path) -> Result<(Self, Inventory), ImageError> {
        for name in ["", "images", "content", "layers", "fixups", "ingest"] {
            let path = root.join(name);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(ImageError::io("create", &path))?;
        }
        let store = Self { root: root.to_owned(), next: AtomicU64::new(0) };
        for path in list(&root.join("ingest"))? {
            remove_all(&path).map_err(ImageError::io("remove", &path))?;
        }
        let mut inventory = Inventory::default();
        for path in list(&root.join("layers"))? {
            match (digest_of(&path), store.read_layer_info(&path)) {
                (Some(digest), Some(info)) => {
                    inventory.layers.insert(digest, info);
                }
                _ => store.discard(&path, "it is no complete layer"),
            }
        }
        for path in list(&root.join("images"))? {
            match store.read_record(&path) {
                Ok(found) => inventory.records.push(found),
                Err(reason) => store.discard(&path, &reason),
            }
        }
        Ok((store, inventory))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn read_layer_info(&self, path: &Path) -> Option<LayerInfo> {
        let text = fs::read(path.join("layer.json")).ok()?;
        let info = serde_json::from_slice(&text).ok()?;
        path.join("fs").is_dir().then_some(info)
    }

    /// A record and its configuration's bytes.
    fn read_record(&self, path: &Path) -> Result<(Record, Vec<u8>), String> {
        let text = fs::read(path).map_err(|error| error.to_string())?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let config =
            fs::read(self.content(record.config)).map_err(|error| format!("configuration: {error}"))?;
        if Sha256Digest::new(Sha256::digest(&config).into()) != record.config {
            return Err("its configuration is damaged".to_owned());
        }
        Ok((record, config))
    }

    fn content(&self, digest: Sha256Digest) -> PathBuf {
        self.root.join("content").join(digest.hex())
    }

    fn record(&self, config: Sha256Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", config.hex()))
    }

    fn layer(&self, diff_id: Sha256Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// Where a stored layer's files are.
    pub(super) fn layer_fs(&self, diff_id: Sha256Digest) -> PathBuf {
        self.layer(diff_id).join("fs")
    }

    fn fixup(&self, config: Sha256Digest) -> PathBuf {
        self.root.join("fixups").join(config.hex())
    }

    /// Where an image's corrected directories are, if it has any.
    pub(super) fn fixup_fs(&self, config: Sha256Digest) -> Option<PathBuf> {
        let path = self.fixup(config).join("fs");
        path.is_dir().then_some(path)
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("ingest").join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A new directory to unpack into.
    pub(super) fn ingest(&self) -> Result<Ingest, ImageError> {
        let ingest = Ingest { path: self.temporary(), committed: false };
        let fs = ingest.fs();
        fs::create_dir_all(&fs).map_err(ImageError::io("create", &fs))?;
        fs::set_permissions(&fs, fs::Permissions::from_mode(0o755)).map_err(ImageError::io("chmod", &fs))?;
        Ok(ingest)
    }

    /// Makes an unpacked layer visible. One that is there already stays.
    pub(super) fn commit_layer(
        &self,
        ingest: Ingest,
        diff_id: Sha256Digest,
        info: &LayerInfo,
    ) -> Result<(), ImageError> {
        let path = ingest.path.join("layer.json");
        let text = to_json(info, &path)?;
        fs::write(&path, text).map_err(ImageError::io("write", &path))?;
        self.commit(ingest, &self.layer(diff_id))
    }

    /// Makes an image's corrected directories visible.
    pub(super) fn commit_fixup(&self, ingest: Ingest, config: Sha256Digest) -> Result<(), ImageError> {
        self.commit(ingest, &self.fixup(config))
    }

    fn commit(&self, mut ingest: Ingest, to: &Path) -> Result<(), ImageError> {
        let directory = File::open(&ingest.path).map_err(ImageError::io("open", &ingest.path))?;
        // Thousands of small files: one sync of the file system is far cheaper than one for each.
        rustix::fs::syncfs(&directory).map_err(|error| ImageError::io("sync", &ingest.path)(error.into()))?;
        match fs::rename(&ingest.path, to) {
            Ok(()) => ingest.committed = true,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(ImageError::io("rename to", to)(error)),
        }
        sync_parent(to)
    }

    pub(super) fn write_content(&self, digest: Sha256Digest, bytes: &[u8]) -> Result<(), ImageError> {
        self.replace(&self.content(digest), bytes)
    }

    /// Bytes by their digest; damaged ones are as good as none.
    pub(super) fn read_content(&self, digest: Sha256Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.content(digest);
        let bytes = fs::read(&path).map_err(ImageError::io("read", &path))?;
        match Sha256Digest::new(Sha256::digest(&bytes).into()) == digest {
            true => Ok(bytes),
            false => Err(ImageError::io("read", &path)(io::Error::other("its digest is not its name"))),
        }
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<(), ImageError> {
        let path = self.record(record.config);
        self.replace(&path, &to_json(record, &path)?)
    }

    /// Writes a file so that it is there whole or not at all.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let temporary = self.temporary();
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        if let Err(error) = write() {
            let _ = fs::remove_file(&temporary);
            return Err(ImageError::io("write", path)(error));
        }
        sync_parent(path)
    }

    pub(super) fn remove_record(&self, config: Sha256Digest) -> Result<(), ImageError> {
        let path = self.record(config);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io("remove", &path)(error))
            }
            _ => sync_parent(&path),
        }
    }

    /// Takes a layer out of sight; what is returned wants [`remove_all`], which may take its time.
    pub(super) fn unlink_layer(&self, diff_id: Sha256Digest) -> Result<PathBuf, ImageError> {
        self.unlink(&self.layer(diff_id))
    }

    fn unlink(&self, path: &Path) -> Result<PathBuf, ImageError> {
        let trash = self.temporary();
        fs::rename(path, &trash).map_err(ImageError::io("remove", path))?;
        Ok(trash)
    }

    /// Removes content and fixups that none of `records` wants.
    pub(super) fn collect<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Result<(), ImageError> {
        let (mut content, mut images) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        for record in records {
            content.extend(record.content.iter().copied());
            images.insert(record.config);
        }
        for path in list(&self.root.join("content"))? {
            if !digest_of(&path).is_some_and(|digest| content.contains(&digest)) {
                self.discard(&path, "no image uses it");
            }
        }
        for path in list(&self.root.join("fixups"))? {
            if !digest_of(&path).is_some_and(|digest| images.contains(&digest)) {
                self.discard(&path, "no image uses it");
            }
        }
        Ok(())
    }

    /// Removes something, by way of `ingest/` so that it is never seen half there.
    pub(super) fn discard(&self, path: &Path, reason: &str) {
        tracing::info!(path = %path.display(), reason, "removing from the image store");
        if let Err(error) =
            self.unlink(path).and_then(|trash| remove_all(&trash).map_err(ImageError::io("remove", &trash)))
        {
            tracing::warn!(%error, "the next start will try again");
        }
    }

    /// Bytes and inodes of everything but layers.
    pub(super) fn overhead(&self) -> (u64, u64) {
        ["images", "content"]
            .iter()
            .filter_map(|name| fs::read_dir(self.root.join(name)).ok())
            .flatten()
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .fold((0, 0), |(bytes, inodes), file| (bytes + file.len().div_ceil(4096) * 4096, inodes + 1))
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, ImageError> {
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(ImageError::io("read", directory))
}

/// The digest whose hex digits a file is named by.
fn digest_of(path: &Path) -> Option<Sha256Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}

fn sync_parent(path: &Path) -> Result<(), ImageError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(ImageError::io("sync", parent))
}

fn to_json(value: &impl Serialize, path: &Path) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec_pretty(value).map_err(|error| ImageError::io("write", path)(error.into()))
}
