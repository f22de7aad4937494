//! `cairn-cri`: the daemon. See the library's documentation.

use cairn_contract::{
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
    paths,
    runtime::RuntimeConfig,
};
use cairn_cri::{
    apparmor,
    config::FORM,
    image::{ImageServer, ImageService},
    runtime::{Runtime, RuntimeServer},
    watchdog,
};
use cairn_daemon::{
    config::ConfigError,
    deadline::Deadlines,
    socket::{listen, lock, stopped},
    telemetry::{self, Observe, Operations},
};
use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// gRPC's default is 4 MiB; a command's captured output is up to 16 MiB a stream, and kubelet's limit is 16 MiB.
const MESSAGE_LIMIT: usize = 40 << 20;

/// How long open requests may take to finish when the daemon is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

const USAGE: &str = "\
usage: cairn-cri [--config PATH]     serve CRI
       cairn-cri config default      print the default configuration, with what each key means
       cairn-cri config check PATH   check a configuration
       cairn-cri --help | --version

example: cairn-cri config default > /etc/cairn/cri.toml
         cairn-cri --config /etc/cairn/cri.toml
         crictl --runtime-endpoint unix:///run/cairn/cri.sock info
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
            [] => Self::Serve(paths::CRI_CONFIG.into()),
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
    match Command::parse(&arguments) {
        Some(Command::Serve(path)) => match load(&path) {
            Ok(config) => serve(config),
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::Check(path)) => match load(&path) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::PrintDefault) => match FORM.documented_defaults::<RuntimeConfig>() {
            Ok(text) => print(&text),
            Err(error) => refuse(&error.to_string()),
        },
        Some(Command::Help) => print(USAGE),
        Some(Command::Version) => print(concat!("cairn-cri ", env!("CARGO_PKG_VERSION"), "\n")),
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

fn serve(config: RuntimeConfig) -> ExitCode {
    telemetry::start_log(config.log_format, config.log_level);
    // Requests wait more than they work; two workers keep one slow fsync from holding up the rest. Each layer that is
    // fetched has a blocking thread for as long as it takes: there are enough that nothing else has to wait for one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(128)
        .thread_stack_size(512 << 10)
        .enable_all()
        .build();
    let result = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(config)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(3)
        }
    }
}

/// The configuration; an absent file means the defaults only at the default place.
fn load(path: &Path) -> Result<RuntimeConfig, ConfigError> {
    FORM.load(path, paths::CRI_CONFIG)
}

async fn run(config: RuntimeConfig) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&config.state)?;
    fs::create_dir_all(&config.run)?;
    let _lock = lock("cairn-cri", &config.state).await?;
    // A daemon that a kubelet can reach is one that knows its containers: the socket comes last.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Compiling policy takes a while, on a thread of its own.
    let policy = tokio::task::spawn_blocking(apparmor::load_default);
    let images = ImageService::open(&config).await?;
    let runtime = Runtime::open(config.clone(), images.clone()).await?;
    if let Err(error) = policy.await? {
        tracing::warn!("containers run without the default AppArmor profile: {error}");
    }
    runtime.serve_nri().await?;
    let operations = Operations::new("cairn_cri", "CRI");
    if let Some(address) = config.metrics_address {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot serve metrics at {address} (metrics_address): {error}"))?;
        tracing::info!(%address, "metrics");
        let counts = runtime.clone();
        let render = move |text: &mut String| counts.render_counts(text);
        tokio::spawn(telemetry::serve(listener, operations.clone(), render));
    }
    let address = config.streaming_address;
    let streaming = cairn_streaming::Server::bind(
        address,
        cairn_streaming::IDLE_TIMEOUT,
        cairn_streaming::CREATION_TIMEOUT,
    )
    .map_err(|error| format!("cannot serve streams at {address} (streaming_address): {error}"))?;
    tracing::info!(address = %streaming.address(), "streaming");
    let (server, streams) = (streaming.clone(), Arc::new(runtime.clone()));
    let stopping = CancellationToken::new();
    tokio::spawn(stop(stopping.clone()));
    let ended = stopping.clone();
    tokio::spawn(async move { server.serve(streams, ended.cancelled_owned()).await });
    let listener = listen(&config.socket)?;
    let images = ImageServiceServer::new(ImageServer::new(images)).max_decoding_message_size(MESSAGE_LIMIT);
    let served = runtime.clone();
    let server = RuntimeServer::new(runtime.clone(), streaming, stopping.clone());
    let server = RuntimeServiceServer::new(server).max_encoding_message_size(MESSAGE_LIMIT);
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    if let Some(interval) = sd_notify::watchdog_enabled() {
        watchdog::keep(interval, runtime, config.socket.clone())?;
    }
    tracing::info!(socket = %config.socket.display(), "ready");
    let serving = Server::builder()
        .layer(Observe(operations))
        .layer(Deadlines)
        .add_service(server)
        .add_service(images)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopping.clone().cancelled_owned());
    let patience = async {
        stopping.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        served = serving => served?,
        () = patience => {}
    }
    served.shut_down_nri().await;
    let _ = fs::remove_file(&config.socket);
    Ok(())
}

/// Says, when the daemon is told to end, that it is time to stop. Containers run on.
async fn stop(stopping: CancellationToken) {
    stopped().await;
    tracing::info!("stopping: open requests have {} s, containers run on", STOP_PATIENCE.as_secs());
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stopping.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_to_do() {
        let parse =
            |line: &str| Command::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(parse(""), Some(Command::Serve(paths::CRI_CONFIG.into())));
        assert_eq!(parse("--config /x"), Some(Command::Serve("/x".into())));
        assert_eq!(parse("config check /x"), Some(Command::Check("/x".into())));
        assert_eq!(parse("config default"), Some(Command::PrintDefault));
        for bad in ["--config", "serve", "--config a b", "config"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
