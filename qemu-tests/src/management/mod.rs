//! A client of the node's management API: gRPC over mutual TLS, and the node's sockets behind its tunnel.
//!
//! The harness and `cairn node` are two users of it. Who the client is comes from [`Credentials`], where the node
//! is from a [`Place`]; both together are an [`Address`], which is [connected](connect) at once for a person who
//! wants to hear what is wrong, or [when needed](open) for a harness that waits for a node to come up.

mod channel;
mod credentials;
mod place;
pub mod tunnel;

pub use channel::{Address, ConnectError, connect, open};
pub(crate) use credentials::CA_FILE;
pub use credentials::{Credentials, CredentialsError};
pub use place::{InvalidPlace, Place};
