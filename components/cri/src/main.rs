//! `cairn-cri`: the daemon. See the library's documentation.

use cairn_contract::{
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
    paths,
    runtime::{LogFormat, RuntimeConfig},
};
use cairn_cri::{
    apparmor,
    config::{self, ConfigError},
    deadline::Deadlines,
    image::{ImageServer, ImageService},
    runtime::{Runtime, RuntimeServer},
    telemetry::{self, JsonLines, Observe, Operations},
};
use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing_subscriber::EnvFilter;

/// gRPC's default is 4 MiB; a command's captured output is up to 16 MiB a stream, and kubelet's limit is 16 MiB.
const MESSAGE_LIMIT: usize = 40 << 20;

/// How long open requests may take to finish when the daemon is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long, in all, a daemon waits for the one it replaces.
const LOCK_ATTEMPTS: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

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
        Some(Command::PrintDefault) => match config::documented_defaults() {
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

fn start_log(config: &RuntimeConfig) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(config.log_level.name()));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.event_format(JsonLines).init(),
    }
}

fn serve(config: RuntimeConfig) -> ExitCode {
    start_log(&config);
    // Requests wait more than they work; two workers keep one slow fsync from holding up the rest.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
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
    match fs::read_to_string(path) {
        Ok(text) => config::parse(path, &text),
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(paths::CRI_CONFIG) =>
        {
            Ok(RuntimeConfig::default())
        }
        Err(source) => Err(ConfigError::Read { path: path.to_path_buf(), source }),
    }
}

async fn run(config: RuntimeConfig) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&config.state)?;
    fs::create_dir_all(&config.run)?;
    let _lock = lock(&config.state).await?;
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
    let operations = Operations::default();
    if let Some(address) = config.metrics_address {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot serve metrics at {address} (metrics_address): {error}"))?;
        tracing::info!(%address, "metrics");
        tokio::spawn(telemetry::serve(listener, runtime.clone(), operations.clone()));
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
    tokio::spawn(async move { server.serve(streams, stopped()).await });
    let listener = listen(&config.socket)?;
    let images = ImageServiceServer::new(ImageServer::new(images)).max_decoding_message_size(MESSAGE_LIMIT);
    let served = runtime.clone();
    let runtime = RuntimeServiceServer::new(RuntimeServer::new(runtime, streaming))
        .max_encoding_message_size(MESSAGE_LIMIT);
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    tracing::info!(socket = %config.socket.display(), "ready");
    let serving = Server::builder()
        .layer(Observe(operations))
        .layer(Deadlines)
        .add_service(runtime)
        .add_service(images)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped());
    // A kubelet's event stream never ends by itself.
    let patience = async {
        stopped().await;
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

/// Keeps a second daemon from the same state. The kernel releases it however this one ends; that may take a moment,
/// so a daemon that replaces a killed one waits a little.
async fn lock(state: &Path) -> Result<fs::File, Box<dyn Error>> {
    let file = fs::File::create(state.join("lock"))?;
    for _ in 0..LOCK_ATTEMPTS {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOCK_PAUSE).await,
            result => return Ok(result.map(|()| file)?),
        }
    }
    Err(format!("another cairn-cri uses {}: stop it, or give this one a `state` of its own", state.display())
        .into())
}

/// The socket, root's alone from its first moment: it is bound under another name in a directory that is root's,
/// and renamed once its mode is right.
fn listen(path: &Path) -> Result<UnixListener, Box<dyn Error>> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

/// Ends at SIGTERM or SIGINT. Containers run on.
async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
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
