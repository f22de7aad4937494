//! One call at a time works on a volume; another that comes meanwhile is told to come again.

use crate::error::Fault;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// What is being worked on. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct Locks(Arc<Mutex<BTreeSet<String>>>);

/// Lets go when dropped.
#[derive(Debug)]
pub struct Held {
    locks: Locks,
    keys: Vec<String>,
}

impl Locks {
    /// Takes all of `keys` or none. Never waits: a caller that gives up would leave a queue behind it.
    ///
    /// # Errors
    /// [`Fault::Busy`] if one is taken.
    pub fn take<I: IntoIterator<Item = S>, S: Into<String>>(&self, keys: I) -> Result<Held, Fault> {
        let keys: BTreeSet<String> = keys.into_iter().map(Into::into).collect();
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(busy) = keys.iter().find(|key| taken.contains(*key)) {
            return Err(Fault::Busy(format!("another call works on {busy}; try again")));
        }
        taken.extend(keys.iter().cloned());
        Ok(Held { locks: self.clone(), keys: keys.into_iter().collect() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.locks.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            taken.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_nothing() {
        let locks = Locks::default();
        let first = locks.take(["a", "b"]).unwrap();
        assert!(matches!(locks.take(["c", "b"]), Err(Fault::Busy(_))));
        let other = locks.take(["c", "c"]).unwrap();
        drop((first, other));
        locks.take(["a", "b", "c"]).unwrap();
    }
}
