//! The runtime's side of the Node Resource Interface: plugins that see pods and containers come and go, and may change
//! containers before they start.
//!
//! A plugin is a program of the operator's. It connects to a socket (or is started with one), says its name and a two-digit
//! index, and which events it wants. Then it is told what there is ([`Host::inventory`]), and from then on what happens,
//! each event to one plugin after the other, by index. At a container's creation each answers with changes;
//! [`merge`] puts them together and refuses contradictions. What the changes mean is the runtime's matter: nothing here
//! knows an OCI specification or a cgroup.
//!
//! No event is lost to a plugin that is just coming, and none told twice: the runtime holds a [`Held`] from the moment
//! it asks plugins about something until that something is part of its inventory, and a plugin is brought up to
//! date only while nobody holds one. A plugin that answers too late, or not in the protocol's terms, is cut off,
//! and things go on as if it had not been there. One that says no is heard.
//!
//! On the wire there are three layers, each a module without I/O: [`mux`] makes two connections of one, [`ttrpc`] has messages
//! on each, [`session`] has calls in both directions. [`connection`] puts them on a socket.

pub mod connection;
pub mod event;
mod launch;
pub mod merge;
pub mod mux;
mod plugin;
mod plugins;
mod serve;
pub mod session;
pub mod ttrpc;

pub use plugins::{Held, NriError, Plugins};
pub use serve::{Host, ServeError, Settings};

/// NRI's messages, generated from `proto/nri.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/nri.rs"));
}

/// What is inside ttRPC's messages, generated from `proto/ttrpc.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}
