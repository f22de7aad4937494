//! `pause`: what a sandbox runs.

use super::{DONE, Failure, Options, Outcome};
use crate::sys;

const SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD];

/// Where the sandbox shares its PID namespace, orphans of all its containers become children of this process.
pub(super) fn run(words: &[&str]) -> Outcome {
    Options::parse(words, &[], &[])?.words::<0>()?;
    sys::block_signals(&SIGNALS).map_err(|e| Failure::os("blocking signals", &e))?;
    sys::reap();
    while sys::wait_for_signal(&SIGNALS) == libc::SIGCHLD {
        sys::reap();
    }
    DONE
}
