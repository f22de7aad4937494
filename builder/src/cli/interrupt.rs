//! Ctrl-C while work is under way that cannot be asked to stop: what is half made goes away, then the program ends.

use super::Failure;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the program is ending because of a signal.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM run `clean_up`, say `outcome` and end the program. The work goes on in its
/// threads while `clean_up` runs.
///
/// # Errors
/// The thread that waits for the signals cannot be started.
pub(super) fn on_interrupt(
    outcome: &'static str,
    clean_up: impl FnOnce() + Send + 'static,
) -> Result<(), Failure> {
    let refused = |error| Failure::machine(format!("cannot wait for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    let (mut interrupt, mut terminate) = {
        // Registered before this returns: a signal from here on is not missed.
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).map_err(refused);
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::SeqCst);
        clean_up();
        let failure = Failure::machine(format!("interrupted: {outcome}"));
        let code = i32::from(failure.code());
        failure.report();
        std::process::exit(code);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(refused)
}

/// Does not return once a signal came: what the work says after its files were taken away is of no interest, and
/// the thread that takes them away ends the program.
pub(super) fn leave_the_end_to_a_signal() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}
