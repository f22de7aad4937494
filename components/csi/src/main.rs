//! `cairn-csi`: the daemon. See the library's documentation.

use cairn_contract::{
    runtime::{LogFormat, LogLevel},
    storage::StorageConfig,
};
use cairn_csi::{config, server};
use cairn_daemon::{
    config::{ConfigError, Form},
    program::{self, Daemon},
};
use std::{error::Error, path::Path, process::ExitCode, time::Duration};

fn main() -> ExitCode {
    program::main::<Csi>()
}

struct Csi;

impl Daemon for Csi {
    type Config = StorageConfig;
    const FORM: Form = config::FORM;
    const SERVES: &'static str = "the CSI drivers";
    const EXAMPLE: &'static str = "";

    fn load(path: &Path) -> Result<StorageConfig, ConfigError> {
        config::load(path)
    }

    fn log(config: &StorageConfig) -> (LogFormat, LogLevel) {
        (config.log_format, config.log_level)
    }

    /// One thread talks; what blocks has threads of its own, at most one a volume, which end soon when there is
    /// nothing to do.
    fn threads() -> tokio::runtime::Builder {
        let mut threads = tokio::runtime::Builder::new_current_thread();
        threads.max_blocking_threads(64).thread_keep_alive(Duration::from_secs(2));
        threads
    }

    async fn serve(config: StorageConfig) -> Result<(), Box<dyn Error>> {
        server::run(config).await
    }
}
