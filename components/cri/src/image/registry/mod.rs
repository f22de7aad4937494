//! The client side of the distribution specification 1.1: manifests and blobs of one repository, from the first
//! endpoint that has them.
//!
//! ```text
//! Repository ── small documents (here), blobs (blob)
//!   └ Session     one endpoint: headers, credentials, challenges
//!       ├ token     bearer tokens, kept until they expire
//!       └ transport one GET: redirects, deadlines, limits
//! silence         which endpoints did not answer lately
//! retry           which failures are worth another attempt, and when
//! ```
//!
//! A [`Repository`] lives for one pull and keeps that pull's credentials. Failures that may pass are retried with
//! growing pauses, then the next endpoint is asked; an endpoint that did not answer is asked last for a while.

mod blob;
mod challenge;
mod client;
mod retry;
mod session;
mod silence;
#[cfg(test)]
mod tests;
mod token;
mod transport;

pub(super) use blob::Piece;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use {challenge::Challenge, retry::retry_after};

use super::{
    auth::PullSecret,
    error::{Chain, ImageError},
    hosts::{self, Endpoint},
    keyring::Keyring,
    manifest::{ACCEPT, Descriptor, MAX_MANIFEST},
    reference::Reference,
};
use cairn_contract::digest::Sha256Digest;
use client::Clients;
use reqwest::header::{self, HeaderMap, HeaderValue};
use retry::{Failure, Failures};
use session::{Memory, Session};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use transport::{Patience, read_limited};

/// What registries are reached with; lives as long as the daemon.
#[derive(Debug)]
pub(super) struct Registry {
    certs_d: PathBuf,
    registry_auth: PathBuf,
    patience: Patience,
    clients: Clients,
    memory: Memory,
}

impl Registry {
    /// `certs_d` and `registry_auth` are read at every pull; `stall` is how long a pull may be without progress.
    pub(super) fn new(certs_d: &Path, registry_auth: &Path, stall: Duration) -> Self {
        Self {
            certs_d: certs_d.to_owned(),
            registry_auth: registry_auth.to_owned(),
            patience: Patience::new(stall),
            clients: Clients::default(),
            memory: Memory::default(),
        }
    }

    /// Opens the repository that `reference` is in.
    pub(super) fn repository(
        &self,
        reference: &Reference,
        secret: Option<&PullSecret>,
    ) -> Result<Repository, ImageError> {
        let endpoints = hosts::endpoints(&self.certs_d, reference.domain())
            .map_err(|error| ImageError::Hosts(error.into()))?;
        let keyring =
            Keyring::load(&self.registry_auth).map_err(|error| ImageError::Keyring(error.into()))?;
        let open = |endpoint: Endpoint| {
            let client = self.clients.get(&endpoint).map_err(|error| ImageError::Unavailable {
                reference: reference.to_string(),
                detail: format!("{}: certificates: {}", endpoint.host, Chain(&error)),
            })?;
            let credentials = session::credentials(&endpoint, secret, &keyring, reference);
            Ok(Session::new(endpoint, client, reference, credentials, &self.memory, self.patience))
        };
        let sessions = endpoints.into_iter().map(open).collect::<Result<_, ImageError>>()?;
        Ok(Repository { reference: reference.clone(), sessions, patience: self.patience })
    }
}

/// One repository at all its endpoints, for one pull.
#[derive(Debug)]
pub(super) struct Repository {
    reference: Reference,
    sessions: Vec<Session>,
    patience: Patience,
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
        let document = Small {
            path: format!("manifests/{}", wanted.version_text()),
            accept: Some(ACCEPT),
            limit: MAX_MANIFEST,
            digest: wanted.digest(),
        };
        let by_tag = wanted.digest().is_none();
        let may = |endpoint: &Endpoint| if by_tag { endpoint.resolve } else { endpoint.pull };
        self.first(may, &document, wanted.to_string()).await
    }

    /// A blob that fits into memory, verified.
    pub(super) async fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let document = Small {
            path: format!("blobs/{}", descriptor.digest),
            accept: None,
            limit: descriptor.size,
            digest: Some(descriptor.digest),
        };
        Ok(self.first(|endpoint| endpoint.pull, &document, self.reference.to_string()).await?.0)
    }

    /// The document, from the first endpoint that has it.
    async fn first(
        &self,
        may: impl Fn(&Endpoint) -> bool,
        document: &Small,
        name: String,
    ) -> Result<(Vec<u8>, Sha256Digest), ImageError> {
        let mut failures = Failures::default();
        let sessions = self.ordered(may, 0);
        for (index, session) in sessions.iter().enumerate() {
            match document.fetch(session, index + 1 < sessions.len(), self.patience).await {
                Ok(found) => return Ok(found),
                Err(failure) => {
                    session.note(&failure);
                    failures.add(&session.endpoint, failure);
                }
            }
        }
        Err(failures.into_error(name))
    }

    /// The endpoints that `may`, without the first `skip`; those that did not answer last.
    fn ordered(&self, may: impl Fn(&Endpoint) -> bool, skip: usize) -> Vec<&Session> {
        let able = self.sessions.iter().filter(|session| may(&session.endpoint)).skip(skip);
        let (silent, mut ordered): (Vec<_>, Vec<_>) = able.partition(|session| session.is_silent());
        ordered.extend(silent);
        ordered
    }
}

/// A document that fits into memory.
struct Small {
    path: String,
    accept: Option<&'static str>,
    limit: u64,
    /// What it must be, if that is known.
    digest: Option<Sha256Digest>,
}

impl Small {
    async fn fetch(
        &self,
        session: &Session,
        others: bool,
        patience: Patience,
    ) -> Result<(Vec<u8>, Sha256Digest), Failure> {
        let begin = Instant::now();
        let mut attempt = 0;
        loop {
            let failure = match self.fetch_once(session, patience).await {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
            match failure.pause(attempt, others) {
                Some(pause) if begin.elapsed() + pause < patience.whole => {
                    let (host, path, reason) = (&session.endpoint.host, &self.path, failure.reason());
                    tracing::debug!(host, path, reason, "will retry");
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                _ => return Err(failure),
            }
        }
    }

    async fn fetch_once(
        &self,
        session: &Session,
        patience: Patience,
    ) -> Result<(Vec<u8>, Sha256Digest), Failure> {
        let mut headers = HeaderMap::new();
        headers.extend(self.accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept))));
        // A transparently compressed answer would have another digest.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let response = session.get(&self.path, &headers).await?;
        // What a tag is, is the registry's word; it should not contradict itself.
        let announced: Option<Sha256Digest> = response
            .headers()
            .get("docker-content-digest")
            .and_then(|digest| digest.to_str().ok()?.parse().ok());
        let bytes = read_limited(response, self.limit, patience).await?;
        let actual = Sha256Digest::new(Sha256::digest(&bytes).into());
        match self.digest.or(announced) {
            Some(expected) if expected != actual => {
                Err(Failure::Final(format!("sent wrong content: expected {expected}, received {actual}")))
            }
            _ => Ok((bytes, actual)),
        }
    }
}
