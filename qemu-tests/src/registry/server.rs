//! The pull half of the OCI distribution specification over HTTP/1.1.

use super::{
    fault::{Fault, FaultQueue},
    synthesis::{Blob, SyntheticImage, SyntheticIndex},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// Name the registry gives itself in token challenges.
const SERVICE: &str = "cairn-test-registry";
/// The one token it gives out. It guards nothing but test images.
const TOKEN: &str = "cairn-test-token";
const PIECE: usize = 64 * 1024;
/// Long enough to send what was announced before the connection breaks.
const BEFORE_RESET: std::time::Duration = std::time::Duration::from_millis(200);

type Body = BoxBody<Bytes, io::Error>;

/// Who may pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Open,
    /// Whoever fetched a token, with this user name and password.
    Token {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
}

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// `GET` or `HEAD`.
    pub method: Method,
    /// Path.
    pub path: String,
    /// Value of the `Range` header.
    pub range: Option<String>,
}

/// A running registry; it ends when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    shelf: Arc<Shelf>,
    server: JoinHandle<()>,
}

/// What is served.
#[derive(Debug, Default)]
struct Shelf {
    access: Access,
    content: Mutex<Content>,
    faults: FaultQueue,
    requests: Mutex<Vec<RequestRecord>>,
}

#[derive(Debug, Default)]
struct Content {
    /// By `repository:tag` and `repository@digest`.
    manifests: BTreeMap<String, Blob>,
    /// By `repository@digest`.
    blobs: BTreeMap<String, Blob>,
}

impl Registry {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start(access: Access) -> Result<Self, crate::error::Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(crate::error::Fault::io("open a port for the test registry"))?;
        let address =
            listener.local_addr().map_err(crate::error::Fault::io("read the port of the test registry"))?;
        let shelf = Arc::new(Shelf { access, ..Shelf::default() });
        let server = tokio::spawn(serve(listener, shelf.clone()));
        Ok(Self { address, shelf, server })
    }

    /// Where it listens on the host.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts an image under `repository:tag`.
    pub fn publish(&self, repository: &str, tag: &str, image: &SyntheticImage) {
        self.content().add_image(repository, Some(tag), image);
    }

    /// Puts an image of several platforms under `repository:tag`.
    pub fn publish_index(&self, repository: &str, tag: &str, index: &SyntheticIndex) {
        let mut content = self.content();
        for image in &index.images {
            content.add_image(repository, None, image);
        }
        content.add_manifest(repository, Some(tag), &index.index);
    }

    /// Misbehaves on the next `times` requests for blobs.
    pub fn misbehave(&self, fault: Fault, times: usize) {
        self.shelf.faults.push(fault, times);
    }

    /// Behaves again.
    pub fn behave(&self) {
        self.shelf.faults.clear();
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.shelf.requests).clone()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        lock(&self.shelf.content)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Content {
    fn add_image(&mut self, repository: &str, tag: Option<&str>, image: &SyntheticImage) {
        for blob in image.layers.iter().chain([&image.config]) {
            self.blobs.insert(format!("{repository}@{}", blob.digest), blob.clone());
        }
        self.add_manifest(repository, tag, &image.manifest);
    }

    fn add_manifest(&mut self, repository: &str, tag: Option<&str>, manifest: &Blob) {
        self.manifests.insert(format!("{repository}@{}", manifest.digest), manifest.clone());
        if let Some(tag) = tag {
            self.manifests.insert(format!("{repository}:{tag}"), manifest.clone());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shelf: Arc<Shelf>) {
    // Connections end with the registry, not with the program.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shelf = shelf.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shelf = shelf.clone();
                async move { Ok::<_, Infallible>(shelf.answer(&request)) }
            });
            // A client that hangs up, or a fault of ours, ends the connection with an error: nothing to do.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Shelf {
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let headers = request.headers();
        lock(&self.requests).push(RequestRecord {
            method: request.method().clone(),
            path: path.to_owned(),
            range: headers.get(header::RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned),
        });
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
        }
        let response = if path == "/token" {
            self.token(headers)
        } else if !self.may(headers) {
            challenge(path, headers)
        } else {
            self.route(path, headers)
        };
        if request.method() == Method::HEAD { response.map(|_| empty()) } else { response }
    }

    fn route(&self, path: &str, headers: &HeaderMap) -> Response<Body> {
        let Some(rest) = path.strip_prefix("/v2/") else {
            return error(StatusCode::NOT_FOUND, "UNSUPPORTED");
        };
        if rest.is_empty() {
            return Response::new(empty());
        }
        if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
            let separator = if reference.starts_with("sha256:") { '@' } else { ':' };
            let manifest =
                lock(&self.content).manifests.get(&format!("{repository}{separator}{reference}")).cloned();
            return manifest
                .map_or_else(|| error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"), |blob| whole(&blob));
        }
        if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
            let blob = lock(&self.content).blobs.get(&format!("{repository}@{digest}")).cloned();
            return match blob {
                Some(blob) => self.blob(&blob, headers),
                None => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            };
        }
        error(StatusCode::NOT_FOUND, "NAME_UNKNOWN")
    }

    fn blob(&self, blob: &Blob, headers: &HeaderMap) -> Response<Body> {
        let fault = self.faults.next(blob.bytes.len());
        if fault == Some(Fault::ServerError) {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN");
        }
        let total = blob.bytes.len();
        let wanted = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let (status, part, range) = match wanted.map(|text| parse_range(text, total)) {
            None | Some(Range::Ignored) => (StatusCode::OK, blob.bytes.clone(), None),
            Some(Range::Unsatisfiable) => {
                let mut response = error(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID");
                insert(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{total}"));
                return response;
            }
            Some(Range::Part { first, last }) => {
                let range = format!("bytes {first}-{last}/{total}");
                (StatusCode::PARTIAL_CONTENT, blob.bytes.slice(first..=last), Some(range))
            }
        };
        let length = part.len();
        let mut response = Response::new(with_fault(part, fault));
        *response.status_mut() = status;
        describe(response.headers_mut(), "application/octet-stream", blob, length);
        insert(response.headers_mut(), header::ACCEPT_RANGES, "bytes");
        if let Some(range) = range {
            insert(response.headers_mut(), header::CONTENT_RANGE, &range);
        }
        response
    }

    fn may(&self, headers: &HeaderMap) -> bool {
        self.access == Access::Open || authorization(headers) == Some(format!("Bearer {TOKEN}"))
    }

    fn token(&self, headers: &HeaderMap) -> Response<Body> {
        let allowed = match &self.access {
            Access::Open => true,
            Access::Token { user, password } => {
                let basic = BASE64_STANDARD.encode(format!("{user}:{password}"));
                authorization(headers) == Some(format!("Basic {basic}"))
            }
        };
        if !allowed {
            return error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
        }
        let body =
            serde_json::json!({ "token": TOKEN, "access_token": TOKEN, "expires_in": 300 }).to_string();
        let mut response = Response::new(full(body.into()));
        insert(response.headers_mut(), header::CONTENT_TYPE, "application/json");
        response
    }
}

fn authorization(headers: &HeaderMap) -> Option<String> {
    headers.get(header::AUTHORIZATION)?.to_str().ok().map(str::to_owned)
}

/// 401 with where to get a token. The host is the one the client used: it sees us under another address.
fn challenge(path: &str, headers: &HeaderMap) -> Response<Body> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let repository = path
        .strip_prefix("/v2/")
        .and_then(|rest| rest.rsplit_once("/manifests/").or_else(|| rest.rsplit_once("/blobs/")))
        .map(|(repository, _)| format!(",scope=\"repository:{repository}:pull\""));
    let mut response = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    let challenge = format!(
        "Bearer realm=\"http://{host}/token\",service=\"{SERVICE}\"{}",
        repository.unwrap_or_default()
    );
    insert(response.headers_mut(), header::WWW_AUTHENTICATE, &challenge);
    response
}

fn whole(blob: &Blob) -> Response<Body> {
    let mut response = Response::new(full(blob.bytes.clone()));
    describe(response.headers_mut(), blob.media_type, blob, blob.bytes.len());
    response
}

fn describe(headers: &mut HeaderMap, media_type: &str, blob: &Blob, length: usize) {
    insert(headers, header::CONTENT_TYPE, media_type);
    insert(headers, header::CONTENT_LENGTH, &length.to_string());
    insert(headers, header::HeaderName::from_static("docker-content-digest"), &blob.digest.to_string());
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        headers.insert(name, value);
    }
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": status.to_string() }] }).to_string();
    let mut response = Response::new(full(body.into()));
    *response.status_mut() = status;
    insert(response.headers_mut(), header::CONTENT_TYPE, "application/json");
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn empty() -> Body {
    full(Bytes::new())
}

/// The bytes in pieces, with `fault` in them.
fn with_fault(bytes: Bytes, fault: Option<Fault>) -> Body {
    let mut pieces: Vec<io::Result<Bytes>> = Vec::new();
    let end = match fault {
        Some(Fault::ResetAfter(count)) => count.min(bytes.len()),
        _ => bytes.len(),
    };
    for start in (0..end).step_by(PIECE) {
        pieces.push(Ok(bytes.slice(start..end.min(start + PIECE))));
    }
    match fault {
        Some(Fault::ResetAfter(_)) => pieces.push(Err(io::Error::from(io::ErrorKind::ConnectionReset))),
        Some(Fault::Corrupt) => {
            let middle = pieces.len() / 2;
            if let Some(Ok(piece)) = pieces.get_mut(middle) {
                let mut changed = piece.to_vec();
                let at = changed.len() / 2;
                changed[at] ^= 1;
                *piece = changed.into();
            }
        }
        _ => {}
    }
    let pause = match fault {
        Some(Fault::Slow(pause)) => pause,
        _ => std::time::Duration::ZERO,
    };
    let frames = stream::iter(pieces).then(move |piece| async move {
        // A broken connection drops what hyper has not sent yet; this lets it.
        let pause = if piece.is_err() { BEFORE_RESET } else { pause };
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        piece.map(Frame::data)
    });
    BodyExt::boxed(StreamBody::new(frames))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Part {
        first: usize,
        last: usize,
    },
    Unsatisfiable,
    /// Several ranges or another unit: a server may answer with everything (RFC 9110, 14.2).
    Ignored,
}

/// `bytes=5-`, `bytes=5-9`, `bytes=-3` of a blob of `total` bytes.
fn parse_range(text: &str, total: usize) -> Range {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Ignored;
    };
    let (first, last) = match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
        (Ok(first), Ok(last)) if first > last => return Range::Ignored,
        (Ok(first), Ok(last)) => (first, last.min(total.saturating_sub(1))),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, total.saturating_sub(1)),
        (Err(_), Ok(0)) if first.trim().is_empty() => return Range::Unsatisfiable,
        (Err(_), Ok(count)) if first.trim().is_empty() => {
            (total.saturating_sub(count), total.saturating_sub(1))
        }
        _ => return Range::Ignored,
    };
    if first >= total { Range::Unsatisfiable } else { Range::Part { first, last } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        for (text, expected) in [
            ("bytes=0-", Range::Part { first: 0, last: 9 }),
            ("bytes=3-5", Range::Part { first: 3, last: 5 }),
            ("bytes=3-50", Range::Part { first: 3, last: 9 }),
            ("bytes=-4", Range::Part { first: 6, last: 9 }),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=5-3", Range::Ignored),
            ("bytes=0-1,3-4", Range::Ignored),
            ("items=0-1", Range::Ignored),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }
}
