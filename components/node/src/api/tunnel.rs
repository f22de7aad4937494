//! A byte stream from a client to a socket of the node.
//!
//! Each direction ends by itself: the client's end of stream shuts the socket's writing side down, and the
//! socket's end of file ends the answer. At most a few chunks are held; beyond that the slower side is waited
//! for.

use super::Backends;
use cairn_contract::{
    management::{TunnelMessage, TunnelTarget, tunnel_message::Content},
    storage::BackendKind,
};
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

const CHUNK: usize = 32 << 10;
const CHUNKS: usize = 8;

type Answer = Result<TunnelMessage, Status>;

/// Connects to the target that the first message names, and passes bytes on from then.
pub(super) async fn open(
    backends: &Backends,
    mut inbound: Streaming<TunnelMessage>,
) -> Result<ReceiverStream<Answer>, Status> {
    let first = inbound.message().await?.and_then(|message| message.content);
    let target = match first {
        Some(Content::Target(target)) => TunnelTarget::try_from(target).unwrap_or_default(),
        _ => TunnelTarget::Unspecified,
    };
    let path = socket(backends, target).ok_or_else(|| {
        Status::invalid_argument("the first message must name a target that this node knows")
    })?;
    let socket = UnixStream::connect(&path).await;
    let socket = socket
        .map_err(|error| Status::unavailable(format!("cannot connect to {}: {error}", path.display())))?;
    let (sender, receiver) = channel(CHUNKS);
    let (read, write) = socket.into_split();
    tokio::spawn(async move {
        let mut up = std::pin::pin!(upward(inbound, write));
        let mut down = std::pin::pin!(downward(read, &sender));
        let mut writing = true;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = &mut down => return,
                result = &mut up, if writing => match result {
                    Ok(()) => writing = false,
                    Err(status) => {
                        let _ = sender.send(Err(status)).await;
                        return;
                    }
                },
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// The socket that a target stands for.
fn socket(backends: &Backends, target: TunnelTarget) -> Option<PathBuf> {
    let driver = |kind: BackendKind| Some(kind.socket(&backends.csi_run));
    let registration = |kind: BackendKind| Some(kind.registration_socket(&backends.plugins_registry));
    match target {
        TunnelTarget::Unspecified => None,
        TunnelTarget::Cri => Some(backends.cri_socket.clone()),
        TunnelTarget::CsiLocal => driver(BackendKind::Local),
        TunnelTarget::CsiNfs => driver(BackendKind::Nfs),
        TunnelTarget::CsiIscsi => driver(BackendKind::Iscsi),
        TunnelTarget::RegistrationLocal => registration(BackendKind::Local),
        TunnelTarget::RegistrationNfs => registration(BackendKind::Nfs),
        TunnelTarget::RegistrationIscsi => registration(BackendKind::Iscsi),
    }
}

async fn upward(mut inbound: Streaming<TunnelMessage>, mut socket: OwnedWriteHalf) -> Result<(), Status> {
    let broken = |error: std::io::Error| Status::unavailable(format!("the target hung up: {error}"));
    while let Some(message) = inbound.message().await? {
        match message.content {
            Some(Content::Data(data)) => socket.write_all(&data).await.map_err(broken)?,
            Some(Content::Target(_)) => return Err(Status::invalid_argument("a tunnel has one target")),
            None => {}
        }
    }
    // A target that is gone already has been half-closed well enough.
    let _ = socket.shutdown().await;
    Ok(())
}

async fn downward(mut socket: OwnedReadHalf, sender: &Sender<Answer>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let answer = match socket.read(&mut buffer).await {
            Ok(0) => return,
            Ok(length) => Ok(TunnelMessage { content: Some(Content::Data(buffer[..length].to_vec())) }),
            Err(error) => Err(Status::unavailable(format!("the target hung up: {error}"))),
        };
        let last = answer.is_err();
        if sender.send(answer).await.is_err() || last {
            return;
        }
    }
}
