//! How a client gets into a container: exec, attach and port-forward, at the hop between kubelet (or crictl) and the
//! container runtime.
//!
//! CRI's Exec, Attach and PortForward do not carry bytes. They answer with a URL, and the client comes to that URL
//! with an HTTP/1.1 request which it upgrades: to SPDY/3.1, as every kubelet and crictl does, or to a WebSocket. On
//! the upgraded connection several byte streams run side by side: a process's standard input, output and error,
//! the sizes of its terminal, its exit status; or the two directions of forwarded ports.
//!
//! This crate is that server, and no more: what a stream is connected to is the business of a [`Runtime`]. A
//! [`Server`] remembers what was asked for under a token that works once and for a minute ([`Server::url`]), and
//! calls the runtime when the client has come and opened its streams.
//!
//! Inside, what can be computed is apart from what must be waited for. [`spdy`] and [`websocket`] are
//! state machines without input or output of their own: bytes in, events out; commands in, bytes out. They are symmetric, so
//! that tests hold both ends, and take any bytes without panicking, so that they are fuzzed. One driver
//! moves bytes between a socket and such a machine, and hands out the streams as tokio's `AsyncRead` and `AsyncWrite`.
//!
//! **Memory is bounded everywhere.** A stream keeps at most one window (256 KiB) of what its reader has not taken, a
//! connection at most 64 KiB of what its client has not; beyond that nobody reads, and the pressure reaches
//! the one who writes: the process in the container, or the client. See [`spdy`] for how this goes together with Go
//! clients, which know no windows.

mod connection;
mod link;
mod negotiate;
mod port_forward;
mod remote_command;
mod request;
mod server;
pub mod spdy;
mod status;
mod tokens;
pub mod websocket;

pub use request::{Attach, Exec, Finish, Input, Output, PortForward, Request, Runtime, Stdio, TerminalSize};
pub use server::{CREATION_TIMEOUT, IDLE_TIMEOUT, Server};
pub use tokens::UrlError;
