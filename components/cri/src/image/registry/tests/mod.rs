//! The client against registries that behave, and that do not.

mod auth;
mod faults;
mod server;

use super::{super::auth::Auth, *};
use server::{Reply, Request, Server};

const STALL: Duration = Duration::from_secs(20);
const MANIFEST: &str = r#"{"schemaVersion":2}"#;

/// A directory for `hosts.toml` and credentials, and a client that reads them.
struct Node {
    directory: tempfile::TempDir,
    registry: Registry,
}

impl Node {
    fn new() -> Self {
        Self::patient(STALL)
    }

    fn patient(stall: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::new(directory.path(), &directory.path().join("auth.json"), stall);
        Self { directory, registry }
    }

    /// Writes `hosts.toml` for the registry at `server`.
    fn hosts(&self, server: &Server, text: &str) {
        let directory = self.directory.path().join(server.address.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    fn credentials(&self, text: &str) {
        std::fs::write(self.directory.path().join("auth.json"), text).unwrap();
    }

    fn open(&self, server: &Server, secret: Option<&PullSecret>) -> Repository {
        let reference = format!("{}/app:1", server.address).parse().unwrap();
        self.registry.repository(&reference, secret).unwrap()
    }

    /// The manifest of `app:1`, or what went wrong.
    async fn resolve(&self, server: &Server, secret: Option<&PullSecret>) -> Result<String, ImageError> {
        let (bytes, _) = self.open(server, secret).resolve().await?;
        Ok(String::from_utf8(bytes).unwrap())
    }
}

/// `hosts.toml` with `mirror` before the registry at `server`.
fn mirrored(mirror: &Server, server: &Server, keys: &str) -> String {
    format!("server = 'http://{}'\n[host.'http://{}']\n{keys}\n", server.address, mirror.address)
}

fn user() -> Auth {
    Auth::Basic { username: "user".into(), password: "pass".into() }
}

fn secret() -> PullSecret {
    PullSecret { auth: user(), server: None }
}

/// base64 of `user:pass`.
const BASIC: &str = "Basic dXNlcjpwYXNz";

fn digest_of(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(bytes).into())
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    let text = serde_json::json!({ "digest": digest_of(bytes), "size": bytes.len() });
    serde_json::from_value(text).unwrap()
}

/// Downloads a blob, and returns what came out of the pipe.
async fn download(
    repository: &Repository,
    blob: &Descriptor,
) -> (Result<Option<String>, ImageError>, Vec<u8>) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let collect = async {
        let mut all = Vec::new();
        while let Some(Piece::Data(data)) = receiver.recv().await {
            all.extend_from_slice(&data);
        }
        all
    };
    tokio::join!(repository.download(blob, 0, sender), collect)
}
