//! Unmounting, without waiting for ever.
//!
//! The last mount of a file system is gone when all that was written is where it belongs. With a server that is away for
//! good that is never; a call that waited would keep one of the driver's threads, and the volume. So each place has a
//! thread of its own, and a call waits a moment for it: what takes longer goes on, and the next call finds it.
//!
//! A network's file system is flushed while it is still mounted. If its server says nothing for a long time, then what it has not taken
//! is given up, as the kubelet and the field's drivers do (`MNT_FORCE`, umount2(2)), so that the pod can go.

use super::info::mounts;
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How long a call waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may say nothing until what it has not taken is given up.
pub(super) const GIVE_UP: Duration = Duration::from_secs(300);

/// File systems whose server may be away.
const NETWORK: [&str; 2] = ["nfs", "nfs4"];

/// The places where something is being unmounted. All clones are one.
#[derive(Clone, Default)]
pub(super) struct Unmounts(Arc<State>);

#[derive(Default)]
struct State {
    going: Mutex<BTreeMap<PathBuf, Going>>,
    ended: Condvar,
}

struct Going {
    since: Instant,
    /// A server may have to be given up.
    network: bool,
    end: Option<Result<(), Errno>>,
}

/// How far an unmount is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It ended.
    Ended(Result<(), Errno>),
    /// It goes on.
    Waits {
        /// For so long.
        since: Duration,
        /// For a server.
        network: bool,
    },
}

impl Unmounts {
    /// Whether something is being unmounted at a place: it may be hidden already.
    pub(super) fn is_going(&self, place: &Path) -> bool {
        self.lock().contains_key(place)
    }

    /// Begins to unmount with `work`, unless that is going on, and waits for the end.
    pub(super) fn run(
        &self,
        place: &Path,
        network: bool,
        patience: Duration,
        work: impl FnOnce() -> Result<(), Errno> + Send + 'static,
    ) -> Outcome {
        let mut going = self.lock();
        if !going.contains_key(place) {
            let (state, path) = (Arc::clone(&self.0), place.to_owned());
            let started = thread::Builder::new().stack_size(256 << 10).spawn(move || {
                let end = work();
                let mut going = state.going.lock().unwrap_or_else(PoisonError::into_inner);
                // Nobody asks for it if it was given up.
                if let Some(own) = going.get_mut(&path) {
                    own.end = Some(end);
                }
                state.ended.notify_all();
            });
            if started.is_err() {
                return Outcome::Ended(Err(Errno::AGAIN));
            }
            going.insert(place.to_owned(), Going { since: Instant::now(), network, end: None });
        }
        let deadline = Instant::now() + patience;
        loop {
            let Some(own) = going.get(place) else { return Outcome::Ended(Ok(())) };
            if let Some(end) = own.end {
                going.remove(place);
                return Outcome::Ended(end);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Outcome::Waits { since: own.since.elapsed(), network: own.network };
            }
            going = self.0.ended.wait_timeout(going, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&self, place: &Path) {
        self.lock().remove(place);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Going>> {
        self.0.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Unmounts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.lock().keys()).finish()
    }
}

/// Whether a mount, by its number, is the only one of a network's file system; `info` is proc_pid_mountinfo(5). Others of the same
/// file system would keep it, and could not do without its server.
pub(super) fn is_last_of_network(info: &str, id: u64) -> bool {
    let Some(own) = mounts(info).find(|listed| listed.id == id) else { return false };
    NETWORK.contains(&own.kind) && mounts(info).filter(|other| other.device == own.device).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn what_takes_long_goes_on_and_is_found_again() {
        let (unmounts, place) = (Unmounts::default(), Path::new("/a"));
        let long = Duration::from_secs(60);
        assert_eq!(unmounts.run(place, false, long, || Err(Errno::BUSY)), Outcome::Ended(Err(Errno::BUSY)));
        assert_eq!(unmounts.run(place, false, long, || Ok(())), Outcome::Ended(Ok(())));
        let (answer, server) = mpsc::channel::<()>();
        let wait = move || server.recv().map_err(|_| Errno::IO);
        let waits = |outcome| matches!(outcome, Outcome::Waits { network: true, .. });
        assert!(waits(unmounts.run(place, true, Duration::ZERO, wait)));
        assert!(unmounts.is_going(place) && !unmounts.is_going(Path::new("/b")));
        let again = || panic!("it is being unmounted already");
        assert!(waits(unmounts.run(place, true, Duration::from_millis(10), again)));
        // Another place does not wait for it.
        assert_eq!(unmounts.run(Path::new("/b"), false, long, || Ok(())), Outcome::Ended(Ok(())));
        answer.send(()).unwrap();
        assert_eq!(unmounts.run(place, true, long, again), Outcome::Ended(Ok(())));
        assert!(!unmounts.is_going(place));
    }

    #[test]
    fn what_was_given_up_is_begun_anew() {
        let (unmounts, place) = (Unmounts::default(), Path::new("/a"));
        let (_kept, server) = mpsc::channel::<()>();
        let wait = move || server.recv().map_err(|_| Errno::IO);
        assert!(matches!(unmounts.run(place, true, Duration::ZERO, wait), Outcome::Waits { .. }));
        unmounts.forget(place);
        let anew = unmounts.run(place, false, Duration::from_secs(60), || Ok(()));
        assert_eq!(anew, Outcome::Ended(Ok(())));
    }

    #[test]
    fn the_last_mount_of_a_network_is_told_from_others() {
        let info = "21 1 254:1 / / rw shared:1 - ext4 /dev/vda rw\n\
                    30 21 0:50 / /a rw - nfs4 server:/x rw,vers=4.1\n\
                    31 21 0:50 /b /b rw shared:9 master:2 - nfs4 server:/x rw,vers=4.1\n\
                    310 21 0:51 / /c\\040d rw - nfs server:/y rw\n";
        let last: Vec<u64> =
            [21, 30, 31, 310, 3].into_iter().filter(|&id| is_last_of_network(info, id)).collect();
        assert_eq!(last, [310]);
    }
}
