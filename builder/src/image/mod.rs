//! From a locked profile to a bootable disk.
//!
//! [`build`] runs the stations in their order: inputs ([`inputs`]), the tree ([`root`]), the root file system and
//! its hash tree, the initramfs ([`initrd`]), the UKI, the disk ([`disk`]), the manifest. Everything is written
//! into a directory beside the output, which takes the output's place when all is done ([`output`]), provided that
//! the finished image holds up to [`check`].
//!
//! The way back, from a finished image to what is in it, starts at [`artifact`]: [`inspect`] shows, [`verify`] judges.

pub mod artifact;
pub mod build;
pub mod check;
pub mod disk;
pub mod identity;
pub mod initrd;
pub mod inputs;
pub mod inspect;
pub mod output;
pub mod root;
pub mod verify;
