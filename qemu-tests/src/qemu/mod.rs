//! Virtual machines.
//!
//! [`arguments::MachineSpec`] says, as data, what a machine is made of and turns into QEMU's command line
//! ([`arguments`], no I/O, so it is tested without QEMU). [`machine::Machine`] is one that runs: its process,
//! its monitor ([`monitor`]) and its serial console ([`serial`]). It never outlives the value that holds it.
//! Disks are copy-on-write overlays ([`overlay`]) over files that are opened for reading alone.

pub mod accelerator;
pub mod arguments;
pub mod firmware;
pub mod machine;
pub mod monitor;
pub mod overlay;
pub mod ports;
pub(crate) mod process;
pub mod program;
pub mod serial;
