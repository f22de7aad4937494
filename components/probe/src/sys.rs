//! System calls that have no safe wrapper, each wrapped here once.
#![allow(unsafe_code)] // fork, sigwait and raw system calls are what some applets exist to try.

use std::io;

/// Blocks the signals, so that [`wait_for_signal`] gets them.
pub(crate) fn block_signals(signals: &[i32]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; the old set is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for one of the signals, which must be blocked.
pub(crate) fn wait_for_signal(signals: &[i32]) -> i32 {
    let set = signal_set(signals);
    let mut signal = 0;
    // SAFETY: both pointers are to live, initialised values.
    while unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {}
    signal
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, which sigemptyset initialises.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Collects every child that has ended.
pub(crate) fn reap() {
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
}

/// Makes a child that sleeps until it is killed. Only for single-threaded processes.
pub(crate) fn fork_sleeper() -> io::Result<i32> {
    // SAFETY: no other thread exists, so the child finds no lock held; it calls nothing but pause.
    match unsafe { libc::fork() } {
        0 => loop {
            // SAFETY: takes nothing, touches nothing.
            unsafe { libc::pause() };
        },
        child if child > 0 => Ok(child),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Kills a child and collects it.
pub(crate) fn kill_child(child: i32) {
    // SAFETY: plain system calls on our own child, which nobody else collects.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

/// Makes a system call. The arguments must be ones that can do no harm to this process; the applet's table has
/// only null pointers, pointers to constant strings, and numbers.
pub(crate) fn raw(number: libc::c_long, arguments: [usize; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: see above; the kernel checks all it is given and writes to none of the addresses in the table.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
