//! The management API over real mutual TLS on loopback: who gets in, who may do what, and the tunnel.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod certificates;

use cairn_contract::management::{
    JournalRequest, PowerAction, PowerRequest, ROLE_ADMIN, ROLE_READER, StatusRequest, TunnelMessage,
    TunnelTarget, management_client::ManagementClient, tunnel_message::Content,
};
use cairn_node::api::{self, Backends, tls};
use cairn_node::status::{Check, StatusBoard};
use certificates::{Authority, Pair};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A served API and what it needs.
struct Node {
    authority: Authority,
    folder: tempfile::TempDir,
    port: u16,
}

impl Node {
    async fn serve() -> Self {
        let authority = Authority::new();
        let server = authority.server("node-1");
        let folder = tempfile::tempdir().unwrap();
        let backends = Backends {
            cri_socket: folder.path().join("cri.sock"),
            csi_run: folder.path().join("csi"),
            plugins_registry: folder.path().join("registry"),
            // Says its arguments, as a line that is no journal entry; the service must leave it out.
            journalctl: "/bin/echo".into(),
            systemctl: "/bin/true".into(),
        };
        let tls = tls::server_config(
            authority.pem().as_bytes(),
            server.certificate.as_bytes(),
            server.key.as_bytes(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let board = Arc::new(StatusBoard::default());
        board.record(Check { name: "runtime", good: true, required: true, message: "is ready".into() });
        tokio::spawn(api::serve(listener, tls.unwrap(), backends, board));
        Self { authority, folder, port }
    }

    fn cri_socket(&self) -> std::path::PathBuf {
        self.folder.path().join("cri.sock")
    }

    /// A client with a certificate of the node's CA of this organisation.
    fn client(&self, organisation: Option<&str>) -> ManagementClient<Channel> {
        self.client_with(Some(&self.authority.client(organisation)))
    }

    fn client_with(&self, pair: Option<&Pair>) -> ManagementClient<Channel> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        let mut config = match pair {
            None => config.with_no_client_auth(),
            Some(pair) => config
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (port, config) = (self.port, Arc::new(config));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let connector = tokio_rustls::TlsConnector::from(config.clone());
            async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                connector.connect(ServerName::try_from("node-1").unwrap(), stream).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("https://node-1").timeout(Duration::from_secs(30));
        ManagementClient::new(endpoint.connect_with_connector_lazy(connector))
    }
}

fn code<T>(result: Result<T, Status>) -> Result<(), Code> {
    result.map(drop).map_err(|status| status.code())
}

async fn power(client: &mut ManagementClient<Channel>, action: PowerAction) -> Result<(), Code> {
    code(client.power(PowerRequest { action: action.into() }).await)
}

/// A tunnel: where to send, and what comes back.
async fn tunnel(
    client: &mut ManagementClient<Channel>,
    first: Content,
) -> Result<(mpsc::Sender<TunnelMessage>, tonic::Streaming<TunnelMessage>), Status> {
    let (sender, receiver) = mpsc::channel(4);
    sender.send(TunnelMessage { content: Some(first) }).await.unwrap();
    let answer = client.tunnel(ReceiverStream::new(receiver)).await?;
    Ok((sender, answer.into_inner()))
}

fn data(bytes: &[u8]) -> TunnelMessage {
    TunnelMessage { content: Some(Content::Data(bytes.to_vec())) }
}

const CRI: Content = Content::Target(TunnelTarget::Cri as i32);

/// Answers each connection with `answer` of its streams.
fn target<F>(path: &Path, answer: impl Fn(tokio::net::UnixStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
}

#[tokio::test]
async fn a_reader_may_look_and_nothing_else() {
    let node = Node::serve().await;
    let mut reader = node.client(Some(ROLE_READER));
    let status = reader.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.ready && status.checks[0].name == "runtime" && status.memory.unwrap().total_bytes > 0);
    let mut entries = reader.journal(JournalRequest::default()).await.unwrap().into_inner();
    assert!(entries.message().await.unwrap().is_none());
    assert_eq!(power(&mut reader, PowerAction::Reboot).await, Err(Code::PermissionDenied));
    assert_eq!(code(tunnel(&mut reader, CRI).await), Err(Code::PermissionDenied));
}

#[tokio::test]
async fn an_administrator_may_do_all() {
    let node = Node::serve().await;
    let mut admin = node.client(Some(ROLE_ADMIN));
    assert!(admin.status(StatusRequest {}).await.is_ok());
    assert!(admin.journal(JournalRequest::default()).await.is_ok());
    assert_eq!(power(&mut admin, PowerAction::Off).await, Ok(()));
    assert_eq!(power(&mut admin, PowerAction::Unspecified).await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn a_certificate_without_a_role_gets_nothing() {
    let node = Node::serve().await;
    for organisation in [None, Some("cairn"), Some("cairn:admin:x"), Some("CAIRN:ADMIN")] {
        let mut nobody = node.client(organisation);
        assert_eq!(
            code(nobody.status(StatusRequest {}).await),
            Err(Code::PermissionDenied),
            "{organisation:?}"
        );
        assert_eq!(code(nobody.journal(JournalRequest::default()).await), Err(Code::PermissionDenied));
        assert_eq!(power(&mut nobody, PowerAction::Off).await, Err(Code::PermissionDenied));
        assert_eq!(code(tunnel(&mut nobody, CRI).await), Err(Code::PermissionDenied));
    }
}

/// Refused by TLS: no answer of the service, not even one that says no.
async fn assert_kept_out(mut client: ManagementClient<Channel>, why: &str) {
    let status = client.status(StatusRequest {}).await.unwrap_err();
    assert!(!matches!(status.code(), Code::PermissionDenied | Code::DeadlineExceeded), "{why}: {status}");
    assert!(std::error::Error::source(&status).is_some(), "{why}: this came from the service: {status}");
}

#[tokio::test]
async fn strangers_do_not_get_as_far_as_the_service() {
    let node = Node::serve().await;
    assert_kept_out(node.client_with(None), "no certificate").await;
    let stranger = Authority::new().client(Some(ROLE_ADMIN));
    assert_kept_out(node.client_with(Some(&stranger)), "another CA of the same name").await;
    let old = node.authority.expired_client(Some(ROLE_ADMIN));
    assert_kept_out(node.client_with(Some(&old)), "an expired certificate").await;
    let server = node.authority.server("node-2");
    assert_kept_out(node.client_with(Some(&server)), "a server's certificate").await;
    // A connection that says nothing keeps nobody else waiting.
    let _silent = TcpStream::connect(("127.0.0.1", node.port)).await.unwrap();
    assert!(node.client(Some(ROLE_READER)).status(StatusRequest {}).await.is_ok());
}

#[tokio::test]
async fn unreadable_certificates_are_named() {
    let authority = Authority::new();
    let server = authority.server("node-1");
    let [ca, certificate, key] = [authority.pem(), &server.certificate, &server.key].map(str::as_bytes);
    let refused = |ca, certificate, key| tls::server_config(ca, certificate, key).unwrap_err().to_string();
    let none = b"".as_slice();
    assert!(refused(none, certificate, key).contains("api.client_ca"));
    assert!(refused(ca, none, key).contains("api.certificate"));
    assert!(refused(ca, certificate, none).contains("api.key"));
    let other = authority.server("node-2");
    assert!(refused(ca, certificate, other.key.as_bytes()).contains("api.certificate and api.key"));
}

#[tokio::test]
async fn a_tunnel_carries_much_in_both_directions_at_once() {
    const TOTAL: usize = 8 << 20;
    let node = Node::serve().await;
    target(&node.cri_socket(), |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let sent: Vec<u8> = (0..TOTAL as u32).map(|n| (n % 253) as u8).collect();
    let (sender, mut answer) = tunnel(&mut node.client(Some(ROLE_ADMIN)), CRI).await.unwrap();
    let pieces = sent.clone();
    tokio::spawn(async move {
        for piece in pieces.chunks(100_000) {
            sender.send(data(piece)).await.unwrap();
        }
    });
    let mut received = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        let Some(Content::Data(bytes)) = message.content else { panic!("{message:?}") };
        received.extend(bytes);
    }
    assert!(received == sent, "{} bytes came back of {TOTAL}", received.len());
}

#[tokio::test]
async fn every_target_is_a_socket_of_its_own() {
    let node = Node::serve().await;
    let mut admin = node.client(Some(ROLE_ADMIN));
    let (csi, registry) = (node.folder.path().join("csi"), node.folder.path().join("registry"));
    std::fs::create_dir_all(&csi).unwrap();
    std::fs::create_dir_all(&registry).unwrap();
    let sockets = [
        (TunnelTarget::Cri, node.cri_socket()),
        (TunnelTarget::CsiLocal, csi.join("local.sock")),
        (TunnelTarget::CsiNfs, csi.join("nfs.sock")),
        (TunnelTarget::CsiIscsi, csi.join("iscsi.sock")),
        (TunnelTarget::RegistrationLocal, registry.join("local.csi.cairn-reg.sock")),
        (TunnelTarget::RegistrationNfs, registry.join("nfs.csi.cairn-reg.sock")),
        (TunnelTarget::RegistrationIscsi, registry.join("iscsi.csi.cairn-reg.sock")),
    ];
    for (_, path) in &sockets {
        let name = path.file_name().unwrap().to_owned().into_encoded_bytes();
        target(path, move |mut stream| {
            let name = name.clone();
            async move { stream.write_all(&name).await.unwrap() }
        });
    }
    for (target, path) in sockets {
        let (_sender, mut answer) = tunnel(&mut admin, Content::Target(target.into())).await.unwrap();
        let name = path.file_name().unwrap().as_encoded_bytes();
        assert_eq!(answer.message().await.unwrap().unwrap(), data(name), "{target:?}");
    }
}

#[tokio::test]
async fn each_direction_of_a_tunnel_ends_by_itself() {
    let node = Node::serve().await;
    // Says that it has heard the end only after it has heard it, then ends.
    target(&node.cri_socket(), |mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("heard {}", all.len()).as_bytes()).await.unwrap();
    });
    let mut admin = node.client(Some(ROLE_ADMIN));
    let (sender, mut answer) = tunnel(&mut admin, CRI).await.unwrap();
    sender.send(data(b"12345")).await.unwrap();
    drop(sender);
    assert_eq!(answer.message().await.unwrap().unwrap(), data(b"heard 5"));
    assert!(answer.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_client_that_goes_away_is_told_to_the_target() {
    let node = Node::serve().await;
    let (told, mut ends) = mpsc::channel(1);
    target(&node.cri_socket(), move |mut stream| {
        let told = told.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            told.send(()).await.unwrap();
        }
    });
    let (sender, mut answer) = tunnel(&mut node.client(Some(ROLE_ADMIN)), CRI).await.unwrap();
    assert_eq!(answer.message().await.unwrap().unwrap(), data(b"hello"));
    drop((sender, answer));
    tokio::time::timeout(Duration::from_secs(20), ends.recv())
        .await
        .expect("the target waits for ever")
        .unwrap();
}

#[tokio::test]
async fn tunnels_lead_nowhere_else() {
    let node = Node::serve().await;
    let mut admin = node.client(Some(ROLE_ADMIN));
    assert_eq!(code(tunnel(&mut admin, CRI).await), Err(Code::Unavailable), "nobody listens");
    target(&node.cri_socket(), |mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    for first in [Content::Target(0), Content::Target(99), Content::Data(b"/etc/shadow".to_vec())] {
        assert_eq!(code(tunnel(&mut admin, first).await), Err(Code::InvalidArgument));
    }
    let (sender, mut answer) = tunnel(&mut admin, CRI).await.unwrap();
    sender.send(TunnelMessage { content: Some(CRI) }).await.unwrap();
    assert_eq!(answer.message().await.unwrap_err().code(), Code::InvalidArgument);
}
