//! The client side of the distribution specification 1.1: manifests and blobs of one repository, from the first
//! endpoint that has them.
//!
//! A [`Repository`] lives for one pull and keeps that pull's credentials and tokens; none outlive it. Failures
//! that may pass are retried with growing pauses, then the next endpoint is asked. A blob whose transfer breaks
//! goes on where it stopped, at the next endpoint if need be: its digest is computed over all the bytes, so it
//! does not matter who sent which.

use super::{
    auth::{Auth, Challenge},
    error::{Chain, ImageError},
    hosts::{self, Endpoint, Tls},
    manifest::{ACCEPT, Descriptor, MAX_MANIFEST},
    reference::Reference,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cairn_contract::digest::Sha256Digest;
use futures::StreamExt;
use reqwest::{Certificate, Client, Identity, Method, Response, StatusCode, Url, header, redirect};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Attempts at one endpoint without any progress.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_REDIRECTS: usize = 10;
/// Error bodies and token responses longer than this are not read further.
const MAX_ANSWER: u64 = 256 << 10;
/// Where distributions keep the certificates of public authorities.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Makes HTTP clients; one for each way of checking certificates, so that connections are shared.
#[derive(Debug)]
pub(super) struct Registry {
    certs_d: PathBuf,
    stall: Duration,
    clients: Mutex<HashMap<Tls, Client>>,
}

/// What goes through the pipe to the unpacking thread. A pipe that closes without [`Piece::End`] was abandoned.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    End,
}

/// Why one request failed.
#[derive(Debug)]
enum Failure {
    /// May pass; the registry may have said when.
    Transient(String, Option<Duration>),
    NotFound(String),
    Denied(String),
    /// Will not pass.
    Final(String),
    /// Whoever wanted the bytes is gone.
    Unwanted,
}

impl Registry {
    pub(super) fn new(certs_d: &Path, stall: Duration) -> Self {
        Self { certs_d: certs_d.to_owned(), stall, clients: Mutex::default() }
    }

    /// Opens the repository that `reference` is in.
    pub(super) fn repository(
        &self,
        reference: &Reference,
        auth: Option<Auth>,
    ) -> Result<Repository, ImageError> {
        let endpoints = hosts::endpoints(&self.certs_d, reference.domain())
            .map_err(|error| ImageError::Hosts(error.into()))?;
        let endpoints = endpoints
            .into_iter()
            .map(|endpoint| {
                let client = self.client(&endpoint.tls).map_err(|error| ImageError::Unavailable {
                    reference: reference.to_string(),
                    detail: format!("{}: certificates: {}", endpoint.host, Chain(&error)),
                })?;
                Ok(Session { client, endpoint, authorization: Mutex::default() })
            })
            .collect::<Result<_, ImageError>>()?;
        Ok(Repository { reference: reference.clone(), auth, endpoints, stall: self.stall })
    }

    fn client(&self, tls: &Tls) -> reqwest::Result<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(tls) {
            return Ok(client.clone());
        }
        let client = build_client(tls)?;
        clients.insert(tls.clone(), client.clone());
        Ok(client)
    }
}

fn build_client(tls: &Tls) -> reqwest::Result<Client> {
    let mut roots = Vec::new();
    // A node without public authorities is fine: it has mirrors with their own.
    if let Ok(bundle) = std::fs::read(SYSTEM_CA) {
        roots.extend(Certificate::from_pem_bundle(&bundle)?);
    }
    for pem in &tls.ca {
        roots.extend(Certificate::from_pem_bundle(pem)?);
    }
    let follow = redirect::Policy::custom(|attempt| {
        let from_https = attempt.previous().first().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if from_https && attempt.url().scheme() != "https" {
            attempt.error("a redirect from https to http")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("cairn-cri/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(follow)
        .tls_certs_only(roots)
        .tls_danger_accept_invalid_certs(tls.skip_verify)
        .http2_adaptive_window(true);
    if let Some(pem) = &tls.identity {
        builder = builder.identity(Identity::from_pem(pem)?);
    }
    builder.build()
}

/// An endpoint and what it asked of us.
#[derive(Debug)]
struct Session {
    client: Client,
    endpoint: Endpoint,
    /// `Authorization` value that was accepted, or that a challenge led to.
    authorization: Mutex<Option<String>>,
}

/// One repository at all its endpoints, for one pull.
#[derive(Debug)]
pub(super) struct Repository {
    reference: Reference,
    auth: Option<Auth>,
    endpoints: Vec<Session>,
    stall: Duration,
}

impl Repository {
    /// The document that the reference names, and its digest.
    pub(super) async fn resolve(&self) -> Result<(Vec<u8>, Sha256Digest), ImageError> {
        self.manifest_of(&self.reference).await
    }

    /// The document with this digest.
    pub(super) async fn manifest(&self, digest: Sha256Digest) -> Result<Vec<u8>, ImageError> {
        Ok(self.manifest_of(&self.reference.at(digest)).await?.0)
    }

    async fn manifest_of(&self, wanted: &Reference) -> Result<(Vec<u8>, Sha256Digest), ImageError> {
        let mut failures = Failures::default();
        let by_tag = wanted.digest().is_none();
        for session in
            self.endpoints.iter().filter(|s| if by_tag { s.endpoint.resolve } else { s.endpoint.pull })
        {
            let path = format!("manifests/{}", wanted.version_text());
            let document = self.small(session, &path, Some(ACCEPT), MAX_MANIFEST, |bytes| {
                let actual = sha256(bytes);
                match wanted.digest() {
                    Some(expected) if expected != actual => Err(wrong_digest(expected, actual)),
                    _ => Ok(actual),
                }
            });
            match document.await {
                Ok(found) => return Ok(found),
                Err(failure) => failures.add(session, failure),
            }
        }
        Err(failures.into_error(wanted.to_string()))
    }

    /// A blob that fits into memory, verified.
    pub(super) async fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let mut failures = Failures::default();
        for session in self.endpoints.iter().filter(|session| session.endpoint.pull) {
            let path = format!("blobs/{}", descriptor.digest);
            let blob = self.small(session, &path, None, descriptor.size, |bytes| match sha256(bytes) {
                actual if actual != descriptor.digest => Err(wrong_digest(descriptor.digest, actual)),
                actual => Ok(actual),
            });
            match blob.await {
                Ok((bytes, _)) => return Ok(bytes),
                Err(failure) => failures.add(session, failure),
            }
        }
        Err(failures.into_error(self.reference.to_string()))
    }

    /// Gets something of at most `limit` bytes into memory and checks it.
    async fn small(
        &self,
        session: &Session,
        path: &str,
        accept: Option<&str>,
        limit: u64,
        check: impl Fn(&[u8]) -> Result<Sha256Digest, Failure>,
    ) -> Result<(Vec<u8>, Sha256Digest), Failure> {
        let mut attempt = 0;
        loop {
            let once = async {
                let response = self.get(session, path, accept, 0).await?;
                let bytes = read_limited(response, limit, self.stall).await?;
                let digest = check(&bytes)?;
                Ok((bytes, digest))
            };
            match once.await {
                Err(Failure::Transient(reason, after)) if attempt + 1 < ATTEMPTS => {
                    tracing::debug!(host = session.endpoint.host, path, reason, "will retry");
                    pause(attempt, after).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// How many endpoints can serve blobs.
    pub(super) fn sources(&self) -> usize {
        self.endpoints.iter().filter(|session| session.endpoint.pull).count()
    }

    /// Sends a blob's bytes into `sink`, from the blob endpoints after the first `skip`. Exactly
    /// `descriptor.size` bytes arrive there before the end, or an error comes back. `Ok(None)`: the receiver went
    /// away. Otherwise the host that sent the last bytes.
    pub(super) async fn download(
        &self,
        descriptor: &Descriptor,
        skip: usize,
        sink: mpsc::Sender<Piece>,
    ) -> Result<Option<String>, ImageError> {
        let mut failures = Failures::default();
        let mut transfer = Transfer { descriptor, offset: 0, last_byte: Instant::now(), sink };
        for session in self.endpoints.iter().filter(|session| session.endpoint.pull).skip(skip) {
            let mut attempt = 0;
            loop {
                let before = transfer.offset;
                match self.transfer(session, &mut transfer).await {
                    Ok(()) => {
                        let delivered = transfer.sink.send(Piece::End).await.is_ok();
                        return Ok(delivered.then(|| session.endpoint.host.clone()));
                    }
                    Err(Failure::Unwanted) => return Ok(None),
                    Err(_) if transfer.last_byte.elapsed() >= self.stall => {
                        return Err(ImageError::Stalled {
                            what: format!("{} layer {}", self.reference, descriptor.digest),
                            host: session.endpoint.host.clone(),
                            seconds: self.stall.as_secs(),
                        });
                    }
                    Err(Failure::Transient(reason, after)) => {
                        attempt = if transfer.offset > before { 0 } else { attempt + 1 };
                        if attempt >= ATTEMPTS {
                            failures.add(session, Failure::Transient(reason, None));
                            break;
                        }
                        tracing::debug!(
                            host = session.endpoint.host,
                            layer = %descriptor.digest,
                            offset = transfer.offset,
                            reason,
                            "transfer broke, will go on"
                        );
                        pause(attempt, after).await;
                    }
                    Err(failure) => {
                        failures.add(session, failure);
                        break;
                    }
                }
            }
        }
        Err(failures.into_error(format!("{} layer {}", self.reference, descriptor.digest)))
    }

    /// One connection's worth of a blob.
    async fn transfer(&self, session: &Session, transfer: &mut Transfer<'_>) -> Result<(), Failure> {
        let size = transfer.descriptor.size;
        let path = format!("blobs/{}", transfer.descriptor.digest);
        // A connection that hangs is given up in time to try another before the deadline.
        let patience = (self.stall / 3).max(Duration::from_millis(100));
        let response = self.get(session, &path, None, transfer.offset).await?;
        let mut skip = 0;
        if transfer.offset > 0 {
            if response.status() == StatusCode::PARTIAL_CONTENT {
                let range =
                    response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
                if !range.is_some_and(|range| range.starts_with(&format!("bytes {}-", transfer.offset))) {
                    return Err(Failure::Final(format!("answered a range request with range {range:?}")));
                }
            } else {
                skip = transfer.offset;
            }
        }
        let mut stream = response.bytes_stream();
        loop {
            let mut data = match tokio::time::timeout(patience, stream.next()).await {
                Err(_) => return Err(Failure::Transient("the connection hangs".to_owned(), None)),
                Ok(None) if transfer.offset == size => return Ok(()),
                Ok(None) => {
                    return Err(Failure::Transient(
                        format!("ended after {} of {size} bytes", transfer.offset),
                        None,
                    ));
                }
                Ok(Some(Err(error))) => return Err(transport(&error)),
                Ok(Some(Ok(data))) => data,
            };
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            let data = data.split_off(usize::try_from(skipped).unwrap_or(data.len()));
            if data.is_empty() {
                transfer.last_byte = Instant::now();
                continue;
            }
            transfer.offset += data.len() as u64;
            if transfer.offset > size {
                return Err(Failure::Final(format!(
                    "sent more than the {size} bytes that the manifest says"
                )));
            }
            transfer.sink.send(Piece::Data(data)).await.map_err(|_| Failure::Unwanted)?;
            transfer.last_byte = Instant::now();
        }
    }

    /// One GET, answering challenges.
    async fn get(
        &self,
        session: &Session,
        path: &str,
        accept: Option<&str>,
        offset: u64,
    ) -> Result<Response, Failure> {
        let mut challenged = false;
        loop {
            let response = self.send(session, path, accept, offset).await?;
            let status = response.status();
            match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if !challenged => {
                    challenged = true;
                    self.answer_challenge(session, &response).await?;
                }
                _ => {
                    let after = retry_after(&response);
                    let body = read_limited(response, MAX_ANSWER, self.stall).await.unwrap_or_default();
                    let reason = format!("{status}{}", registry_message(&body));
                    return Err(match status {
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(reason),
                        StatusCode::NOT_FOUND => Failure::NotFound(reason),
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                            Failure::Transient(reason, after)
                        }
                        status if status.is_server_error() => Failure::Transient(reason, after),
                        _ => Failure::Final(reason),
                    });
                }
            }
        }
    }

    async fn send(
        &self,
        session: &Session,
        path: &str,
        accept: Option<&str>,
        offset: u64,
    ) -> Result<Response, Failure> {
        let endpoint = &session.endpoint;
        let mut url = Url::parse(&format!("{}/{}/{path}", endpoint.base, self.reference.path()))
            .map_err(|error| Failure::Final(error.to_string()))?;
        if endpoint.host != self.reference.domain() && self.endpoints.len() > 1 {
            // Tells a mirror of several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", self.reference.domain());
        }
        let mut request = session.client.request(Method::GET, url);
        for (name, value) in &endpoint.headers {
            if name != "authorization" {
                request = request.header(name, value);
            }
        }
        let authorization =
            lock(&session.authorization).clone().or_else(|| configured_authorization(endpoint));
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        // A transparently compressed answer would have another digest.
        request = request.header(header::ACCEPT_ENCODING, "identity");
        timely(self.stall, request.send()).await
    }

    /// Finds the `Authorization` value that the registry asks for.
    async fn answer_challenge(&self, session: &Session, response: &Response) -> Result<(), Failure> {
        let challenge = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .max_by_key(|challenge| matches!(challenge, Challenge::Bearer { .. }))
            .ok_or_else(|| Failure::Denied("401 without a challenge we can answer".to_owned()))?;
        let configured =
            configured_authorization(&session.endpoint).and_then(|value| Auth::from_header(&value));
        let credentials = self.auth.clone().or(configured);
        let value = match (challenge, credentials) {
            (_, Some(Auth::RegistryToken(token))) => format!("Bearer {token}"),
            (Challenge::Basic, Some(Auth::Basic { username, password })) => basic(&username, &password),
            (Challenge::Basic, _) => {
                return Err(Failure::Denied("it wants a user name and a password".to_owned()));
            }
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let token = self.token(session, &realm, service, scope, credentials).await?;
                format!("Bearer {token}")
            }
        };
        *lock(&session.authorization) = Some(value);
        Ok(())
    }

    /// Gets a bearer token from the registry's token service.
    async fn token(
        &self,
        session: &Session,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
        credentials: Option<Auth>,
    ) -> Result<String, Failure> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let mut url =
            Url::parse(realm).map_err(|error| Failure::Final(format!("token service `{realm}`: {error}")))?;
        if session.endpoint.base.starts_with("https:") && url.scheme() != "https" {
            return Err(Failure::Final(format!(
                "token service `{realm}` is not https: credentials stay here"
            )));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.path()));
        let mut parameters = vec![("scope", scope)];
        parameters.extend(service.map(|service| ("service", service)));
        let request = match credentials {
            Some(Auth::IdentityToken(token)) => {
                parameters.push(("grant_type", "refresh_token".to_owned()));
                parameters.push(("client_id", "cairn-cri".to_owned()));
                parameters.push(("refresh_token", token));
                let mut form = url.clone();
                form.query_pairs_mut().clear().extend_pairs(&parameters);
                session
                    .client
                    .post(url)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            credentials => {
                url.query_pairs_mut().extend_pairs(&parameters);
                let request = session.client.get(url);
                match credentials {
                    Some(Auth::Basic { username, password }) => {
                        request.header(header::AUTHORIZATION, basic(&username, &password))
                    }
                    _ => request,
                }
            }
        };
        let response = timely(self.stall, request.send()).await?;
        let status = response.status();
        let after = retry_after(&response);
        let body = read_limited(response, MAX_ANSWER, self.stall).await?;
        if !status.is_success() {
            let reason = format!("token service: {status}{}", registry_message(&body));
            return Err(match status {
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    Failure::Transient(reason, after)
                }
                _ => Failure::Denied(reason),
            });
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|error| Failure::Final(format!("token service `{realm}`: {error}")))?;
        answer
            .token
            .or(answer.access_token)
            .ok_or_else(|| Failure::Final(format!("token service `{realm}` gave no token")))
    }
}

/// A blob on its way.
struct Transfer<'a> {
    descriptor: &'a Descriptor,
    /// Bytes that arrived and were passed on.
    offset: u64,
    last_byte: Instant,
    sink: mpsc::Sender<Piece>,
}

/// What each endpoint said.
#[derive(Default)]
struct Failures {
    said: Vec<String>,
    last: Option<Failure>,
}

impl Failures {
    fn add(&mut self, session: &Session, failure: Failure) {
        let reason = match &failure {
            Failure::Transient(reason, _)
            | Failure::NotFound(reason)
            | Failure::Denied(reason)
            | Failure::Final(reason) => reason,
            Failure::Unwanted => "cancelled",
        };
        self.said.push(format!("{}: {reason}", session.endpoint.host));
        self.last = Some(failure);
    }

    /// The last endpoint is the registry itself: its word decides what kind of error it is.
    fn into_error(self, reference: String) -> ImageError {
        let detail = match self.said.is_empty() {
            true => "hosts.toml leaves no endpoint with the capability for this".to_owned(),
            false => self.said.join("; "),
        };
        match self.last {
            Some(Failure::NotFound(_)) => ImageError::NotFound { reference, detail },
            Some(Failure::Denied(_)) => ImageError::Denied { reference, detail },
            _ => ImageError::Unavailable { reference, detail },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn configured_authorization(endpoint: &Endpoint) -> Option<String> {
    endpoint.headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.clone())
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(bytes).into())
}

fn wrong_digest(expected: Sha256Digest, actual: Sha256Digest) -> Failure {
    Failure::Final(format!("sent wrong content: expected {expected}, received {actual}"))
}

/// The pause before the attempt after `attempt`, doubled each time; what the registry asks for, if bearable.
async fn pause(attempt: u32, asked: Option<Duration>) {
    let growing = FIRST_PAUSE * 2_u32.saturating_pow(attempt.min(10));
    tokio::time::sleep(asked.unwrap_or(growing).min(LONGEST_PAUSE)).await;
}

async fn timely(
    limit: Duration,
    response: impl Future<Output = reqwest::Result<Response>>,
) -> Result<Response, Failure> {
    match tokio::time::timeout(limit, response).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(transport(&error)),
        Err(_) => Err(Failure::Transient(format!("no answer within {} s", limit.as_secs()), None)),
    }
}

/// Connections break and names fail to resolve for a while; a certificate or a redirect stays wrong.
fn transport(error: &reqwest::Error) -> Failure {
    let reason = Chain(error).to_string();
    if error.is_redirect() || error.is_builder() || reason.contains("certificate") {
        return Failure::Final(reason);
    }
    Failure::Transient(reason, None)
}

async fn read_limited(response: Response, limit: u64, stall: Duration) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    loop {
        match tokio::time::timeout(stall, stream.next()).await {
            Err(_) => return Err(Failure::Transient("the connection hangs".to_owned(), None)),
            Ok(None) => return Ok(body),
            Ok(Some(Err(error))) => return Err(transport(&error)),
            Ok(Some(Ok(data))) => {
                if (body.len() + data.len()) as u64 > limit {
                    return Err(Failure::Final(format!("sent more than {limit} bytes")));
                }
                body.extend_from_slice(&data);
            }
        }
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The first message of the specification's error document.
fn registry_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Error>,
    }
    #[derive(serde::Deserialize)]
    struct Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    serde_json::from_slice::<Document>(body)
        .ok()
        .and_then(|document| document.errors.into_iter().next())
        .map(|error| format!(" ({} {})", error.code, error.message.chars().take(200).collect::<String>()))
        .unwrap_or_default()
}
