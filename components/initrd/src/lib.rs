//! The pure half of `/init`: what is read from a kernel command line, a partition table, a verity superblock
//! and the module index, and what is asked of the device mapper. Nothing here does I/O.
//!
//! The builder depends on this library for one thing: [`index`], the list of kernel modules it packs into the
//! initramfs. Everything else is public so that it can be tested apart from a booting machine.

pub mod cmdline;
pub mod devmapper;
pub mod glob;
pub mod gpt;
pub mod index;
pub mod verity;
