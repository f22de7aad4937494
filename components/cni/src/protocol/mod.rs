//! The plugin's side of the CNI specification, 0.1.0 to 1.1.0.
//!
//! <https://github.com/containernetworking/cni/blob/main/SPEC.md>

pub mod error;
pub mod request;
pub mod result;
pub mod version;
