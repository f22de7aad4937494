//! What a source tells whoever watches it work.

use std::time::Duration;

/// One thing that happened. Texts are for people; numbers add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Downloads begin: how many files, and how many bytes all together as far as known.
    Downloading {
        /// Files that are not in the cache.
        files: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// So many more bytes are here; also those a resumed download already had.
    Received(u64),
    /// So many bytes that were counted are of no use and come again.
    Discarded(u64),
    /// One download is complete and verified.
    Downloaded(&'a str),
    /// A download failed in a way that may pass.
    Retrying {
        /// What is downloaded.
        what: &'a str,
        /// Why it failed.
        why: &'a str,
        /// When it is tried again.
        delay: Duration,
    },
    /// A line that a person should read, such as a package that had to be resolved again.
    Notice(&'a str),
    /// A line that cargo wrote.
    Cargo(&'a str),
}

/// Takes the events; called from several threads.
pub type Progress<'a> = dyn Fn(Event<'_>) + Sync + 'a;

/// A watcher that is not interested.
pub fn silent(_: Event<'_>) {}
