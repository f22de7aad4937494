//! Ways in which the registry can misbehave, on the next requests for blobs.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// One misbehaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers 500.
    ServerError,
    /// Announces the whole blob, sends this many bytes, and breaks the connection.
    ResetAfter(usize),
    /// Sends a byte of another value than it should in the middle.
    Corrupt,
    /// Waits before each piece of 64 KiB.
    Slow(Duration),
}

/// Faults waiting for their request, first in, first out.
#[derive(Debug, Default)]
pub(super) struct FaultQueue(Mutex<Vec<Fault>>);

impl FaultQueue {
    pub(super) fn push(&self, fault: Fault, times: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(std::iter::repeat_n(fault, times));
    }

    /// The fault for a request for a blob of `length` bytes. A reset waits for a blob that it can break.
    pub(super) fn next(&self, length: usize) -> Option<Fault> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.first() {
            None => None,
            Some(Fault::ResetAfter(count)) if *count >= length => None,
            Some(_) => Some(queue.remove(0)),
        }
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
