//! The node's records against what is mounted, once, at the driver's start.

use super::publish;
use crate::{driver::Driver, error::Fault, mount::Seen};

impl Driver {
    /// Removes what a crash left half-made: the kubelet asks again for what it wants. Whole volumes stay as they are.
    pub(crate) fn recover(&self) -> Result<(), Fault> {
        for held in self.published.all() {
            let mounted = matches!(self.recorded(&held.target)?.see(), Ok(Seen::Mounted { .. }));
            if held.made && mounted {
                continue;
            }
            tracing::info!(volume = %held.id, target = %held.target.display(), "half-published: removed");
            self.unpublish(&held)?;
        }
        for held in self.staged.all() {
            let Some(path) = &held.path else {
                // An inline volume lives as long as its one path.
                let target = self.published.all().into_iter().any(|published| published.id == held.id);
                if !target || held.made.is_none() {
                    tracing::info!(volume = %held.id, "inline volume without a pod: removed");
                    self.remove_inline(&held)?;
                }
                continue;
            };
            let used = self.published.all().into_iter().any(|published| published.id == held.id);
            if used || self.is_whole(&held)? {
                continue;
            }
            tracing::info!(volume = %held.id, path = %path.display(), "half-staged: removed");
            self.unstage(&held)?;
        }
        for id in self.formatting.all() {
            tracing::warn!(volume = %id, "a file system was being made when this node stopped");
        }
        self.backend.recover(&self.staged.all())
    }

    /// Records of the boot before are of mounts that are gone.
    pub(crate) fn forget_the_boot_before(&self) -> Result<(), Fault> {
        for held in self.published.all() {
            self.published.remove(&publish::key(&held.target))?;
        }
        for held in self.staged.all() {
            // The inline volumes of pods that are gone, too.
            match held.path {
                None => self.remove_inline(&held)?,
                Some(_) => self.staged.remove(&held.id.file_name())?,
            }
        }
        Ok(())
    }
}
