//! The page with the metrics: `GET /metrics`, one request a connection.

use super::{Operations, process};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// The longest request head that is read.
const HEAD_LIMIT: usize = 8 << 10;
/// How long a client may take for its request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at the same time.
const CONNECTIONS: usize = 8;

/// The metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address} (metrics_address): {source}")]
pub struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

/// Serves the metrics at an address, if there is one, for as long as the daemon runs: the calls, what `render` adds,
/// and the process.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve(
    address: Option<SocketAddr>,
    operations: &Operations,
    render: impl Fn(&mut String) + Clone + Send + Sync + 'static,
) -> Result<(), MetricsError> {
    if let Some(address) = address {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| MetricsError { address, source })?;
        tracing::info!(%address, "metrics");
        tokio::spawn(accept(listener, operations.clone(), render));
    }
    Ok(())
}

async fn accept(
    listener: TcpListener,
    operations: Operations,
    render: impl Fn(&mut String) + Clone + Send + Sync + 'static,
) {
    let slots = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (render, operations) = (render.clone(), operations.clone());
                tokio::spawn(async move {
                    // A client that goes away is its own business.
                    let _ = timeout(PATIENCE, answer(stream, &operations, &render)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("metrics: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await; // out of descriptors, most likely
            }
        }
    }
}

async fn answer(
    mut stream: TcpStream,
    operations: &Operations,
    render: &(impl Fn(&mut String) + Sync),
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_LIMIT || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = match path(&head) {
        Some("/metrics") => {
            let mut text = String::new();
            operations.render(&mut text);
            render(&mut text);
            process::render(&mut text);
            ("200 OK", text)
        }
        Some(_) => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        None => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The path of a GET, without its query.
fn path(head: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let target = line.strip_prefix("GET ")?.split(' ').next()?;
    Some(target.split('?').next().unwrap_or(target))
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn only_a_get_has_a_path() {
        assert_eq!(path(b"GET /metrics?x=1 HTTP/1.1\r\n"), Some("/metrics"));
        assert_eq!(path(b"POST /metrics HTTP/1.1\r\n"), None);
        assert_eq!(path(b"\xff\xff"), None);
    }
}
