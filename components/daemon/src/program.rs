//! A daemon as a program: what its command line asks for is done, and the exit code says whose fault it is if not (2 the
//! user's, 3 the machine's).

use crate::{
    command_line::{Command, usage},
    config::{ConfigError, Form},
    telemetry,
};
use cairn_contract::runtime::{LogFormat, LogLevel};
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, ffi::OsString, io::Write, path::Path, process::ExitCode};
use tokio::runtime;

/// Bytes of a thread's stack.
const STACK: usize = 512 << 10;

/// What is a daemon's own.
pub trait Daemon {
    /// Its configuration.
    type Config: Serialize + DeserializeOwned + Default;
    /// How that is read and printed.
    const FORM: Form;
    /// What it serves, for its help.
    const SERVES: &'static str;
    /// A command to try it with, for its help; or nothing.
    const EXAMPLE: &'static str;

    /// Its configuration in a file.
    ///
    /// # Errors
    /// Where in the file, what is wrong, and what would be right.
    fn load(path: &Path) -> Result<Self::Config, ConfigError> {
        Self::FORM.load(path)
    }

    /// How it logs.
    fn log(config: &Self::Config) -> (LogFormat, LogLevel);

    /// The threads it needs.
    fn threads() -> runtime::Builder;

    /// Serves until told to stop. The log is on.
    fn serve(config: Self::Config) -> impl Future<Output = Result<(), Box<dyn Error>>>;
}

/// The program, from its arguments to its exit code.
pub fn main<D: Daemon>() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let usage = usage(&D::FORM, D::SERVES, D::EXAMPLE);
    match Command::parse(&arguments, D::FORM.usual) {
        Some(Command::Serve(path)) => match D::load(&path) {
            Ok(config) => serve::<D>(config),
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::Check(path)) => match D::load(&path) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::PrintDefault) => match D::FORM.documented_defaults::<D::Config>() {
            Ok(text) => print(&text),
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::Help) => print(&usage),
        // Cairn's crates have one version.
        Some(Command::Version) => print(&format!("{} {}\n", D::FORM.program, env!("CARGO_PKG_VERSION"))),
        None => refuse(usage.trim_end()),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(3),
    }
}

/// The user's mistake.
fn refuse(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(2)
}

fn serve<D: Daemon>(config: D::Config) -> ExitCode {
    let (format, level) = D::log(&config);
    telemetry::start_log(format, level);
    let runtime = D::threads().thread_stack_size(STACK).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(D::serve(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(3)
        }
    }
}
