//! A container registry in the harness's own process, on the host's loopback.
//!
//! Guests reach it at 10.0.2.2 through QEMU's user network; no container engine, no root, no network. Images are
//! made in memory ([`synthesis`]) and served by the pull half of the OCI distribution specification ([`server`]).
//! It can be told to misbehave ([`fault`]), because real registries do.

pub mod fault;
pub mod server;
pub mod synthesis;

pub use fault::Fault;
pub use server::{Access, Registry, RequestRecord};
pub use synthesis::{ImageBuilder, Layer, SyntheticImage, SyntheticIndex};
