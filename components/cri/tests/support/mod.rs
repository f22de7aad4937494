//! What the tests with a daemon share: a node of a test's own, an image made of the machine's static busybox, calls to the
//! daemon, and a look at what is left behind.

#![allow(dead_code)] // no test uses all of it

pub(crate) mod calls;
pub(crate) mod collector;
pub(crate) mod image;
pub(crate) mod leaks;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod registry;

use std::{
    process::Command,
    time::{Duration, Instant},
};

/// Longest that anything may take which takes a moment on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// Why a test with containers cannot run here.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let is_static =
        Command::new(image::BUSYBOX).arg("true").env_clear().status().is_ok_and(|status| status.success());
    (!is_static).then_some("needs a static /bin/busybox (Debian: busybox-static)")
}

/// Ends a test that has an obstacle, and says so even though it passes: the harness captures `println!` only.
macro_rules! unless {
    ($obstacle:expr) => {
        if let Some(reason) = $obstacle {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "skipped: {reason}");
            return;
        }
    };
}
pub(crate) use unless;

/// Looks until there is something to see; else says what is the matter.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>, matter: impl FnOnce() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        if Instant::now() > deadline {
            panic!("{}", matter());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
