//! `cairn-csi`: the daemon. See the library's documentation.

use cairn_contract::{paths, storage::StorageConfig};
use cairn_csi::{
    config::{self, FORM},
    server,
};
use cairn_daemon::telemetry;
use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

const USAGE: &str = "\
usage: cairn-csi [--config PATH]     serve the CSI drivers
       cairn-csi config default      print the default configuration, with what each key means
       cairn-csi config check PATH   check a configuration
       cairn-csi --help | --version

example: cairn-csi config default > /etc/cairn/csi.toml
         cairn-csi --config /etc/cairn/csi.toml
";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
enum Command {
    Serve(PathBuf),
    PrintDefault,
    Check(PathBuf),
    Help,
    Version,
}

impl Command {
    /// `None` when it makes no sense.
    fn parse(arguments: &[OsString]) -> Option<Self> {
        let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
        Some(match words.as_slice() {
            [] => Self::Serve(paths::CSI_CONFIG.into()),
            ["--config", _] => Self::Serve(arguments[1].clone().into()),
            ["config", "default"] => Self::PrintDefault,
            ["config", "check", _] => Self::Check(arguments[2].clone().into()),
            ["--help" | "-h" | "help"] => Self::Help,
            ["--version"] => Self::Version,
            _ => return None,
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let load = |path: &Path| config::load(path, paths::CSI_CONFIG);
    match Command::parse(&arguments) {
        Some(Command::Serve(path)) => match load(&path) {
            Ok(config) => serve(config),
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::Check(path)) => match load(&path) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::PrintDefault) => match FORM.documented_defaults::<StorageConfig>() {
            Ok(text) => print(&text),
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::Help) => print(USAGE),
        Some(Command::Version) => print(concat!("cairn-csi ", env!("CARGO_PKG_VERSION"), "\n")),
        None => refuse(USAGE.trim_end()),
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

fn serve(config: StorageConfig) -> ExitCode {
    telemetry::start_log(config.log_format, config.log_level);
    // One thread talks; what blocks has threads of its own, at most one a volume, which end soon when there is nothing
    // to do.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(64)
        .thread_stack_size(512 << 10)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(server::run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_to_do() {
        let parse =
            |line: &str| Command::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(parse(""), Some(Command::Serve(paths::CSI_CONFIG.into())));
        assert_eq!(parse("--config /x"), Some(Command::Serve("/x".into())));
        assert_eq!(parse("config default"), Some(Command::PrintDefault));
        assert_eq!(parse("config check /x"), Some(Command::Check("/x".into())));
        assert_eq!(parse("--version"), Some(Command::Version));
        for bad in ["--config", "config", "config check", "serve", "--config /x y"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
