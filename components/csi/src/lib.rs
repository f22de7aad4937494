//! Cairn's CSI drivers: local, NFS and iSCSI volumes, in one program without sidecars on the node.
//!
//! Each kind of storage is a driver of its own to Kubernetes (`local.csi.cairn`, `nfs.csi.cairn`, `iscsi.csi.cairn`), with its
//! own socket, capabilities and registration, because what can be promised differs: a local volume has a node, a capacity
//! and snapshots; an export has neither. In the program they are one [`driver::Driver`] each around a
//! [`backend::Backend`].
//!
//! **The driver** does what is the same for all. It checks what requests say and types it ([`id`], [`access`], [`capacity`],
//! [`mount`]); lets one call at a time work on a volume, others get ABORTED ([`locks`]); runs a call to its end
//! on a thread that may block; makes and grows file systems, and never where anything is ([`filesystem`]); encrypts
//! ([`encryption`]); mounts, publishes, measures ([`node`]); and keeps records of that which survive `kill -9` ([`records`]).
//!
//! **A backend** knows where its volumes come from. [`backend::Backend::attach`] brings one to the node as a device or as a
//! detached mount, [`backend::Backend::detach`] takes it away; the calls of the Controller service are its own. It
//! only implements what it announces. [`local`] keeps its volumes' records beside their data; [`nfs`] and [`iscsi`] need none
//! on the node, since a volume's identifier and context say all.
//!
//! **Order is what makes it safe.** On the node a record is written before the first thing is done for it and removed after the
//! last is undone. In a pool a volume is made beside its place and renamed when it is whole. So at a start everything
//! half-made is found and removed, and a call that is made again ends as if it had been made once.

pub mod access;
pub mod backend;
pub mod capacity;
pub mod config;
pub mod controller;
pub mod driver;
pub mod encryption;
pub mod error;
pub mod filesystem;
pub mod fs_group;
pub mod id;
pub mod identity;
pub mod iscsi;
pub mod local;
pub mod locks;
pub mod loopback;
pub mod mount;
pub mod nfs;
pub mod node;
pub mod program;
pub mod records;
pub mod registration;
pub mod server;
mod walk;
