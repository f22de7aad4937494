//! The local end of a tunnel: a Unix socket, each connection of which leads to one of the node's.

use super::{Failure, failure, output, show};
use cairn_contract::management::{TunnelTarget, management_client::ManagementClient};
use cairn_qemu::management::{Place, tunnel};
use std::{
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::copy_bidirectional,
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};
use tonic::{Code, transport::Channel};

/// A service of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Target {
    /// The container runtime.
    #[default]
    Cri,
    /// The driver of local volumes.
    CsiLocal,
    /// The driver of NFS volumes.
    CsiNfs,
    /// The driver of iSCSI volumes.
    CsiIscsi,
}

impl Target {
    /// As the node's API has it, and in words.
    fn named(self) -> (TunnelTarget, &'static str) {
        match self {
            Self::Cri => (TunnelTarget::Cri, "container runtime"),
            Self::CsiLocal => (TunnelTarget::CsiLocal, "driver of local volumes"),
            Self::CsiNfs => (TunnelTarget::CsiNfs, "driver of NFS volumes"),
            Self::CsiIscsi => (TunnelTarget::CsiIscsi, "driver of iSCSI volumes"),
        }
    }

    /// The socket's usual name.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Cri => "cri.sock",
            Self::CsiLocal => "csi-local.sock",
            Self::CsiNfs => "csi-nfs.sock",
            Self::CsiIscsi => "csi-iscsi.sock",
        }
    }
}

/// Serves the socket until SIGINT or SIGTERM, which is how a tunnel ends well.
pub(super) async fn run(
    client: ManagementClient<Channel>,
    to: Target,
    path: &Path,
    node: &Place,
) -> Result<(), Failure> {
    let (target, what) = to.named();
    // Someone who may not should hear it now, and from us rather than from crictl.
    if let Err(status) = tunnel::connect(client.clone(), target).await {
        match status.code() {
            Code::Unavailable => {
                output::note(&format!("{node}: {}; listening all the same", show::plain(status.message())))
            }
            _ => return Err(failure(node, &status)),
        }
    }
    let no_signals = |error| Failure::machine(format!("cannot wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let socket = Socket::bind(path).await?;
    output::print(&socket.url())?;
    output::note(&format!("leads to the {what} of {node} until Ctrl-C"));
    loop {
        tokio::select! {
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(forward(client.clone(), target, stream, node.clone()))),
                Err(error) => {
                    output::note(&format!("cannot take a connection: {error}"));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

async fn forward(
    client: ManagementClient<Channel>,
    target: TunnelTarget,
    mut stream: UnixStream,
    node: Place,
) {
    match tunnel::connect(client, target).await {
        // Either side may break off; the other sees the end of its stream, as with any socket.
        Ok(mut far) => drop(copy_bidirectional(&mut stream, &mut far).await),
        Err(status) => output::note(&failure(&node, &status).to_string()),
    }
}

/// A bound socket; its file goes with it.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Only the owner may connect. A socket that nobody listens on is replaced, nothing else is.
    async fn bind(path: &Path) -> Result<Self, Failure> {
        let path = std::path::absolute(path).map_err(|error| Failure::file(path, "use", &error))?;
        match path.symlink_metadata() {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(Failure::mistake(format!(
                    "{} is there and no socket; give another --socket",
                    path.display()
                )));
            }
            Ok(_) if UnixStream::connect(&path).await.is_ok() => {
                return Err(Failure::mistake(format!("{} is in use; give another --socket", path.display())));
            }
            Ok(_) => std::fs::remove_file(&path).map_err(|error| Failure::file(&path, "replace", &error))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(&path).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => Failure::mistake(format!(
                "{}: {error}; give a shorter --socket, such as /tmp/cri.sock",
                path.display()
            )),
            _ => Failure::file(&path, "listen on", &error),
        })?;
        let socket = Self { listener, path };
        std::fs::set_permissions(&socket.path, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| Failure::file(&socket.path, "protect", &error))?;
        Ok(socket)
    }

    /// As `crictl --runtime-endpoint` takes it.
    fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_dead_sockets_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cri.sock");
        let first = Socket::bind(&path).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.url(), format!("unix://{}", path.display()));
        assert_eq!(Socket::bind(&path).await.err().unwrap().code(), 2);
        drop(first);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::bind(&path).await.unwrap());

        std::fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path).await.err().unwrap().code(), 2);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn paths_no_socket_can_have_are_the_users_mistake() {
        for path in ["/nonexistent/cri.sock".to_owned(), format!("/tmp/{}", "x".repeat(120))] {
            assert_eq!(Socket::bind(Path::new(&path)).await.err().unwrap().code(), 2, "{path}");
        }
    }
}
