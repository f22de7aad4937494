//! The configuration's pools: those that are open, and those that cannot be used now.
//!
//! A pool whose disk is missing or damaged is no reason to refuse the others' volumes. It is tried again now and then; until
//! then, what may be in it is UNAVAILABLE, and not said to be absent.

use super::{Marks, pool::Pool};
use crate::{error::Fault, node::Staged};
use cairn_contract::storage;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// All pools, in the configuration's order.
#[derive(Debug)]
pub(super) struct Pools {
    slots: Vec<Slot>,
    marks: Arc<Marks>,
}

#[derive(Debug)]
struct Slot {
    config: storage::Pool,
    open: OnceLock<Pool>,
    /// Why it is not.
    reason: Mutex<String>,
}

impl Pools {
    /// Opens those that can be.
    pub(super) fn open(configs: &[storage::Pool], marks: Arc<Marks>) -> Self {
        let slot = |config: &storage::Pool| Slot {
            config: config.clone(),
            open: OnceLock::new(),
            reason: Mutex::default(),
        };
        let pools = Self { slots: configs.iter().map(slot).collect(), marks };
        for slot in &pools.slots {
            if let Some(pool) = pools.attempt(slot) {
                let _ = slot.open.set(pool);
            }
        }
        pools
    }

    fn attempt(&self, slot: &Slot) -> Option<Pool> {
        match Pool::open(&slot.config, &self.marks) {
            Ok(pool) => Some(pool),
            Err(fault) => {
                let mut reason = slot.reason.lock().unwrap_or_else(PoisonError::into_inner);
                let now = fault.to_string();
                // Once for each reason, not once for each attempt.
                if *reason != now {
                    tracing::error!(pool = slot.config.name, "cannot be used, and is tried again: {now}");
                    *reason = now;
                }
                None
            }
        }
    }

    /// Tries again those that could not be opened. Whether all are open.
    pub(super) fn retry(&self, staged: &[Staged]) -> bool {
        for slot in self.slots.iter().filter(|slot| slot.open.get().is_none()) {
            if let Some(pool) = self.attempt(slot) {
                // Nobody sees it before it is as after a start.
                pool.recover(staged);
                tracing::info!(pool = slot.config.name, "can be used now");
                let _ = slot.open.set(pool);
            }
        }
        self.slots.iter().all(|slot| slot.open.get().is_some())
    }

    /// Those that are open.
    pub(super) fn all(&self) -> impl Iterator<Item = &Pool> {
        self.slots.iter().filter_map(|slot| slot.open.get())
    }

    /// By its name; without, the first.
    ///
    /// # Errors
    /// [`Fault::Invalid`] if there is none; [`Fault::Unavailable`] if it cannot be used now.
    pub(super) fn named(&self, name: Option<&str>, node: &str) -> Result<&Pool, Fault> {
        let found = match name {
            None => self.slots.first(),
            Some(name) => self.slots.iter().find(|slot| slot.config.name == name),
        };
        let slot = found.ok_or_else(|| {
            let names: Vec<&str> = self.slots.iter().map(|slot| slot.config.name.as_str()).collect();
            Fault::Invalid(format!(
                "there is no pool {:?} on node {node}; it has {}",
                name.unwrap_or_default(),
                names.join(", ")
            ))
        })?;
        slot.open.get().ok_or_else(|| slot.fault())
    }

    /// That all pools are open.
    ///
    /// # Errors
    /// [`Fault::Unavailable`], with the first that is not, and why.
    pub(super) fn complete(&self) -> Result<(), Fault> {
        match self.slots.iter().find(|slot| slot.open.get().is_none()) {
            Some(slot) => Err(slot.fault()),
            None => Ok(()),
        }
    }

    /// Where those are that are not open.
    pub(super) fn closed(&self) -> impl Iterator<Item = PathBuf> {
        let closed = self.slots.iter().filter(|slot| slot.open.get().is_none());
        // As /sys names the files behind loop devices.
        closed.map(|slot| slot.config.path.canonicalize().unwrap_or_else(|_| slot.config.path.clone()))
    }
}

impl Slot {
    fn fault(&self) -> Fault {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        Fault::Unavailable(format!("pool {} cannot be used now: {reason}", self.config.name))
    }
}
