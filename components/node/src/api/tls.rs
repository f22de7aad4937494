//! Mutual TLS: configuration from PEM, and connections whose handshake is done.

use super::role::{Peer, Role};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fs, io};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// A handshake that takes longer is a stuck or hostile client.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once.
const HANDSHAKES: usize = 32;

/// Certificates of the machine config that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of `/run/cairn/api` cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Not PEM, or not of the right kind.
    #[error("api.{key} of the machine config is not usable PEM: {source}")]
    Pem {
        /// Key in the machine config.
        key: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// rustls refuses certificate and key.
    #[error("api.certificate and api.key of the machine config: {0}")]
    Certificate(#[from] rustls::Error),
    /// rustls refuses the client CA.
    #[error("api.client_ca of the machine config: {0}")]
    ClientCa(#[from] VerifierBuilderError),
}

/// The server's configuration from the files that `cairn-node config` wrote; `None` if it wrote none.
pub fn from_files() -> Result<Option<Arc<ServerConfig>>, TlsError> {
    use crate::render::{API_CERTIFICATE, API_CLIENT_CA, API_KEY};
    let read = |path| fs::read(path).map_err(|source| TlsError::Read { path, source });
    match read(API_KEY) {
        Err(TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        key => server_config(&read(API_CLIENT_CA)?, &read(API_CERTIFICATE)?, &key?).map(Some),
    }
}

/// The server's configuration from PEM: clients must have a certificate signed by `client_ca`.
pub fn server_config(
    client_ca: &[u8],
    certificate: &[u8],
    key: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |key| move |source| TlsError::Pem { key, source };
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(client_ca) {
        roots.add(ca.map_err(pem("client_ca"))?)?;
    }
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(pem("key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Connections with a finished handshake. One slow client does not keep others waiting.
pub(super) fn incoming(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(8);
    let acceptor = TlsAcceptor::from(config);
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        while let Ok(slot) = slots.clone().acquire_owned().await {
            let Ok((socket, _)) = listener.accept().await else {
                // Out of descriptors, or the client was gone already: neither is for ever.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                let _ = socket.set_nodelay(true);
                let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await;
                drop(slot);
                if let Ok(Ok(stream)) = handshake {
                    let _ = sender.send(Ok(Connection::new(stream))).await;
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

/// A client's connection, with its role.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let peer = Peer(certificate.and_then(|certificate| Role::of_certificate(certificate)));
        Self { stream, peer }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
