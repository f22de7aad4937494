//! Which endpoints did not answer lately, so that they are asked last: a node that starts pulls dozens of images, and
//! a dead mirror should cost it one deadline, not one for each.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long an endpoint that did not answer is asked last.
const MEMORY: Duration = Duration::from_secs(60);

/// The endpoints by API root, and when each was found silent.
#[derive(Debug, Default)]
pub(super) struct Silences(Mutex<HashMap<String, Instant>>);

impl Silences {
    pub(super) fn note(&self, base: &str) {
        self.note_at(base, Instant::now());
    }

    pub(super) fn contains(&self, base: &str) -> bool {
        self.contains_at(base, Instant::now())
    }

    fn note_at(&self, base: &str, now: Instant) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, since| now.saturating_duration_since(*since) < MEMORY);
        noted.insert(base.to_owned(), now);
    }

    fn contains_at(&self, base: &str, now: Instant) -> bool {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(base).is_some_and(|since| now.saturating_duration_since(*since) < MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_remembered_for_a_while() {
        let (silences, now) = (Silences::default(), Instant::now());
        assert!(!silences.contains_at("a", now));
        silences.note_at("a", now);
        assert!(silences.contains_at("a", now + MEMORY / 2) && !silences.contains_at("b", now));
        assert!(!silences.contains_at("a", now + MEMORY));
        silences.note_at("b", now + MEMORY);
        assert_eq!(silences.0.lock().unwrap().len(), 1, "what is over is forgotten");
    }
}
