//! Configuration of `cairn-csi`.

use super::File;
use crate::profile::model::Profile;
use cairn_contract::{
    paths,
    storage::{BackendKind, StorageConfig},
};

/// The file at [`paths::CSI_CONFIG`], if the profile has volumes.
pub(super) fn configuration(profile: &Profile) -> Result<Option<File>, toml::ser::Error> {
    let storage = &profile.storage;
    if !storage.is_on() {
        return Ok(None);
    }
    let is_on = |kind: &BackendKind| match kind {
        BackendKind::Local => storage.local,
        BackendKind::Nfs => storage.nfs,
        BackendKind::Iscsi => storage.iscsi,
    };
    let backends = BackendKind::ALL.into_iter().filter(is_on).collect();
    let mut config =
        StorageConfig { backends, metrics_address: storage.metrics_address, ..StorageConfig::default() };
    if !storage.pools.is_empty() {
        config.pools.clone_from(&storage.pools);
    }
    Ok(Some(File::text(paths::CSI_CONFIG, toml::to_string(&config)?)))
}
