//! The service's inside: what pulling and removing do, in which order.

use super::{
    FsUsage, Image, ImageSource,
    auth::PullSecret,
    baked::Baked,
    catalog::Catalog,
    error::ImageError,
    fixup::{self, Lower},
    flight::Flights,
    layer,
    manifest::{self, Descriptor, Document, ManifestError},
    platform::Machine,
    reference::Reference,
    registry::{Registry, Repository},
    remove,
    store::{LayerInfo, Record, Store},
};
use crate::traces;
use cairn_contract::{digest::Sha256Digest, runtime::RuntimeConfig};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use oci_spec::image::ImageConfiguration;
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// An index may point to indexes; deeper than this is a mistake or an attack.
const MAX_NESTING: usize = 3;

type Shared<T> = Result<T, ImageError>;

/// What all clones of the service share.
#[derive(Debug)]
pub(super) struct Inner {
    parallel: usize,
    machine: Machine,
    store: Arc<Store>,
    baked: Arc<Baked>,
    registry: Registry,
    catalog: Mutex<Catalog>,
    /// Held while records change on disk, so that the catalog and the disk change in the same order.
    writer: tokio::sync::Mutex<()>,
    pulls: Flights<(Reference, Option<PullSecret>), Shared<Arc<Image>>>,
    layers: Flights<Sha256Digest, Shared<()>>,
}

impl Inner {
    pub(super) async fn open(config: RuntimeConfig) -> Result<Self, ImageError> {
        // Someone else may have installed a provider already, and that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stall = Duration::from_secs(config.pull_progress_timeout_seconds.max(1));
        let registry = Registry::new(&config.certs_d, &config.registry_auth, stall);
        let parallel = config.max_parallel_layers.max(1);
        let (store, baked, catalog) = blocking("opening the store", move || {
            let baked = Arc::new(Baked::load(&config.baked_images)?);
            let (store, inventory) = Store::open(&config.state.join("images"))?;
            let (mut catalog, unusable) = Catalog::new(Arc::clone(&baked), inventory);
            for id in unusable {
                tracing::warn!(image = %id, "a layer of it is gone, or its configuration is unusable: forgetting it");
                store.remove_record(id)?;
            }
            for trash in catalog.collect_layers(&store) {
                remove::remove_all(&trash).map_err(ImageError::io("remove", &trash))?;
            }
            store.collect(catalog.records())?;
            Ok((store, baked, catalog))
        })
        .await?;
        Ok(Self {
            parallel,
            machine: Machine::this(),
            store: Arc::new(store),
            baked,
            registry,
            catalog: Mutex::new(catalog),
            writer: tokio::sync::Mutex::default(),
            pulls: Flights::default(),
            layers: Flights::default(),
        })
    }

    /// The catalog; never held across an await.
    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer_directory(&self, diff_id: &Sha256Digest) -> PathBuf {
        self.baked.layer(diff_id).unwrap_or_else(|| self.store.layer_fs(*diff_id))
    }

    pub(super) fn lower_directories(&self, image: &Image) -> Vec<PathBuf> {
        // Overlayfs refuses a directory that is there twice. Below the topmost of two equal layers the other one
        // shows nothing that the upper does not show.
        let mut seen = HashSet::new();
        let layers = image.layers.iter().rev().filter(|layer| seen.insert(**layer));
        let fixup = match image.source {
            ImageSource::Pulled => self.store.fixup_fs(image.id),
            ImageSource::Baked => None,
        };
        fixup.into_iter().chain(layers.map(|layer| self.layer_directory(layer))).collect()
    }

    pub(super) fn usage(&self) -> FsUsage {
        let (bytes, inodes) = self.catalog().layer_usage();
        let (more_bytes, more_inodes) = self.store.overhead();
        FsUsage {
            path: self.store.root().to_owned(),
            used_bytes: bytes + more_bytes,
            inodes_used: inodes + more_inodes,
        }
    }

    /// Manifest digests of a pulled image, for the curious.
    pub(super) fn content_of(&self, id: &Sha256Digest) -> Vec<Sha256Digest> {
        self.catalog().record(id).map(|record| record.content.clone()).unwrap_or_default()
    }

    /// Bytes from the content store.
    pub(super) fn read_content(&self, digest: Sha256Digest) -> Result<Vec<u8>, ImageError> {
        self.store.read_content(digest)
    }
}

/// See [`super::ImageService::pull`].
pub(super) async fn pull(
    inner: &Arc<Inner>,
    reference: &str,
    secret: Option<PullSecret>,
) -> Shared<Arc<Image>> {
    let reference: Reference = reference.parse()?;
    if let Some(image) = inner.catalog().named(&reference)
        && (image.source == ImageSource::Baked || reference.digest().is_some())
    {
        return Ok(image);
    }
    let key = (reference.clone(), secret.clone());
    let work = {
        let inner = Arc::clone(inner);
        // Who joins drives it; its steps are of the pull that began it.
        move || traces::carried(async move { pull_once(&inner, &reference, secret).await }).boxed()
    };
    inner.pulls.join(key, work).await.0
}

async fn pull_once(
    inner: &Arc<Inner>,
    reference: &Reference,
    secret: Option<PullSecret>,
) -> Shared<Arc<Image>> {
    let repository = Arc::new(inner.registry.repository(reference, secret.as_ref())?);
    let resolve = find(inner, &repository, reference);
    let found = traces::step("resolve image", &[(traces::IMAGE, reference)], resolve).await?;
    let lease = Lease::new(inner, found.diff_ids.clone());
    let mut wanted = lease.missing.clone();
    // Of equal layers, one is enough.
    let missing: Vec<_> = found
        .layers
        .iter()
        .cloned()
        .zip(found.diff_ids.iter().copied())
        .filter(|(_, diff_id)| wanted.remove(diff_id))
        .collect();
    tracing::info!(%reference, layers = found.layers.len(), missing = missing.len(), "pulling");
    stream::iter(missing)
        .map(|(blob, diff_id)| fetch_layer(inner, &repository, blob, diff_id))
        .buffer_unordered(inner.parallel)
        .try_collect::<Vec<()>>()
        .await?;
    traces::step("record image", &[], record(inner, reference, found)).await
}

/// An image's documents, before its layers.
struct Found {
    /// Digest of what the reference names: an index or a manifest.
    top: Sha256Digest,
    id: Sha256Digest,
    config: ImageConfiguration,
    layers: Vec<Descriptor>,
    diff_ids: Vec<Sha256Digest>,
    /// The manifest's.
    annotations: BTreeMap<String, String>,
    /// Manifests and configuration.
    content: Vec<(Sha256Digest, Vec<u8>)>,
}

/// What a digest names and is here already is not fetched; the registry still decides what the reference is.
async fn find(inner: &Inner, repository: &Repository, reference: &Reference) -> Shared<Found> {
    let bad = |source: ManifestError| ImageError::Manifest {
        reference: reference.to_string(),
        source: source.into(),
    };
    let (mut bytes, top) = repository.resolve().await?;
    let mut digest = top;
    let mut content = Vec::new();
    for _ in 0..MAX_NESTING {
        let document = Document::parse(&bytes).map_err(bad)?;
        content.push((digest, bytes));
        match document {
            Document::Index(index) => {
                digest = index.choose(inner.machine).map_err(bad)?.digest;
                bytes = match inner.store.read_content(digest) {
                    Ok(bytes) => bytes,
                    Err(_) => repository.manifest(digest).await?,
                };
            }
            Document::Image { config: descriptor, layers, annotations } => {
                let bytes = match inner.store.read_content(descriptor.digest) {
                    Ok(bytes) => bytes,
                    Err(_) => repository.blob(&descriptor).await?,
                };
                let (config, diff_ids) = manifest::parse_config(&bytes).map_err(bad)?;
                manifest::check_config(&config, &diff_ids, layers.len(), inner.machine).map_err(bad)?;
                content.push((descriptor.digest, bytes));
                return Ok(Found {
                    top,
                    id: descriptor.digest,
                    config,
                    layers,
                    diff_ids,
                    annotations,
                    content,
                });
            }
        }
    }
    Err(bad(ManifestError::Nesting))
}

/// Layers a pull counts on: not collected while it runs.
struct Lease {
    inner: Arc<Inner>,
    layers: Vec<Sha256Digest>,
    /// Those that were not there when the lease began.
    missing: HashSet<Sha256Digest>,
}

impl Lease {
    fn new(inner: &Arc<Inner>, layers: Vec<Sha256Digest>) -> Self {
        let missing = inner.catalog().lease(&layers);
        Self { inner: Arc::clone(inner), layers, missing }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.inner.catalog().release(&self.layers);
    }
}

/// Makes one layer present, together with whoever else wants it now.
async fn fetch_layer(
    inner: &Arc<Inner>,
    repository: &Arc<Repository>,
    blob: Descriptor,
    diff_id: Sha256Digest,
) -> Shared<()> {
    loop {
        let work = {
            let (inner, repository, blob) = (Arc::clone(inner), Arc::clone(repository), blob.clone());
            move || {
                let (digest, size) = (blob.digest, blob.size);
                let work = async move {
                    // A flight that ended between our look and this start may have brought it.
                    if inner.catalog().layer(&diff_id).is_some() {
                        return Ok(());
                    }
                    let info = layer::fetch(&inner.store, &repository, &blob, diff_id).await?;
                    inner.catalog().add_layer(diff_id, info);
                    Ok(())
                };
                traces::step("fetch layer", &[("layer.digest", &digest), ("layer.size", &size)], work).boxed()
            }
        };
        match inner.layers.join(diff_id, work).await {
            (Ok(()), _) => return Ok(()),
            (Err(error), true) => return Err(error),
            // The other pull may have lacked the right to it, or had a bad mirror: that is not our failure.
            (Err(error), false) => tracing::debug!(%error, "a shared download failed; trying ourselves"),
        }
    }
}

/// The last step: the image appears.
async fn record(inner: &Arc<Inner>, reference: &Reference, found: Found) -> Shared<Arc<Image>> {
    let _writer = inner.writer.lock().await;
    let infos: Vec<LayerInfo> = {
        let catalog = inner.catalog();
        found.diff_ids.iter().map(|layer| catalog.layer(layer).cloned().unwrap_or_default()).collect()
    };
    let new = Record {
        config: found.id,
        content: found.content.iter().map(|(digest, _)| *digest).collect(),
        layers: found.diff_ids.clone(),
        size: infos.iter().map(|info| info.size).sum(),
        tags: BTreeMap::new(),
        digests: vec![reference.at(found.top).to_string()],
        annotations: found.annotations,
    };
    let tag = reference.digest().is_none().then(|| reference.to_string());
    let records = inner.catalog().plan(new, tag.as_deref());
    let directories: Vec<_> = found.diff_ids.iter().map(|layer| inner.layer_directory(layer)).collect();
    let (store, id) = (Arc::clone(&inner.store), found.id);
    let (content, written) = (found.content, records.clone());
    blocking("recording an image", move || {
        for (digest, bytes) in &content {
            store.write_content(*digest, bytes)?;
        }
        let lowers: Vec<_> = directories
            .into_iter()
            .zip(&infos)
            .rev()
            .map(|(root, info)| Lower { root, implicit: &info.implicit })
            .collect();
        let plan = fixup::plan(&lowers);
        if !plan.is_empty() {
            let ingest = store.ingest()?;
            fixup::make(&plan, &ingest.fs())?;
            store.commit_fixup(ingest, id)?;
        }
        written.iter().try_for_each(|record| store.write_record(record))
    })
    .await?;
    let mut catalog = inner.catalog();
    catalog.put(records, &found.config);
    catalog.resolve(&id.to_string()).ok_or(ImageError::Interrupted("recording an image"))
}

/// See [`super::ImageService::remove`].
pub(super) async fn remove(inner: &Arc<Inner>, reference: &str) -> Result<(), ImageError> {
    let _writer = inner.writer.lock().await;
    let Some(id) = inner.catalog().take(reference)? else { return Ok(()) };
    let inner = Arc::clone(inner);
    blocking("removing an image", move || {
        inner.store.remove_record(id)?;
        let (trash, records) = {
            let mut catalog = inner.catalog();
            (catalog.collect_layers(&inner.store), catalog.records().cloned().collect::<Vec<_>>())
        };
        inner.store.collect(records.iter())?;
        for path in trash {
            remove::remove_all(&path).map_err(ImageError::io("remove", &path))?;
        }
        Ok(())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::Interrupted(what))?
}
