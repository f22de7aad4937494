//! Port-forward. Over SPDY, tunnelled or not: any number of connections to ports, each of them two streams.
//!
//! The client opens them with the headers `port`, `streamtype` (`error` or `data`) and `requestid`, which tells what belongs together. A
//! client of old sends no request id: there the data stream is the next after the error stream.
//!
//! On the channels of a WebSocket: one connection for each port that was granted, with two channels, data and error, on both of which the
//! port comes first, in two bytes, little-endian.

use crate::{
    connection::{InputHandle, OutputHandle, Streams},
    request::{PortForward, Runtime},
    spdy::{frame::ResetStatus, headers::Headers},
};
use futures::{StreamExt, stream::FuturesUnordered};
use std::{collections::HashMap, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep_until},
};

/// A connection to a port whose streams are not all there.
#[derive(Debug)]
struct Half {
    port: u16,
    error: Option<(u32, OutputHandle)>,
    data: Option<(u32, InputHandle, OutputHandle)>,
    until: Instant,
}

/// What the headers of a stream say.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    request: String,
    port: u16,
    is_error: bool,
}

impl Label {
    fn read(stream: u32, headers: &Headers) -> Option<Self> {
        let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
        let is_error = match headers.get("streamtype")? {
            "error" => true,
            "data" => false,
            _ => return None,
        };
        let request = match headers.get("requestid") {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => format!("stream {}", if is_error { stream } else { stream.checked_sub(2)? }),
        };
        Some(Self { request, port, is_error })
    }
}

/// Serves connections to ports for as long as it is polled.
pub(crate) async fn serve(
    streams: &Streams,
    forward: &PortForward,
    runtime: &impl Runtime,
    patience: Duration,
) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let next_expiry = halves.values().map(|half| half.until).min();
        tokio::select! {
            arrival = streams.arrival() => {
                let Some(label) = Label::read(arrival.stream, &arrival.headers) else {
                    streams.reset(arrival.stream, ResetStatus::ProtocolError);
                    continue;
                };
                if !forward.ports.is_empty() && !forward.ports.contains(&label.port) {
                    streams.reset(arrival.stream, ResetStatus::RefusedStream);
                    continue;
                }
                if let Some(whole) = join(streams, &mut halves, label, arrival.stream, patience) {
                    running.push(connect(streams, &forward.sandbox, runtime, whole));
                }
            }
            Some(()) = running.next() => {}
            () = expire(next_expiry) => {
                let now = Instant::now();
                halves.retain(|_, half| half.until > now); // dropped, their streams end
            }
        }
    }
}

/// Serves one connection for each port, on channels, and says goodbye when all have ended.
pub(crate) async fn serve_channels(streams: &Streams, forward: &PortForward, runtime: &impl Runtime) {
    let mut running: FuturesUnordered<_> = forward
        .ports
        .iter()
        .zip((0..).step_by(2))
        .map(|(port, channel)| async move {
            let (input, mut output) = streams.accept(channel);
            let (_, mut error) = streams.accept(channel + 1);
            for handle in [&mut output, &mut error] {
                if handle.write_all(&port.to_le_bytes()).await.is_err() {
                    return;
                }
            }
            let (data, error) = (Some((channel, input, output)), Some((channel + 1, error)));
            let whole = Half { port: *port, error, data, until: Instant::now() };
            connect(streams, &forward.sandbox, runtime, whole).await;
        })
        .collect();
    while running.next().await.is_some() {}
    streams.say_goodbye();
}

async fn expire(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Puts a stream to its other half. Some: both are there.
fn join(
    streams: &Streams,
    halves: &mut HashMap<String, Half>,
    label: Label,
    stream: u32,
    patience: Duration,
) -> Option<Half> {
    let half = halves.entry(label.request.clone()).or_insert_with(|| Half {
        port: label.port,
        error: None,
        data: None,
        until: Instant::now() + patience,
    });
    let taken = if label.is_error { half.error.is_some() } else { half.data.is_some() };
    if taken || half.port != label.port {
        streams.reset(stream, ResetStatus::ProtocolError);
        return None;
    }
    let (input, output) = streams.accept(stream);
    if label.is_error {
        half.error = Some((stream, output));
    } else {
        half.data = Some((stream, input, output));
    }
    if half.error.is_some() && half.data.is_some() { halves.remove(&label.request) } else { None }
}

/// Connects to the port until both directions have ended.
async fn connect(streams: &Streams, sandbox: &str, runtime: &impl Runtime, whole: Half) {
    let (Some((_, mut error)), Some((data, input, output))) = (whole.error, whole.data) else { return };
    let port = whole.port;
    let result = runtime.port_forward(sandbox.to_owned(), port, (Box::new(input), Box::new(output))).await;
    if let Err(reason) = result {
        let message = format!("error forwarding port {port} to pod {sandbox}: {reason}");
        let _ = error.write_all(message.as_bytes()).await;
        let _ = error.shutdown().await;
        streams.reset(data, ResetStatus::Cancel);
    } else {
        streams.finish(data);
        streams.discard(data);
        let _ = error.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_belong_together_by_request_or_by_number() {
        let label =
            |stream, pairs: &[(&str, &str)]| Label::read(stream, &Headers::new(pairs.iter().copied()));
        let with = label(9, &[("streamType", "data"), ("port", "80"), ("requestID", "4")]);
        assert_eq!(with, Some(Label { request: "4".to_owned(), port: 80, is_error: false }));
        let error = label(5, &[("streamtype", "error"), ("port", "80")]).unwrap();
        let data = label(7, &[("streamtype", "data"), ("port", "80")]).unwrap();
        assert_eq!(error.request, data.request);
        assert_eq!(label(1, &[("streamtype", "data"), ("port", "80")]), None);
        assert_eq!(label(3, &[("streamtype", "data"), ("port", "0")]), None);
        assert_eq!(label(3, &[("streamtype", "data"), ("port", "65536")]), None);
        assert_eq!(label(3, &[("streamtype", "other"), ("port", "80")]), None);
        assert_eq!(label(3, &[("streamtype", "data")]), None);
    }
}
