//! Sockets of the node through the management API: each connection is one `Tunnel` call.
//!
//! Each direction ends by itself, as with a socket: shutting down the writing side ends what the node's side reads.

use cairn_contract::management::{
    TunnelMessage, TunnelTarget, management_client::ManagementClient, tunnel_message::Content,
};
use hyper_util::rt::TokioIo;
use std::io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Status, Streaming, transport::Channel};

/// In flight within this process; flow control proper is HTTP/2's.
const BUFFER: usize = 256 * 1024;
/// Bytes in one message: well below gRPC's limit of 4 MiB, well above a header's cost.
const PIECE: usize = 32 * 1024;

/// A channel whose connections are tunnels to `target`.
pub fn open(client: ManagementClient<Channel>, target: TunnelTarget) -> Channel {
    let connector = tower::service_fn(move |_| {
        let client = client.clone();
        async move { connect(client, target).await.map(TokioIo::new).map_err(io::Error::other) }
    });
    super::channel::endpoint("http://node").connect_with_connector_lazy(connector)
}

/// One connection to `target`. An error is the node's: permission denied to a client that is no administrator,
/// unavailable if nobody listens there.
pub async fn connect(
    mut client: ManagementClient<Channel>,
    target: TunnelTarget,
) -> Result<DuplexStream, Status> {
    let (outgoing, messages) = mpsc::channel(8);
    let first = TunnelMessage { content: Some(Content::Target(target.into())) };
    // There is room for it, and the receiver is here.
    let _ = outgoing.try_send(first);
    let incoming = client.tunnel(ReceiverStream::new(messages)).await?.into_inner();

    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (reader, writer) = tokio::io::split(theirs);
    tokio::spawn(send(reader, outgoing));
    tokio::spawn(receive(incoming, writer));
    Ok(ours)
}

/// From the client into the tunnel; the end of the one is the end of the other.
async fn send(mut from: impl AsyncReadExt + Unpin, to: mpsc::Sender<TunnelMessage>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let message = TunnelMessage { content: Some(Content::Data(buffer[..count].to_vec())) };
        if to.send(message).await.is_err() {
            return;
        }
    }
}

/// From the tunnel to the client. An error ends the stream, which the client reports as a broken connection.
async fn receive(mut from: Streaming<TunnelMessage>, mut to: impl AsyncWriteExt + Unpin) {
    while let Some(Ok(message)) = from.next().await {
        if let Some(Content::Data(data)) = message.content
            && to.write_all(&data).await.is_err()
        {
            return;
        }
    }
    // Fails when the client has gone, which is what it would tell it.
    let _ = to.shutdown().await;
}
