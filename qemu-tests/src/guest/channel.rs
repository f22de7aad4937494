//! gRPC over mutual TLS to a forwarded port.

use super::identity::{ClientIdentity, NODE_NAME};
use crate::error::Fault;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// A busy guest under TCG needs seconds for one handshake.
const CONNECT: Duration = Duration::from_secs(30);

/// Where a node is and who we are to it.
#[derive(Clone)]
pub struct Address {
    /// On 127.0.0.1.
    pub port: u16,
    /// TLS client configuration.
    tls: Arc<ClientConfig>,
}

impl Address {
    /// `ca` is the PEM of the CA that signed the node's certificate.
    pub fn new(port: u16, ca: &str, client: &ClientIdentity) -> Result<Self, Fault> {
        let bad = |error: &dyn std::fmt::Display| Fault::Certificates(error.to_string());
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|error| bad(&error))?;
        roots.add(ca).map_err(|error| bad(&error))?;
        let chain =
            CertificateDer::from_pem_slice(client.certificate.as_bytes()).map_err(|error| bad(&error))?;
        let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).map_err(|error| bad(&error))?;
        // Named, not installed as the process's default: whoever links this library has a say in that.
        let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![chain], key)
            .map_err(|error| bad(&error))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { port, tls: Arc::new(tls) })
    }

    async fn connect(&self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let handshake = async {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(NODE_NAME).map_err(io::Error::other)?;
            TlsConnector::from(self.tls.clone()).connect(name, stream).await
        };
        let stream =
            tokio::time::timeout(CONNECT, handshake).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(TokioIo::new(stream))
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("port", &self.port).finish_non_exhaustive()
    }
}

/// A channel that connects at its first call, and again when the connection is lost.
pub(super) fn open(address: &Address) -> Channel {
    let address = address.clone();
    let connector = tower::service_fn(move |_| {
        let address = address.clone();
        async move { address.connect().await }
    });
    // A rebooted guest leaves the connection open at QEMU's end; only pings tell.
    endpoint("https://node")
        .http2_keep_alive_interval(Duration::from_secs(10))
        .connect_with_connector_lazy(connector)
}

/// The URI only labels requests: connectors know where to go.
pub(super) fn endpoint(uri: &'static str) -> Endpoint {
    Endpoint::from_static(uri).keep_alive_timeout(Duration::from_secs(30)).keep_alive_while_idle(true)
}
