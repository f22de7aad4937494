//! What a daemon tells of itself: Prometheus metrics, and logs as text or JSON.

mod http;
mod json;
mod operations;
mod process;

pub use http::{MetricsError, serve};
pub use json::JsonLines;
pub use operations::{Observe, Observed, Operations};

use cairn_contract::runtime::{LogFormat, LogLevel};
use tracing_subscriber::EnvFilter;

/// Starts the log on standard error. The environment's RUST_LOG goes before `level`.
pub fn start_log(format: LogFormat, level: LogLevel) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.name()));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.event_format(JsonLines).init(),
    }
}
