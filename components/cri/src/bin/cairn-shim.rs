//! The shim of one pod; see [`cairn_cri::shim`].

use std::{os::fd::AsFd, process::ExitCode, sync::Mutex};

fn main() -> ExitCode {
    // Containers are set up in forked children whose standard error is already the container's: messages go to a
    // descriptor of our own, closed by exec.
    let log = std::io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
    if let Ok(log) = log {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(Mutex::new(log))
            .init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ExitCode::from(cairn_cri::shim::run(&arguments))
}
