//! `cairn-cri`: the daemon. See the library's documentation.

use cairn_contract::{
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
    paths,
    runtime::RuntimeConfig,
};
use cairn_cri::{
    apparmor,
    image::{ImageServer, ImageService},
    runtime::{Runtime, RuntimeServer},
};
use std::{
    error::Error,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing_subscriber::EnvFilter;

/// gRPC's default is 4 MiB; a command's captured output is up to 16 MiB a stream, and kubelet's limit is 16 MiB.
const MESSAGE_LIMIT: usize = 40 << 20;

/// How long open requests may take to finish when the daemon is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let config = match arguments() {
        Ok(path) => path,
        Err(usage) => {
            tracing::error!("{usage}");
            return ExitCode::from(2);
        }
    };
    let config = match load(&config) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{}: {error}", config.display());
            return ExitCode::from(2);
        }
    };
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

/// `[--config PATH]`.
fn arguments() -> Result<PathBuf, &'static str> {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(paths::CRI_CONFIG.into()),
        (Some(option), Some(path), None) if option == "--config" => Ok(path.into()),
        _ => Err("usage: cairn-cri [--config PATH]"),
    }
}

/// The configuration; an absent file means the defaults only at the default place.
fn load(path: &Path) -> Result<RuntimeConfig, Box<dyn Error>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(toml::from_str(&text)?),
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(paths::CRI_CONFIG) =>
        {
            Ok(RuntimeConfig::default())
        }
        Err(error) => Err(error.into()),
    }
}

async fn run(config: RuntimeConfig) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(&config.state)?;
    fs::create_dir_all(&config.run)?;
    // A daemon that a kubelet can reach is one that knows its containers: the socket comes last.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Err(error) = apparmor::load_default() {
        tracing::warn!("containers run without the default AppArmor profile: {error}");
    }
    let images = ImageService::open(&config).await?;
    let runtime = Runtime::open(config.clone(), images.clone()).await?;
    let listener = listen(&config.socket)?;
    let images = ImageServiceServer::new(ImageServer::new(images)).max_decoding_message_size(MESSAGE_LIMIT);
    let runtime =
        RuntimeServiceServer::new(RuntimeServer::new(runtime)).max_encoding_message_size(MESSAGE_LIMIT);
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    tracing::info!(socket = %config.socket.display(), "ready");
    let serving = Server::builder()
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
    let _ = fs::remove_file(&config.socket);
    Ok(())
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
