//! Builds immutable Kubernetes worker-node images.

pub mod tree;
