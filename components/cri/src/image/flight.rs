//! Work that several callers want at once and that is done once.

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

/// The work in progress, by what it yields. Whoever joins drives it; when the last one who joined is dropped,
/// the work is dropped.
pub(super) struct Flights<K, T: Clone> {
    flying: Mutex<HashMap<K, WeakShared<BoxFuture<'static, T>>>>,
}

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self { flying: Mutex::default() }
    }
}

impl<K, T: Clone> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// Joins the work for `key`, or starts it. The flag tells whether this call started it.
    pub(super) async fn join(&self, key: K, start: impl FnOnce() -> BoxFuture<'static, T>) -> (T, bool) {
        let (flight, started) = self.board(&key, start);
        let result = flight.clone().await;
        if started {
            // Who comes later wants a new flight, not an old result.
            let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
            if flying.get(&key).and_then(WeakShared::upgrade).is_none_or(|other| other.ptr_eq(&flight)) {
                flying.remove(&key);
            }
        }
        (result, started)
    }

    fn board(
        &self,
        key: &K,
        start: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> (Shared<BoxFuture<'static, T>>, bool) {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flying.get(key).and_then(WeakShared::upgrade)
            && flight.peek().is_none()
        {
            return (flight, false);
        }
        // Flights whose passengers all left are swept out here; there are never many.
        flying.retain(|_, flight| flight.upgrade().is_some());
        let flight = start().shared();
        if let Some(weak) = flight.downgrade() {
            flying.insert(key.clone(), weak);
        }
        (flight, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[tokio::test]
    async fn one_flight_serves_all_who_join_and_the_next_is_new() {
        let flights = Arc::new(Flights::<&str, usize>::default());
        let count = Arc::new(AtomicUsize::new(0));
        let join = || {
            let (flights, count) = (Arc::clone(&flights), Arc::clone(&count));
            async move {
                let work = move || {
                    async move {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        count.fetch_add(1, Ordering::SeqCst) + 1
                    }
                    .boxed()
                };
                flights.join("key", work).await
            }
        };
        let (a, b, c) = tokio::join!(join(), join(), join());
        assert_eq!([a, b, c], [(1, true), (1, false), (1, false)]);
        assert_eq!(join().await, (2, true));
    }

    #[tokio::test]
    async fn a_flight_outlives_its_starter_but_not_its_last_passenger() {
        let flights = Arc::new(Flights::<u8, usize>::default());
        let alive = Arc::new(());
        let passenger = |flights: Arc<Flights<u8, usize>>, alive: Arc<()>| async move {
            let work = move || {
                async move {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    Arc::strong_count(&alive)
                }
                .boxed()
            };
            flights.join(1, work).await
        };
        let starter = tokio::spawn(passenger(Arc::clone(&flights), Arc::clone(&alive)));
        tokio::task::yield_now().await;
        let second = tokio::spawn(passenger(Arc::clone(&flights), Arc::clone(&alive)));
        tokio::task::yield_now().await;
        starter.abort();
        assert!(!second.await.unwrap().1);
        let third = tokio::spawn(passenger(Arc::clone(&flights), Arc::clone(&alive)));
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&alive), 2);
        third.abort();
        let _ = third.await;
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
