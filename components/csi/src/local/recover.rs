//! A pool at a start: what a crash left half-made is removed, and what was promised is made so.

use super::{
    parameters::Kind,
    pool::{Pool, remove_all},
};
use crate::{
    error::{During, Fault},
    id::SnapshotId,
    loopback,
    node::Staged,
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

impl Pool {
    /// Removes what a crash left half-made. What cannot be removed is logged and left for the next start: it is in nobody's
    /// way.
    pub(super) fn recover(&self, staged: &[Staged]) {
        let used: BTreeSet<&str> = staged.iter().map(|held| held.id.as_str()).collect();
        for held in self.volumes.all() {
            if held.ephemeral && !used.contains(held.id.as_str()) {
                tracing::info!(volume = %held.id, "inline volume without a pod: removed");
                self.log(self.delete(&held));
            }
        }
        let kept: BTreeSet<PathBuf> = self
            .volumes
            .all()
            .iter()
            .filter(|held| used.contains(held.id.as_str()))
            .map(|held| self.image(&held.id))
            .collect();
        self.log(loopback::detach_below(&self.path, |file| kept.contains(file)));
        for part in ["new", "trash"] {
            self.log(self.sweep(&self.path.join(part)));
        }
        self.recover_groups();
        // A quota that was changed without its record, or the other way round.
        for held in self.volumes.all() {
            match held.kind {
                Kind::Directory => {
                    if let Err(fault) = self.limit_again(&held) {
                        tracing::error!(volume = %held.id, "not held to its size: {fault}");
                    }
                }
                Kind::Image => self.log(self.grow_image(&held)),
            }
        }
    }

    /// A group of snapshots is whole or not at all: a crash while it was made or removed took the others' directories away. A
    /// member that is there, and only has no record that can be read, is damage, and costs the others nothing.
    fn recover_groups(&self) {
        let all = self.snapshots.all();
        for held in &all {
            let missing: Vec<&SnapshotId> = held.missing(&all).collect();
            if missing.is_empty() {
                continue;
            }
            if let Some(damaged) = missing.iter().find(|id| self.snapshot_directory(id).exists()) {
                tracing::warn!(snapshot = %held.id, %damaged, "part of a group that is not whole: kept, as another is damaged");
                continue;
            }
            tracing::info!(snapshot = %held.id, "part of a group that is not whole: removed");
            self.log(self.delete_snapshot(held));
        }
    }

    fn log(&self, done: Result<(), Fault>) {
        if let Err(fault) = done {
            tracing::error!(pool = self.name, "at the start: {fault}");
        }
    }

    /// Empties a directory of what is half-made or half-removed, as far as that can be done.
    fn sweep(&self, directory: &Path) -> Result<(), Fault> {
        for entry in fs::read_dir(directory).during(|| format!("read {}", directory.display()))? {
            let path = entry.during(|| format!("read {}", directory.display()))?.path();
            tracing::info!(path = %path.display(), "half-made or half-removed: removed");
            self.log(remove_all(&path));
        }
        Ok(())
    }
}
