//! Commands with streams, attached clients and forwarded ports, with the real shim, as root.
//!
//! The daemon's half runs in the test itself: what a client's connection would carry goes through pipes in memory, save in
//! [`url`], where it goes over TCP.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attach;
mod client;
mod commands;
mod node;
mod ports;
#[path = "../support/mod.rs"]
mod support;
mod terminals;
mod url;

/// What a container does that is only there for commands.
const FOREVER: &str = "while :; do sleep 1; done";
