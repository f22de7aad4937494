//! Processes that the shim started: awaited, signalled, and how they ended.

use rustix::process::{Pid, PidfdFlags, Signal, WaitStatus, kill_process, pidfd_open};
use std::{io, os::fd::OwnedFd};

/// A descriptor that becomes readable when the process ends.
pub(super) fn watch(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Sends a signal by its number.
pub(super) fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process"))?;
    let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other("not a named signal"))?;
    Ok(kill_process(pid, signal)?)
}

/// Exit status, or 128 and the signal.
pub(super) fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255)
}
