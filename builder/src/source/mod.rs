//! Where the files of an image come from, and how each source becomes a [`crate::tree`].
//!
//! A source has two halves. The first brings bytes named by a digest into the [`cache`] ([`fetch`], the only
//! place that talks to a network); the second turns cached bytes into entries of a tree without any more
//! network, and without writing small files: a package's archive is decompressed once, and its files are
//! ranges of that one file ([`archive`]).
//!
//! - [`deb`]: Debian packages, from a signed archive, unpacked without running anything of theirs;
//! - [`cargo`]: our own components, built statically;
//! - [`file`]: a directory of this repository;
//! - [`url`]: one file by URL and digest;
//! - [`oci`]: container images to be baked in.

pub mod archive;
pub mod cache;
pub mod cargo;
pub mod deb;
pub mod fetch;
pub mod file;
pub mod oci;
pub mod progress;
pub mod url;
