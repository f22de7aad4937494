//! `cairn-cri`: the daemon. See the library's documentation.

use cairn_contract::{
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
    runtime::{LogFormat, LogLevel, RuntimeConfig},
};
use cairn_cri::{
    apparmor,
    config::FORM,
    image::{ImageServer, ImageService},
    runtime::{Runtime, RuntimeServer},
    traces::{Delivered, Traces},
    watchdog,
};
use cairn_daemon::{
    config::Form,
    deadline::Deadlines,
    program::{self, Daemon},
    socket::listen,
    state::State,
    stopping::Stopping,
    telemetry::{self, Observe, Operations},
};
use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};
use tonic::transport::Server;
use tower::util::option_layer;

/// gRPC's default is 4 MiB; a command's captured output is up to 16 MiB a stream, and kubelet's limit is 16 MiB.
const MESSAGE_LIMIT: usize = 40 << 20;

/// How long open requests may take to finish when the daemon is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    program::main::<Cri>()
}

struct Cri;

impl Daemon for Cri {
    type Config = RuntimeConfig;
    const FORM: Form = FORM;
    const SERVES: &'static str = "CRI";
    const EXAMPLE: &'static str = "crictl --runtime-endpoint unix:///run/cairn/cri.sock info";

    fn log(config: &RuntimeConfig) -> (LogFormat, LogLevel) {
        (config.log_format, config.log_level)
    }

    /// Requests wait more than they work; two workers keep one slow fsync from holding up the rest. Each layer that is
    /// fetched has a blocking thread for as long as it takes: there are enough that nothing else has to wait for one.
    fn threads() -> tokio::runtime::Builder {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        threads.worker_threads(2).max_blocking_threads(128);
        threads
    }

    async fn serve(config: RuntimeConfig) -> Result<(), Box<dyn Error>> {
        let _state = State::claim(FORM.program, &config.state, &config.run).await?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Compiling policy takes a while, on a thread of its own.
        let policy = tokio::task::spawn_blocking(apparmor::load_default);
        let images = ImageService::open(&config).await?;
        let runtime = Runtime::open(config.clone(), images.clone()).await?;
        if let Err(error) = policy.await? {
            tracing::warn!("containers run without the default AppArmor profile: {error}");
        }
        runtime.serve_nri().await?;
        let traces = config.tracing_endpoint;
        let traces =
            traces.map(|collector| Traces::open(collector, config.tracing_sampling_rate_per_million));
        let traces = traces.transpose()?;
        let operations = Operations::new("cairn_cri", "CRI");
        let (counts, spans) = (runtime.clone(), traces.as_ref().map(Traces::delivered));
        let render = move |text: &mut String| {
            counts.render_counts(text);
            spans.iter().for_each(|spans: &Delivered| spans.render(text));
        };
        telemetry::serve(config.metrics_address, &operations, render).await?;
        let address = config.streaming_address;
        let streaming = cairn_streaming::Server::bind(
            address,
            cairn_streaming::IDLE_TIMEOUT,
            cairn_streaming::CREATION_TIMEOUT,
        )
        .map_err(|error| format!("cannot serve streams at {address} (streaming_address): {error}"))?;
        tracing::info!(address = %streaming.address(), "streaming");
        let stopping = Stopping::at_signal(STOP_PATIENCE, "containers run on")?;
        let (server, streams) = (streaming.clone(), Arc::new(runtime.clone()));
        let ended = stopping.token().cancelled_owned();
        tokio::spawn(async move { server.serve(streams, ended).await });
        // A daemon that a kubelet can reach is one that knows its containers: the socket comes last.
        let listener = listen(&config.socket).await?;
        let images =
            ImageServiceServer::new(ImageServer::new(images)).max_decoding_message_size(MESSAGE_LIMIT);
        let server = RuntimeServer::new(runtime.clone(), streaming, stopping.token());
        let server = RuntimeServiceServer::new(server).max_encoding_message_size(MESSAGE_LIMIT);
        sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
        if let Some(interval) = sd_notify::watchdog_enabled() {
            watchdog::keep(interval, runtime.clone(), config.socket.clone())?;
        }
        tracing::info!(socket = %config.socket.display(), "ready");
        let serving = Server::builder()
            .layer(Observe(operations))
            .layer(option_layer(traces.as_ref().map(Traces::layer)))
            .layer(Deadlines)
            .add_service(server)
            .add_service(images)
            .serve_with_incoming_shutdown(listener, stopping.token().cancelled_owned());
        stopping.limit(serving).await.transpose()?;
        runtime.shut_down_nri().await;
        if let Some(traces) = traces {
            traces.close().await;
        }
        Ok(())
    }
}
