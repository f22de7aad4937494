//! What this node's kernel and file systems let the runtime offer.

use super::Runtime;
use cairn_contract::cri;
use std::{os::unix::fs::PermissionsExt, path::Path};
use tokio::process::Command;

impl Runtime {
    /// The one runtime handler, the default, and its features.
    pub(super) async fn handlers(&self) -> Vec<cri::RuntimeHandler> {
        let features = cri::RuntimeHandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: *self.inner.user_namespaces.get_or_init(|| self.try_user_namespaces()).await,
        };
        vec![cri::RuntimeHandler { name: String::new(), features: Some(features) }]
    }

    /// Makes a user namespace and maps a mount of the state directory to it, as a pod would need. The shim does it,
    /// since a process with threads cannot.
    async fn try_user_namespaces(&self) -> bool {
        let config = &self.inner.config;
        if let Some(closed) = closed_to_others(&config.run.join("containers")) {
            tracing::info!("no user namespaces: a pod's root must be able to pass {}", closed.display());
            return false;
        }
        let probe = Command::new(&config.shim).arg("probe").arg(&config.state).env_clear().output().await;
        match probe {
            Ok(output) if output.status.success() => true,
            Ok(output) => {
                tracing::info!("{}", String::from_utf8_lossy(&output.stderr).trim());
                false
            }
            Err(error) => {
                tracing::warn!("cannot start {}: {error}", config.shim.display());
                false
            }
        }
    }
}

/// The first directory on the way to `path`, itself included, that only its owner may pass.
fn closed_to_others(path: &Path) -> Option<&Path> {
    let closed = |directory: &&Path| {
        directory.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
    };
    path.ancestors().filter(|directory| !directory.as_os_str().is_empty()).find(closed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_closed_directory_is_found() {
        let base = tempfile::tempdir().unwrap();
        let inner = base.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let mode = |mode| fs::set_permissions(base.path(), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o711);
        assert_eq!(closed_to_others(&inner), None);
        mode(0o700);
        assert_eq!(closed_to_others(&inner), Some(base.path()));
    }
}
