//! What the parts of Cairn must agree on, in one place, so that no two of them describe it twice.
//!
//! The builder writes an image; the programs in `components/` run in it; the harness in `qemu-tests/` talks to
//! it from outside. They meet in four kinds of things: paths and sockets ([`paths`]), lines on the console
//! ([`console`]), documents ([`machine`], [`runtime`], [`storage`], [`baked`], [`manifest`]) and RPC services ([`cri`], [`csi`],
//! [`pluginregistration`], [`management`], behind features). Nothing here does I/O.

pub mod baked;
pub mod console;
pub mod digest;
pub mod machine;
pub mod manifest;
pub mod paths;
pub mod runtime;
pub mod storage;

/// Kubernetes' Container Runtime Interface v1, generated from `proto/cri.proto`.
#[cfg(feature = "cri")]
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// The Container Storage Interface 1.12, generated from `proto/csi.proto`.
#[cfg(feature = "csi")]
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// How a plugin registers with the kubelet, v1, generated from `proto/pluginregistration.proto` (feature `csi`).
#[cfg(feature = "csi")]
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}

/// The node's management API, generated from `proto/management.proto`.
#[cfg(feature = "management")]
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod management {
    tonic::include_proto!("cairn.management.v1");

    /// Certificate organisation of a client that may do everything.
    pub const ROLE_ADMIN: &str = "cairn:admin";
    /// Certificate organisation of a client that may only look.
    pub const ROLE_READER: &str = "cairn:reader";
}
