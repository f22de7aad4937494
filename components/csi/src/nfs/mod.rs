//! Exports of NFS servers.
//!
//! Not there yet: a configuration that asks for it is refused.

use crate::{backend::Backend, error::Fault};
use cairn_contract::storage::{BackendKind, StorageConfig};

/// Opens the backend.
///
/// # Errors
/// If it cannot be served.
pub fn open(config: &StorageConfig) -> Result<Box<dyn Backend>, Fault> {
    let _ = config;
    Err(Fault::Unsupported(format!("this build has no backend {:?}", BackendKind::Nfs.name())))
}
