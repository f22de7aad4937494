//! What is in the store, in memory: the answer to every question that is not a pull.

use super::{
    Image, ImageSource,
    baked::Baked,
    error::ImageError,
    manifest,
    reference::Reference,
    store::{Inventory, LayerInfo, Record, Store},
};
use cairn_contract::digest::Sha256Digest;
use oci_spec::image::ImageConfiguration;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

/// Images, names and layers. Changes go through [`Catalog::put`] and [`Catalog::take`], which derive the rest anew.
#[derive(Debug)]
pub(super) struct Catalog {
    baked: Arc<Baked>,
    records: BTreeMap<Sha256Digest, (Record, ImageConfiguration)>,
    /// Layers in the store.
    layers: BTreeMap<Sha256Digest, LayerInfo>,
    images: BTreeMap<Sha256Digest, Arc<Image>>,
    names: HashMap<String, Sha256Digest>,
    /// Images that containers use, and how many.
    holds: HashMap<Sha256Digest, usize>,
    /// Layers that pulls in progress count on, and how many.
    leases: HashMap<Sha256Digest, usize>,
}

impl Catalog {
    /// From what was found on disk. Returns the records that cannot be used: a layer is missing, or the
    /// configuration does not parse.
    pub(super) fn new(baked: Arc<Baked>, inventory: Inventory) -> (Self, Vec<Sha256Digest>) {
        let mut catalog = Self {
            baked,
            records: BTreeMap::new(),
            layers: inventory.layers,
            images: BTreeMap::new(),
            names: HashMap::new(),
            holds: HashMap::new(),
            leases: HashMap::new(),
        };
        let mut unusable = Vec::new();
        for (record, config) in inventory.records {
            match manifest::parse_config(&config) {
                Ok((config, _)) if record.layers.iter().all(|layer| catalog.has_layer(layer)) => {
                    catalog.records.insert(record.config, (record, config));
                }
                _ => unusable.push(record.config),
            }
        }
        catalog.derive();
        (catalog, unusable)
    }

    fn derive(&mut self) {
        let mut tagged: HashMap<&String, (u64, Sha256Digest)> = HashMap::new();
        for (record, _) in self.records.values() {
            for (tag, time) in &record.tags {
                let entry = tagged.entry(tag).or_insert((*time, record.config));
                *entry = (*entry).max((*time, record.config));
            }
        }
        let mut names: HashMap<String, Sha256Digest> =
            tagged.into_iter().map(|(tag, (_, id))| (tag.clone(), id)).collect();
        for (record, _) in self.records.values() {
            names.extend(record.digests.iter().map(|digest| (digest.clone(), record.config)));
        }
        // The node image's names are fixed.
        for image in &self.baked.images {
            names.extend(
                image.repo_tags.iter().chain(&image.repo_digests).map(|name| (name.clone(), image.id)),
            );
        }
        let mut images: BTreeMap<_, _> =
            self.baked.images.iter().map(|image| (image.id, image.clone())).collect();
        for (id, (record, config)) in &self.records {
            let image = images.entry(*id).or_insert_with(|| Image {
                id: *id,
                repo_tags: Vec::new(),
                repo_digests: Vec::new(),
                size: record.size,
                config: config.clone(),
                layers: record.layers.clone(),
                annotations: record.annotations.clone(),
                pinned: false,
                source: ImageSource::Pulled,
            });
            image.repo_tags.extend(record.tags.keys().filter(|tag| names.get(*tag) == Some(id)).cloned());
            image.repo_digests.extend(record.digests.iter().cloned());
            for list in [&mut image.repo_tags, &mut image.repo_digests] {
                list.sort();
                list.dedup();
            }
        }
        self.images = images.into_iter().map(|(id, image)| (id, Arc::new(image))).collect();
        self.names = names;
    }

    /// By name, then by id or a prefix of it that fits one image only.
    pub(super) fn resolve(&self, text: &str) -> Option<Arc<Image>> {
        let by_name =
            text.parse::<Reference>().ok().and_then(|reference| self.names.get(&reference.to_string()));
        if let Some(image) = by_name.and_then(|id| self.images.get(id)) {
            return Some(Arc::clone(image));
        }
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        if prefix.is_empty() || prefix.len() > 64 {
            return None;
        }
        let mut matches = self.images.iter().filter(|(id, _)| id.hex().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some((_, image)), None) => Some(Arc::clone(image)),
            _ => None,
        }
    }

    /// The image a full reference names, without guessing at ids.
    pub(super) fn named(&self, reference: &Reference) -> Option<Arc<Image>> {
        self.images.get(self.names.get(&reference.to_string())?).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().cloned().collect()
    }

    fn has_layer(&self, diff_id: &Sha256Digest) -> bool {
        self.layers.contains_key(diff_id) || self.baked.layer(diff_id).is_some()
    }

    /// A stored layer's numbers; baked layers have none, they cost nothing.
    pub(super) fn layer(&self, diff_id: &Sha256Digest) -> Option<&LayerInfo> {
        self.layers.get(diff_id)
    }

    pub(super) fn add_layer(&mut self, diff_id: Sha256Digest, info: LayerInfo) {
        self.layers.insert(diff_id, info);
    }

    /// Bytes and inodes of the stored layers.
    pub(super) fn layer_usage(&self) -> (u64, u64) {
        self.layers.values().fold((0, 0), |(bytes, inodes), info| {
            (u64::saturating_add(bytes, info.disk), u64::saturating_add(inodes, info.inodes))
        })
    }

    /// Keeps `layers` from collection, and says which of them are missing.
    pub(super) fn lease(&mut self, layers: &[Sha256Digest]) -> HashSet<Sha256Digest> {
        for layer in layers {
            *self.leases.entry(*layer).or_default() += 1;
        }
        layers.iter().filter(|layer| !self.has_layer(layer)).copied().collect()
    }

    pub(super) fn release(&mut self, layers: &[Sha256Digest]) {
        for layer in layers {
            release(&mut self.leases, layer);
        }
    }

    pub(super) fn hold_image(&mut self, id: &Sha256Digest) -> bool {
        let known = self.images.contains_key(id);
        if known {
            *self.holds.entry(*id).or_default() += 1;
        }
        known
    }

    pub(super) fn release_image(&mut self, id: &Sha256Digest) {
        release(&mut self.holds, id);
    }

    /// The records to write, in this order, so that `record`'s image gains its names: it first, then those that
    /// lose a tag to it.
    pub(super) fn plan(&self, mut record: Record, tag: Option<&str>) -> Vec<Record> {
        if let Some((old, _)) = self.records.get(&record.config) {
            record.digests.extend(old.digests.iter().cloned());
            record.content.extend(old.content.iter().copied());
            record.tags.extend(old.tags.clone());
        }
        record.digests.sort();
        record.digests.dedup();
        record.content.sort();
        record.content.dedup();
        let mut losers = Vec::new();
        if let Some(tag) = tag {
            let latest = self.records.values().flat_map(|(record, _)| record.tags.values()).max();
            record.tags.insert(tag.to_owned(), latest.map_or(1, |time| time.saturating_add(1)));
            for (other, _) in self.records.values() {
                if other.config != record.config && other.tags.contains_key(tag) {
                    let mut other = other.clone();
                    other.tags.remove(tag);
                    losers.push(other);
                }
            }
        }
        std::iter::once(record).chain(losers).collect()
    }

    /// Takes over records that were written.
    pub(super) fn put(&mut self, records: Vec<Record>, config: &ImageConfiguration) {
        for record in records {
            match self.records.get_mut(&record.config) {
                Some((old, _)) => *old = record,
                None => {
                    self.records.insert(record.config, (record, config.clone()));
                }
            }
        }
        self.derive();
    }

    /// Forgets the pulled image that `text` names, with its names. `None`: there is no such image.
    pub(super) fn take(&mut self, text: &str) -> Result<Option<Sha256Digest>, ImageError> {
        let Some(image) = self.resolve(text) else { return Ok(None) };
        if self.holds.contains_key(&image.id) && !self.baked.contains(&image.id) {
            return Err(ImageError::InUse(image.id));
        }
        if self.records.remove(&image.id).is_none() {
            return Err(ImageError::Pinned(image.id));
        }
        self.derive();
        Ok(Some(image.id))
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values().map(|(record, _)| record)
    }

    pub(super) fn record(&self, id: &Sha256Digest) -> Option<&Record> {
        self.records.get(id).map(|(record, _)| record)
    }

    /// Takes the layers out of the store that no image and no pull uses. The renames happen here, under the
    /// catalog's lock, so that no pull can find such a layer; deleting what is returned may take its time.
    pub(super) fn collect_layers(&mut self, store: &Store) -> Vec<PathBuf> {
        let used: HashSet<_> = self.records().flat_map(|record| record.layers.iter().copied()).collect();
        let unused: Vec<_> = self
            .layers
            .keys()
            .filter(|layer| !used.contains(*layer) && !self.leases.contains_key(*layer))
            .copied()
            .collect();
        let mut trash = Vec::new();
        for layer in unused {
            match store.unlink_layer(layer) {
                Ok(path) => {
                    self.layers.remove(&layer);
                    trash.push(path);
                }
                Err(error) => tracing::warn!(%error, "cannot free a layer"),
            }
        }
        trash
    }
}

fn release(counts: &mut HashMap<Sha256Digest, usize>, key: &Sha256Digest) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
