//! What Cairn's gRPC daemons do alike, so that an operator who knows one knows all.
//!
//! A daemon reads one TOML file ([`config`]), owns one state directory ([`socket::lock`]) whose records survive a crash
//! at any moment ([`record`]), serves gRPC on sockets that are root's alone ([`socket::listen`]), keeps its callers'
//! deadlines ([`deadline`]), and tells of itself in logs and Prometheus metrics ([`telemetry`]). Those that
//! mount prepare a mount before it can be seen ([`mount_attr`]).

pub mod config;
pub mod deadline;
pub mod mount_attr;
pub mod record;
pub mod socket;
pub mod telemetry;
