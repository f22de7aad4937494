//! Child processes that die with us.
#![allow(unsafe_code)] // `pre_exec` is unsafe by nature; what runs there is two system calls.

use rustix::process::{Signal, nice, set_parent_process_death_signal};
use std::io;
use tokio::process::Command;

/// The kernel kills the child when the thread that starts it ends, however it ends; the child gives way to
/// other programs by `niceness` (0 to 19).
///
/// The death signal follows the *thread*, so this belongs on the runtime's own threads, which live as long
/// as the program, and never in `spawn_blocking`, whose threads come and go.
pub(crate) fn leash(command: &mut Command, niceness: i32) {
    command.kill_on_drop(true);
    let before_exec = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if niceness != 0 {
            nice(niceness)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec. It makes two system calls, allocates nothing and takes
    // no lock.
    unsafe {
        command.pre_exec(before_exec);
    }
}
