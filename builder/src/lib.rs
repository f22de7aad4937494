//! Builds immutable Kubernetes worker-node images.

pub mod cli;
pub mod format;
pub mod image;
pub mod lock;
pub mod profile;
pub mod source;
pub mod tree;
