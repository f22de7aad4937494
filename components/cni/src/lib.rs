//! CNI plugins in one binary: what [`plugin::Plugin`] lists.
//!
//! A CNI plugin is a program that a container runtime starts once per operation: parameters in the environment,
//! network configuration on stdin, result or error as JSON on stdout. Every start is paid for by a waiting pod, so
//! a plugin here is one short, single-threaded run of plain system calls: no async runtime, no `ip`, `nft` or
//! `iptables` child, and the veth peer is born inside the pod's namespace under its final name. What has to outlive a
//! run, leases of DHCP servers, is kept by a daemon ([`dhcp::daemon`]).
//!
//! - [`protocol`]: the CNI specification's side: requests, results, errors, versions.
//! - [`netlink`]: the kernel's side: links, addresses, routes, nf_tables, conntrack.
//! - [`loopback`], [`bridge`], [`ptp`], [`macvlan`], [`ipvlan`], [`vlan`], [`dummy`], [`tap`], [`host_device`], [`sriov`]: plugins
//!   that give a pod an interface. `interface` is the life that most of them share.
//! - [`host_local`], [`static_ipam`], [`dhcp`]: plugins that give it addresses.
//! - [`portmap`], [`firewall`], [`bandwidth`], [`tuning`], [`sbr`], [`vrf`]: plugins chained after those.
//! - [`ruleset`]: the one nf_tables table that all rules are in.

pub mod announce;
pub mod bandwidth;
pub mod bridge;
mod checksum;
pub mod delegate;
pub mod dhcp;
pub mod dummy;
pub mod firewall;
pub mod host_device;
pub mod host_local;
pub mod install;
mod interface;
pub mod ipvlan;
mod loan;
pub mod loopback;
pub mod macvlan;
mod masquerade;
pub mod netlink;
pub mod netns;
pub mod network;
mod parent;
pub mod plugin;
mod pod;
pub mod portmap;
pub mod protocol;
pub mod ptp;
pub mod ruleset;
pub mod sbr;
pub mod sriov;
pub mod static_ipam;
pub mod sysctl;
mod sysfs;
pub mod tap;
pub mod tuning;
mod veth;
pub mod vlan;
pub mod vrf;
