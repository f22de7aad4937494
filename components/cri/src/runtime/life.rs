//! Whether the process at the other end of a socket still lives.
//!
//! The end of the connection does not tell: a child that was to become a container holds copies of the shim's
//! sockets until it runs the container's program, and waits for ever when the shim is killed before that.
#![allow(unsafe_code)] // tokio asks for a promise about a descriptor.

use rustix::{
    net::sockopt::socket_peercred,
    process::{PidfdFlags, pidfd_open},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Becomes readable once the process that listened at the other end has ended. ESRCH when it has already.
pub(super) fn of_peer(socket: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let process = pidfd_open(socket_peercred(socket)?.pid, PidfdFlags::empty())?;
    // SAFETY: the `AsyncFd` owns the descriptor, so it stays open for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) }?)
}
