//! The guest channel against a management API in this process: mutual TLS, roles by certificate, and a tunnel to a
//! runtime that knows its version.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on panics.

use cairn_contract::{
    cri::{
        self,
        runtime_service_server::{RuntimeService, RuntimeServiceServer},
    },
    management::{
        self, TunnelMessage, TunnelTarget,
        management_server::{Management, ManagementServer},
        tunnel_message::Content,
    },
};
use cairn_qemu::{
    guest::{Guest, forwarded, identity::Identity},
    pace::Pace,
    scenario::Stop,
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

struct Runtime;

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(
        &self,
        _: Request<cri::VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        let runtime_name = "fake".repeat(20_000); // larger than one piece of the tunnel
        Ok(Response::new(cri::VersionResponse {
            runtime_name,
            runtime_api_version: "v1".into(),
            ..Default::default()
        }))
    }
}

struct Node;

type Tunnel = tonic::codegen::BoxStream<TunnelMessage>;

#[tonic::async_trait]
impl Management for Node {
    async fn status(
        &self,
        _: Request<management::StatusRequest>,
    ) -> Result<Response<management::StatusResponse>, Status> {
        Ok(Response::new(management::StatusResponse { name: "fake".into(), ..Default::default() }))
    }

    async fn power(
        &self,
        _: Request<management::PowerRequest>,
    ) -> Result<Response<management::PowerResponse>, Status> {
        Err(Status::permission_denied("a reader only looks"))
    }

    async fn tunnel(&self, request: Request<Streaming<TunnelMessage>>) -> Result<Response<Tunnel>, Status> {
        let mut messages = request.into_inner();
        let first = messages.next().await.unwrap()?.content;
        assert_eq!(first, Some(Content::Target(TunnelTarget::Cri.into())));
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve_runtime(theirs));
        let (mut reader, mut writer) = tokio::io::split(ours);
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let Some(Content::Data(data)) = message.content else { panic!("a second target") };
                writer.write_all(&data).await.unwrap();
            }
        });
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                let message = TunnelMessage { content: Some(Content::Data(buffer[..count].to_vec())) };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn serve_runtime(stream: DuplexStream) {
    let service = TowerToHyperService::new(RuntimeServiceServer::new(Runtime));
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// Serves on a free port; returns it.
async fn serve(identity: &Identity) -> u16 {
    let api = identity.api();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(api.client_ca.as_bytes()).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(api.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(api.key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = TowerToHyperService::new(ManagementServer::new(Node));
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

fn pace() -> Pace {
    Pace::measured(Duration::from_secs(1))
}

#[tokio::test]
async fn the_api_and_the_socket_behind_its_tunnel_are_reached() {
    let identity = Identity::generate().unwrap();
    let port = serve(&identity).await;
    let guest = Guest::new(&forwarded(port, &identity.ca, &identity.admin).unwrap(), pace());
    assert_eq!(guest.reached().await.unwrap().name, "fake");
    let version = guest.version().await.unwrap();
    assert_eq!((version.runtime_api_version.as_str(), version.runtime_name.len()), ("v1", 80_000));
    let Err(Stop::Failed(message)) = guest.reboot().await else { panic!("accepted") };
    assert!(message.contains("Power(reboot)") && message.contains("PermissionDenied"), "{message}");
}

#[tokio::test]
async fn certificates_of_another_ca_open_nothing_in_either_direction() {
    let (identity, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let port = serve(&identity).await;
    for address in [
        forwarded(port, &identity.ca, &other.admin).unwrap(),
        forwarded(port, &other.ca, &identity.admin).unwrap(),
    ] {
        assert!(Guest::new(&address, pace()).status().await.is_err());
    }
}
