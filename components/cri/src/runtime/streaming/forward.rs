//! Connections to ports inside a pod.
//!
//! A socket belongs to the network namespace of the thread that makes it, for ever, and from any thread it can be used.
//! So a thread of its own enters the pod's namespace, makes the sockets, and ends: no thread of a pool ever is in the
//! wrong namespace.

use crate::{
    runtime::{Runtime, RuntimeError, state::PodPhase},
    shim::sandbox::namespace_path,
};
use cairn_streaming::{Input, Output};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, copy},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    time::timeout,
};

/// Longest a program in the pod may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Stack of the thread that enters a namespace, bytes.
const STACK: usize = 128 << 10;

impl Runtime {
    /// Whether ports of a sandbox can be forwarded: it is there, and ready. Its id and network namespace, unless it
    /// uses the node's.
    pub(super) fn forwardable(&self, sandbox: &str) -> Result<(String, Option<PathBuf>), RuntimeError> {
        let pod = self.pod(sandbox)?;
        let record = pod.record();
        if record.phase != PodPhase::Ready {
            return Err(RuntimeError::State(format!("pod sandbox {} is not ready", record.id)));
        }
        let namespace = namespace_path(&self.pod_run(&record.id), "net");
        Ok((record.id.clone(), (!record.node_network()).then_some(namespace)))
    }

    /// Connects a client to a TCP port of a sandbox's loopback, and copies both ways until both have closed.
    ///
    /// # Errors
    /// For the client: that there is no such sandbox, or nobody listens.
    pub(super) async fn forward(
        &self,
        sandbox: &str,
        port: u16,
        stream: (Input, Output),
    ) -> Result<(), String> {
        let (id, namespace) = self.forwardable(sandbox).map_err(|error| error.to_string())?;
        let sockets = match namespace {
            None => Ok(sockets()),
            Some(namespace) => sockets_in(namespace).await,
        };
        let describe = |error: io::Error| format!("cannot forward port {port} of pod sandbox {id}: {error}");
        let connection = connect(sockets.map_err(describe)?, port).await.map_err(|reason| {
            format!("failed to connect to localhost:{port} inside pod sandbox {id}: {reason}")
        })?;
        exchange(stream, connection).await.map_err(describe)
    }
}

/// One socket for each version of IP that there is.
type Sockets = [(IpAddr, io::Result<OwnedFd>); 2];

/// Sockets in the namespace of the calling thread.
fn sockets() -> Sockets {
    let make = |family| {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        Ok(socket_with(family, SocketType::STREAM, flags, None)?)
    };
    [
        (Ipv4Addr::LOCALHOST.into(), make(AddressFamily::INET)),
        (Ipv6Addr::LOCALHOST.into(), make(AddressFamily::INET6)),
    ]
}

async fn sockets_in(namespace: PathBuf) -> io::Result<Sockets> {
    let (tell, told) = oneshot::channel();
    let enter = move || {
        let made = File::open(namespace).and_then(|namespace| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(sockets())
        });
        // Who asked may have gone.
        let _ = tell.send(made);
    };
    std::thread::Builder::new().name("netns".to_owned()).stack_size(STACK).spawn(enter)?;
    told.await.map_err(|_| io::Error::other("the thread in the pod's network namespace ended"))?
}

/// IPv4 first: what listens on both is reached in one step. The error says what each answered.
async fn connect(sockets: Sockets, port: u16) -> Result<TcpStream, String> {
    let mut reasons = Vec::new();
    for (address, socket) in sockets {
        let attempt = async {
            let socket = TcpSocket::from_std_stream(socket?.into());
            timeout(CONNECT_TIMEOUT, socket.connect(SocketAddr::new(address, port)))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer"))?
        };
        match attempt.await {
            Ok(connection) => return Ok(connection),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                reasons.push(format!("{address}: connection refused"));
            }
            Err(error) => reasons.push(format!("{address}: {error}")),
        }
    }
    Err(reasons.join(", "))
}

/// Copies each way to its end, and passes each end on.
async fn exchange((mut from, mut to): (Input, Output), connection: TcpStream) -> io::Result<()> {
    let _ = connection.set_nodelay(true);
    let (mut reader, mut writer) = connection.into_split();
    let up = async {
        // A program that reads no more may still write: its answer decides.
        let _ = copy(&mut from, &mut writer).await;
        let _ = writer.shutdown().await;
    };
    let down = async {
        copy(&mut reader, &mut to).await?;
        to.shutdown().await
    };
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        () = &mut up => down.await,
        copied = &mut down => {
            copied?;
            up.await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    #[tokio::test]
    async fn each_way_ends_by_itself() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            socket.read_to_end(&mut all).await.unwrap();
            all.reverse();
            socket.write_all(&all).await.unwrap();
        });
        let connection = connect(sockets(), port).await.unwrap();
        let (client, daemon) = tokio::io::duplex(4096);
        let (input, output) = tokio::io::split(daemon);
        let relayed = tokio::spawn(exchange((Box::new(input), Box::new(output)), connection));
        let (mut reader, mut writer) = tokio::io::split(client);
        writer.write_all(b"abc").await.unwrap();
        writer.shutdown().await.unwrap();
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"cba");
        relayed.await.unwrap().unwrap();
        server.await.unwrap();
        assert!(connect(sockets(), port).await.unwrap_err().contains("127.0.0.1: connection refused"));
    }
}
