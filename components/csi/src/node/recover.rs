//! The node's records against what is mounted, once, at the driver's start.

use super::{Published, Staged, publish};
use crate::{driver::Driver, error::Fault, mount::Seen};

impl Driver {
    /// Removes what a crash left half-made: the kubelet asks again for what it wants. Whole volumes stay as they are.
    /// What cannot be removed keeps its record, and the driver serves.
    pub(crate) fn recover(&self) -> Result<(), Fault> {
        self.backend.remember(&self.staged.all());
        for held in self.published.all() {
            if let Err(fault) = self.recover_published(&held) {
                tracing::warn!(volume = %held.id, target = %held.target.display(), "half-published: {fault}");
            }
        }
        for held in self.staged.all() {
            if let Err(fault) = self.recover_staged(&held) {
                tracing::warn!(volume = %held.id, "half-staged: {fault}");
            }
        }
        for id in self.formatting.all() {
            tracing::warn!(volume = %id, "a file system was being made when this node stopped");
        }
        self.backend.recover(&self.staged.all())
    }

    fn recover_published(&self, held: &Published) -> Result<(), Fault> {
        let mounted = matches!(self.recorded(&held.target)?.see(), Ok(Seen::Mounted { .. }));
        if held.made && mounted {
            return Ok(());
        }
        tracing::info!(volume = %held.id, target = %held.target.display(), "half-published: removed");
        self.unpublish(held)
    }

    fn recover_staged(&self, held: &Staged) -> Result<(), Fault> {
        let used = self.published.all().into_iter().any(|published| published.id == held.id);
        let Some(path) = &held.path else {
            // An inline volume lives as long as its one path.
            if used && held.made.is_some() {
                return Ok(());
            }
            tracing::info!(volume = %held.id, "inline volume without a pod: removed");
            return self.remove_inline(held);
        };
        if self.is_whole(held)? || used {
            return Ok(());
        }
        if self.backend.waits(held) {
            tracing::info!(volume = %held.id, "half-staged: the next call for it removes it");
            return Ok(());
        }
        tracing::info!(volume = %held.id, path = %path.display(), "half-staged: removed");
        self.unstage(held)
    }

    /// Records of the boot before are of mounts that are gone.
    pub(crate) fn forget_the_boot_before(&self) -> Result<(), Fault> {
        for held in self.published.all() {
            self.published.remove(&publish::key(&held.target))?;
        }
        // Disks are numbered anew.
        for id in self.formatting.all() {
            self.unfinished.remove(&id.file_name())?;
        }
        self.headers.clear()?;
        for held in self.staged.all() {
            // The inline volumes of pods that are gone, too.
            match held.path {
                None => {
                    if let Err(fault) = self.remove_inline(&held) {
                        tracing::warn!(volume = %held.id, "an inline volume of the boot before: {fault}");
                    }
                }
                Some(_) => self.staged.remove(&held.id.file_name())?,
            }
        }
        Ok(())
    }
}
