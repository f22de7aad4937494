//! gRPC over mutual TLS.

use super::{Credentials, Place};
use cairn_contract::management::management_client::ManagementClient;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// A busy guest under TCG needs seconds for one handshake.
const CONNECT: Duration = Duration::from_secs(30);

/// Where a node is and who we are to it.
#[derive(Debug, Clone)]
pub struct Address {
    place: Place,
    credentials: Credentials,
}

/// No connection, and who has to act.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing answers there.
    #[error("cannot reach {place}: {source}; is the node up, its address right, and its management API on?")]
    Unreachable {
        /// Where.
        place: Place,
        /// Why.
        source: io::Error,
    },
    /// The node's certificate is not for this name, not signed by this CA, or out of date.
    #[error(
        "{place} is not the node that these credentials are for: {source}; check --credentials, or say with --server-name whom its certificate is for"
    )]
    Node {
        /// Where.
        place: Place,
        /// Why.
        source: rustls::Error,
    },
    /// The node does not take our certificate.
    #[error(
        "{place} refuses this client certificate: {source}; use the credentials that were made for this node"
    )]
    Client {
        /// Where.
        place: Place,
        /// Its words.
        source: rustls::Error,
    },
    /// What answers there is no management API.
    #[error("{place} does not answer as a management API: {source}")]
    Foreign {
        /// Where.
        place: Place,
        /// What is odd.
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether other arguments or credentials would help: they are the user's; the network is not.
    pub fn is_mistake(&self) -> bool {
        matches!(self, Self::Node { .. } | Self::Client { .. })
    }
}

/// Bytes that the handshake has read too many are in the reader's buffer.
type Connection = BufReader<TlsStream<TcpStream>>;

impl Address {
    /// The node at `place`, for the client with these credentials.
    pub fn new(place: Place, credentials: Credentials) -> Self {
        Self { place, credentials }
    }

    /// A connection that both sides have accepted.
    async fn dial(&self) -> Result<Connection, ConnectError> {
        let slow =
            || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT.as_secs()));
        let place = || self.place.clone();
        let unreachable = |source| ConnectError::Unreachable { place: place(), source };
        let connect = TcpStream::connect((self.place.host.as_str(), self.place.port));
        let socket = timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(slow())).map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        let greet = async {
            let name =
                ServerName::try_from(self.place.certificate_name().to_owned()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(self.credentials.tls.clone()).connect(name, socket).await?;
            // In TLS 1.3 a client is done before the server has seen its certificate: a refusal comes as the
            // answer to the first read. An HTTP/2 server speaks first, so there is something to read.
            let mut stream = BufReader::new(stream);
            match stream.fill_buf().await?.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")),
                false => Ok(stream),
            }
        };
        let greeted = timeout(CONNECT, greet).await.unwrap_or_else(|_| Err(slow()));
        greeted.map_err(|error| refusal(place(), error))
    }
}

/// Who has to act, by TLS's account of what went wrong.
fn refusal(place: Place, error: io::Error) -> ConnectError {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(source @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
            ConnectError::Node { place, source: source.clone() }
        }
        Some(source @ rustls::Error::AlertReceived(_)) => {
            ConnectError::Client { place, source: source.clone() }
        }
        _ => ConnectError::Foreign { place, source: error },
    }
}

/// A client that is connected. It connects again when the connection is lost.
pub async fn connect(address: &Address) -> Result<ManagementClient<Channel>, ConnectError> {
    let first = address.dial().await?;
    Ok(ManagementClient::new(channel(address, Some(first))))
}

/// A client that connects at its first call, and again when the connection is lost.
pub fn open(address: &Address) -> ManagementClient<Channel> {
    ManagementClient::new(channel(address, None))
}

fn channel(address: &Address, first: Option<Connection>) -> Channel {
    let address = address.clone();
    let first = Arc::new(Mutex::new(first));
    let connector = tower::service_fn(move |_| {
        let address = address.clone();
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => address.dial().await.map(TokioIo::new),
            }
        }
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
