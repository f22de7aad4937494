//! Blobs that do not fit into memory: sent on as they arrive.
//!
//! A transfer that breaks goes on where it stopped, at the next endpoint if need be. The receiver computes the digest
//! over all the bytes, so it does not matter who sent which.

use super::{
    super::{error::ImageError, manifest::Descriptor},
    Repository,
    retry::{Failure, Failures},
    session::Session,
    transport::{Patience, broken},
};
use bytes::Bytes;
use futures::StreamExt;
use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};
use std::time::Instant;
use tokio::sync::mpsc;

/// A connection that brings less than this and breaks is a failed attempt.
const PROGRESS: u64 = 64 << 10;

/// What goes through the pipe to the unpacking thread. A pipe that closes without [`Piece::End`] was abandoned.
#[derive(Debug)]
pub(in super::super) enum Piece {
    Data(Bytes),
    End,
}

/// A blob on its way.
struct Transfer<'a> {
    descriptor: &'a Descriptor,
    /// Bytes that arrived and were passed on.
    offset: u64,
    /// Do endpoints continue where we ask them to? One that does it wrongly is asked for the whole.
    ranges: bool,
    last_byte: Instant,
    sink: mpsc::Sender<Piece>,
}

impl Repository {
    /// How many endpoints can serve blobs.
    pub(in super::super) fn sources(&self) -> usize {
        self.sessions.iter().filter(|session| session.endpoint.pull).count()
    }

    /// Sends a blob's bytes into `sink`, from the blob endpoints after the first `skip`. Exactly
    /// `descriptor.size` bytes arrive there before the end, or an error comes back. `Ok(None)`: the receiver went
    /// away. Otherwise the host that sent the last bytes.
    pub(in super::super) async fn download(
        &self,
        descriptor: &Descriptor,
        skip: usize,
        sink: mpsc::Sender<Piece>,
    ) -> Result<Option<String>, ImageError> {
        let mut failures = Failures::default();
        let mut transfer = Transfer { descriptor, offset: 0, ranges: true, last_byte: Instant::now(), sink };
        let sessions = self.ordered(|endpoint| endpoint.pull, skip);
        for (index, session) in sessions.iter().enumerate() {
            let others = index + 1 < sessions.len();
            let mut attempt = 0;
            loop {
                let before = transfer.offset;
                let failure = match transfer.go_on(session, self.patience).await {
                    Ok(()) => {
                        let delivered = transfer.sink.send(Piece::End).await.is_ok();
                        return Ok(delivered.then(|| session.endpoint.host.clone()));
                    }
                    Err(Failure::Unwanted) => return Ok(None),
                    Err(failure) => failure,
                };
                if transfer.last_byte.elapsed() >= self.patience.whole {
                    return Err(ImageError::Stalled {
                        what: format!("{} layer {}", self.reference, descriptor.digest),
                        host: session.endpoint.host.clone(),
                        seconds: self.patience.whole.as_secs(),
                    });
                }
                if transfer.offset >= before + PROGRESS {
                    attempt = 0;
                }
                let Some(pause) = failure.pause(attempt, others) else {
                    session.note(&failure);
                    failures.add(&session.endpoint, failure);
                    break;
                };
                tracing::debug!(
                    host = session.endpoint.host,
                    layer = %descriptor.digest,
                    offset = transfer.offset,
                    reason = failure.reason(),
                    "transfer broke, will go on"
                );
                tokio::time::sleep(pause).await;
                attempt += 1;
            }
        }
        Err(failures.into_error(format!("{} layer {}", self.reference, descriptor.digest)))
    }
}

impl Transfer<'_> {
    /// One connection's worth.
    async fn go_on(&mut self, session: &Session, patience: Patience) -> Result<(), Failure> {
        let size = self.descriptor.size;
        let path = format!("blobs/{}", self.descriptor.digest);
        let mut headers = HeaderMap::new();
        // A transparently compressed answer would have another digest.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let ranged = self.offset > 0 && self.offset < size && self.ranges;
        if ranged && let Ok(range) = HeaderValue::try_from(format!("bytes={}-", self.offset)) {
            headers.insert(header::RANGE, range);
        }
        let response = match session.get(&path, &headers).await {
            Err(failure @ Failure::Final(_)) if ranged => {
                // 416 and the like: not everyone who serves the whole serves parts.
                self.ranges = false;
                return Err(Failure::Transient(failure.reason().to_owned(), None));
            }
            result => result?,
        };
        let mut skip = match (ranged, response.status()) {
            (true, StatusCode::PARTIAL_CONTENT) if continues(&response, self.offset, size) => 0,
            (true, StatusCode::PARTIAL_CONTENT) => {
                self.ranges = false;
                let reason = format!("did not continue at byte {} as it was asked to", self.offset);
                return Err(Failure::Transient(reason, None));
            }
            (false, StatusCode::PARTIAL_CONTENT) => {
                return Err(Failure::Final("sent a part where the whole was asked for".to_owned()));
            }
            _ => self.offset,
        };
        let mut stream = response.bytes_stream();
        loop {
            let mut data = match tokio::time::timeout(patience.silence, stream.next()).await {
                Err(_) => return Err(Failure::Unreachable("the connection hangs".to_owned())),
                Ok(None) if self.offset == size => return Ok(()),
                Ok(None) => {
                    let reason = format!("ended after {} of {size} bytes", self.offset);
                    return Err(Failure::Transient(reason, None));
                }
                Ok(Some(Err(error))) => return Err(broken(&error)),
                Ok(Some(Ok(data))) => data,
            };
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            let data = data.split_off(usize::try_from(skipped).unwrap_or(data.len()));
            if !data.is_empty() {
                self.offset += data.len() as u64;
                if self.offset > size {
                    let reason = format!("sent more than the {size} bytes that the manifest says");
                    return Err(Failure::Final(reason));
                }
                self.sink.send(Piece::Data(data)).await.map_err(|_| Failure::Unwanted)?;
            }
            self.last_byte = Instant::now();
        }
    }
}

/// Is this the part from `offset` on of something of `size` bytes? It may end early.
fn continues(response: &Response, offset: u64, size: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| is_part(range, offset, size))
}

/// `bytes 100-199/200`
fn is_part(range: &str, offset: u64, size: u64) -> bool {
    let parse = || {
        let (part, whole) = range.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let whole_fits = whole == "*" || whole.parse::<u64>().ok()? == size;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(whole_fits && first == offset && last >= first && last < size)
    };
    parse().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_checked() {
        for good in ["bytes 100-199/200", "bytes 100-150/200", "bytes 100-199/*"] {
            assert!(is_part(good, 100, 200), "{good}");
        }
        for bad in [
            "bytes 0-199/200",
            "bytes 100-200/200",
            "bytes 100-199/300",
            "bytes 100-99/200",
            "bytes */200",
            "items 100-199/200",
            "",
        ] {
            assert!(!is_part(bad, 100, 200), "{bad}");
        }
    }
}
