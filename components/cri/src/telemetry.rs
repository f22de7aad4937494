//! What the daemon tells of itself: Prometheus metrics, and logs as JSON.

mod http;
mod json;
mod operations;
mod process;

pub use http::serve;
pub use json::JsonLines;
pub use operations::{Observe, Operations};
