//! A node whose daemon is the test itself.

use crate::{
    client::Client,
    support::{self, calls, until},
};
use cairn_contract::cri::runtime_service_server::RuntimeServiceServer;
use cairn_cri::{
    image::ImageService,
    runtime::{Runtime, RuntimeServer},
};
use cairn_daemon::socket::listen;
use cairn_streaming::{Attach, Exec, Finish, Runtime as _};
use std::ops::Deref;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;

/// Its places are a [`support::node::Node`]'s, and so is its socket.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    _serving: DropGuard,
    // Last: it looks for what is left.
    places: support::node::Node,
}

impl Deref for Node {
    type Target = support::node::Node;

    fn deref(&self) -> &Self::Target {
        &self.places
    }
}

impl Node {
    /// A node, and a client of its daemon.
    pub(crate) async fn new() -> (Self, calls::Client) {
        let places = support::node::Node::new();
        let config = places.config.clone();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = listen(&config.socket).await.unwrap();
        let images = ImageService::open(&config).await.unwrap();
        let runtime = Runtime::open(config, images).await.unwrap();
        let loopback = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let streaming = cairn_streaming::Server::bind(
            loopback,
            cairn_streaming::IDLE_TIMEOUT,
            cairn_streaming::CREATION_TIMEOUT,
        )
        .unwrap();
        let stop = CancellationToken::new();
        let server = RuntimeServer::new(runtime.clone(), streaming.clone(), stop.clone());
        let (streams, stopped) = (std::sync::Arc::new(runtime.clone()), stop.clone());
        tokio::spawn(async move { streaming.serve(streams, stopped.cancelled()).await });
        let calls = Server::builder().add_service(RuntimeServiceServer::new(server));
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(calls.serve_with_incoming_shutdown(listener, stopped));
        let client = places.client().await;
        (Self { runtime, _serving: stop.drop_guard(), places }, client)
    }

    /// Waits until a container's log has `text`.
    pub(crate) async fn logged(&self, name: &str, text: &str) {
        let log = || self.container_log(name);
        until(async || log().contains(text).then_some(()), || format!("no {text:?} in {:?}", log())).await;
    }

    /// Starts a command with streams of its own.
    pub(crate) fn exec(&self, container: &str, tty: bool, stdin: bool, command: &[&str]) -> Client {
        let runtime = self.runtime.clone();
        let what = Exec {
            container: container.into(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
        };
        Client::new(stdin, !tty, |stdio| tokio::spawn(async move { runtime.exec(what, stdio).await }))
    }

    pub(crate) fn attach(&self, container: &str, tty: bool, stdin: bool) -> Client {
        let runtime = self.runtime.clone();
        let what = Attach { container: container.into(), tty, stdin, stdout: true, stderr: !tty };
        Client::new(stdin, !tty, |stdio| tokio::spawn(async move { runtime.attach(what, stdio).await }))
    }

    /// A command's output, errors and end, with `input` for all its input.
    pub(crate) async fn output(
        &self,
        container: &str,
        input: &[u8],
        command: &[&str],
    ) -> (String, String, Finish) {
        let mut client = self.exec(container, false, true, command);
        client.stdin.as_mut().unwrap().write_all(input).await.unwrap();
        client.stdin = None;
        client.rest().await
    }
}
