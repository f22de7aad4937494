//! CNI plugins in one binary: `loopback`, `bridge`, `host-local`, `portmap`.
//!
//! A CNI plugin is a program that a container runtime starts once per operation: parameters in the environment,
//! network configuration on stdin, result or error as JSON on stdout. Every start is paid for by a waiting pod, so
//! a plugin here is one short, single-threaded run of plain system calls: no async runtime, no `ip`, `nft` or
//! `iptables` child, and the veth peer is born inside the pod's namespace under its final name.
//!
//! - [`protocol`]: the CNI specification's side: requests, results, errors, versions.
//! - [`netlink`]: the kernel's side: links, addresses, routes, nf_tables, conntrack.
//! - [`loopback`], [`bridge`], [`host_local`], [`portmap`]: the plugins.
//! - [`firewall`]: the one nf_tables table that `bridge` and `portmap` share.

pub mod announce;
pub mod bridge;
pub mod delegate;
pub mod firewall;
pub mod host_local;
pub mod install;
pub mod loopback;
pub mod netlink;
pub mod netns;
pub mod network;
pub mod plugin;
pub mod portmap;
pub mod protocol;
pub mod sysctl;
