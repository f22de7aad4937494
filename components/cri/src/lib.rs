//! Cairn's container runtime: Kubernetes' CRI on one side, libcontainer on the other.
//!
//! Two programs. `cairn-cri`, the daemon, serves RuntimeService and ImageService ([`runtime`], [`image`]) on a unix
//! socket; it decides, records and remembers. `cairn-shim` ([`shim`]), one process per pod, does what must
//! be done by a process that lives as long as the pod: it holds namespaces and containers, writes their logs, and
//! reports how they end. They talk over a socket ([`protocol`]), and either may die without the other: the daemon finds
//! its shims again, and a shim's exits are on disk before they are told.
//!
//! The rest are the crafts both use: [`spec`] turns a CRI container into an OCI configuration, [`cgroup`] limits and
//! measures, [`network`] calls CNI plugins, [`snapshot`] mounts root file systems, [`userns`] and [`idmap`] give pods users of
//! their own, [`apparmor`] finds their profiles, [`traces`] tells what calls take their time for, [`watchdog`] tells systemd that
//! the daemon lives. What every daemon does alike is in [`cairn_daemon`]; its [`record`] writes what survives.

pub mod apparmor;
pub mod cgroup;
pub mod config;
pub mod idmap;
pub mod image;
mod message;
pub mod network;
pub mod protocol;
pub mod runtime;
pub mod shim;
pub mod snapshot;
pub mod spec;
pub mod traces;
pub mod userns;
pub mod watchdog;

pub use cairn_daemon::record;
