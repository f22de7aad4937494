//! What Cairn's gRPC daemons do alike, so that an operator who knows one knows all.
//!
//! A daemon is a [`program`] with a command line and one TOML file ([`config`]). It owns one state directory ([`state`]) whose
//! records survive a crash at any moment ([`record`]), serves gRPC on sockets that are root's and its own alone ([`socket`]),
//! keeps its callers' deadlines ([`deadline`]), tells of itself in logs and Prometheus metrics ([`telemetry`]), and ends in
//! order ([`stopping`]). Those that mount prepare a mount before it can be seen ([`mount_attr`]).

mod command_line;
pub mod config;
pub mod deadline;
mod lock;
pub mod mount_attr;
pub mod program;
pub mod record;
pub mod socket;
pub mod state;
pub mod stopping;
pub mod telemetry;
