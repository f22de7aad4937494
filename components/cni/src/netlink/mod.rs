//! The kernel's side: netlink, spoken directly.
//!
//! A plugin run sends a dozen messages. One codec of two hundred lines serves rtnetlink, nf_tables and conntrack
//! alike, in a binary a fraction of the size that typed crates for all three would make, and lets one message say
//! what takes several through a general API (a veth with its peer in another namespace, enslaved).
//!
//! Numbers are from the kernel's uapi headers, named as there and cited where they are defined.

pub mod codec;
pub mod conntrack;
pub mod device;
pub mod link;
pub mod nftables;
pub mod policy;
pub mod route;
pub mod socket;
pub(crate) mod sys;
pub mod traffic;
pub mod vf;
