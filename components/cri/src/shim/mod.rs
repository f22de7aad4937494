//! `cairn-shim`: one process per pod, with one thread, that outlives the daemon.
//!
//! It makes the pod's namespaces ([`sandbox`]), starts containers in them through libcontainer ([`launch`]),
//! copies their output to CRI log files ([`log`]) and to attached clients, reaps them, and writes how each ended to disk before it tells
//! anyone. libcontainer runs Rust code in a child right after a raw `clone3`, which is sound only in a process with
//! one thread: that, and living on while the daemon is replaced, is why the shim is a process of its own.

mod child;
mod command;
mod connection;
mod container;
pub mod launch;
mod lean;
pub mod log;
mod pause;
mod request;
pub mod sandbox;
mod serve;
pub mod stage;
mod stdio;
mod stream;
mod tap;

pub(crate) use serve::SOCKET;
pub use serve::serve;

use std::path::Path;

/// `cairn-shim ARGUMENTS`: `serve SETUP.json`, `pause`, or `probe DIRECTORY`. The result is the exit status.
pub fn run(arguments: &[String]) -> u8 {
    match arguments {
        [command, setup] if command == "serve" => serve(Path::new(setup)),
        [command] if command == "pause" => pause::run(),
        [command, directory] if command == "probe" => match sandbox::probe(Path::new(directory)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        },
        _ => {
            tracing::error!("usage: cairn-shim serve SETUP.json; it is started by cairn-cri");
            2
        }
    }
}
