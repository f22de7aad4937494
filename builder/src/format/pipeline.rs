//! Work done by many threads and taken in order.
//!
//! Compressing and hashing an image is a long row of independent jobs whose results must be written in the
//! row's order. Workers take the next job as they become free; the caller's thread receives the results one by
//! one, in order. A worker may be at most `window` jobs ahead of what was received, which bounds the memory
//! held by finished results however uneven the jobs are.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// As many threads as the machine has for this process.
#[must_use]
pub fn all_cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

struct State<T, E> {
    /// The next job to hand out.
    next: usize,
    /// Results below this were received.
    received: usize,
    /// Nobody wants more: a result was a failure, the receiver failed, or a worker panicked.
    stopped: bool,
    finished: BTreeMap<usize, Result<T, E>>,
}

struct Shared<T, E> {
    state: Mutex<State<T, E>>,
    /// Something changed that the receiver or a worker may wait for.
    changed: Condvar,
}

impl<T, E> Shared<T, E> {
    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State<T, E>>) -> MutexGuard<'a, State<T, E>> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops the others when its thread leaves early, by an error or a panic.
struct StopOnDrop<'a, T, E>(&'a Shared<T, E>);

impl<T, E> Drop for StopOnDrop<'_, T, E> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Does jobs `0..count` with `work` on `threads` threads and gives each result to `receive`, in order, on the
/// calling thread.
///
/// # Errors
/// The first failure in job order, of `work` or of `receive`. No result after it is received.
///
/// # Panics
/// When `work` panics.
pub fn in_order<T: Send, E: Send>(
    count: usize,
    threads: NonZeroUsize,
    window: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    mut receive: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    if threads.get() == 1 || count <= 1 {
        return (0..count).try_for_each(|job| receive(job, work(job)?));
    }
    let window = window.max(threads.get());
    let shared = Shared {
        state: Mutex::new(State { next: 0, received: 0, stopped: false, finished: BTreeMap::new() }),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 0..threads.get().min(count) {
            scope.spawn(|| run_worker(&shared, count, window, &work));
        }
        // Workers must not outlive the receiver's interest, whichever way this closure is left.
        let _stop = StopOnDrop(&shared);
        for job in 0..count {
            let result = {
                let mut state = shared.lock();
                loop {
                    if let Some(result) = state.finished.remove(&job) {
                        state.received = job + 1;
                        break result;
                    }
                    if state.stopped {
                        // Only a panicking worker stops the row before its results are all there; the scope
                        // passes the panic on.
                        return Ok(());
                    }
                    state = shared.wait(state);
                }
            };
            shared.changed.notify_all();
            receive(job, result?)?;
        }
        Ok(())
    })
}

fn run_worker<T, E>(
    shared: &Shared<T, E>,
    count: usize,
    window: usize,
    work: &(impl Fn(usize) -> Result<T, E> + Sync),
) {
    loop {
        let job = {
            let mut state = shared.lock();
            loop {
                if state.stopped || state.next >= count {
                    return;
                }
                if state.next < state.received + window {
                    break;
                }
                state = shared.wait(state);
            }
            state.next += 1;
            state.next - 1
        };
        let panicking = StopOnDrop(shared);
        let result = work(job);
        std::mem::forget(panicking);
        shared.lock().finished.insert(job, result);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn results_come_in_order_and_within_the_window() {
        let received = AtomicUsize::new(0);
        let mut order = Vec::new();
        in_order(
            500,
            threads(4),
            8,
            |job| {
                assert!(job < received.load(Ordering::SeqCst) + 8 + 1, "worker ran ahead");
                if job % 7 == 0 {
                    thread::sleep(std::time::Duration::from_micros(200));
                }
                Ok::<_, ()>(job * 2)
            },
            |job, doubled| {
                assert_eq!(doubled, job * 2);
                order.push(job);
                received.store(job + 1, Ordering::SeqCst);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(order, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_failure_in_order_wins_and_ends_the_row() {
        for workers in [1, 3] {
            let mut seen = 0;
            let result = in_order(
                1000,
                threads(workers),
                16,
                |job| if job >= 20 { Err(job) } else { Ok(()) },
                |_, ()| {
                    seen += 1;
                    Ok(())
                },
            );
            assert_eq!((result, seen), (Err(20), 20));
            assert_eq!(in_order(1000, threads(workers), 16, Ok, |job, _| Err(job)), Err(0));
        }
    }

    #[test]
    fn a_panicking_worker_does_not_hang_the_caller() {
        let result = std::panic::catch_unwind(|| {
            in_order(
                100,
                threads(2),
                4,
                |job| if job == 3 { panic!("job 3") } else { Ok::<_, ()>(()) },
                |_, ()| Ok(()),
            )
        });
        assert!(result.is_err());
    }
}
