//! Boots a Cairn image in QEMU and proves what it promises: without root, without KVM, without a network, without
//! a container engine and without changing a byte of it.
//!
//! # The idea
//!
//! The image under test is, bit for bit, the image that ships, and the harness is only another operator: it gives
//! the node a machine config, talks to its management API over mutual TLS, tunnels to its CRI socket and reads its
//! serial console ([`guest`], [`management`], [`node`]). Machines are disposable overlays of the image ([`qemu`]); what a node
//! needs from outside, a registry above all, the harness serves from its own process ([`registry`]).
//!
//! A *scenario* ([`scenario`], the list is [`scenarios`]) shows one thing, names the requirements that this
//! proves, and ends as passed, failed, skipped or broken. One boot serves all scenarios that leave the machine as
//! they found it. Deadlines are multiples of a speed measured during boot ([`pace`]). The result is a [`Report`]
//! bound to the image's digest.
//!
//! [`test`] does all of it; [`run()`] boots an image for a person instead.

pub mod error;
pub mod guest;
pub mod image;
pub mod lab;
pub mod management;
pub mod node;
pub mod pace;
pub mod peer;
pub mod qemu;
pub mod registry;
pub mod report;
mod run;
pub mod scenario;
pub mod scenarios;
pub mod storage;
mod test;

pub use error::{Error, Fault, UserError};
pub use qemu::accelerator::Choice;
pub use report::{Outcome, Report, terminal::Display};
pub use run::{RunOptions, run};
pub use test::{TestOptions, test};
