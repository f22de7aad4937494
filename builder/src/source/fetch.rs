//! Downloads: parallel, resumed, verified, into the cache.
//!
//! Every download names the digest its bytes must have, so where they come from does not matter for what is
//! built: a mirror can be down or stale, it cannot change an image. The calls block; they run an async client
//! inside and so must not be made on a thread of another async runtime.

use super::{
    cache::{Cache, Claim, Part, StorageError},
    progress::{Event, Progress},
};
use cairn_contract::digest::Sha256Digest;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{StatusCode, Url, header};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    error::Error as _,
    io::{Read as _, Write as _},
    path::PathBuf,
    time::Duration,
};

/// Downloads at the same time. More does not help against one mirror and is impolite.
const CONNECTIONS: usize = 6;
/// Attempts in a row without one byte received.
const ATTEMPTS: u32 = 4;
/// First pause between attempts; doubled each time.
const PAUSE: Duration = Duration::from_millis(500);
/// A server that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);

/// Why bytes did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer.
    #[error("cannot reach {url}: {why}; check the network, or name another mirror")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The innermost causes.
        why: String,
    },
    /// The server does not have it.
    #[error("{url} is not there (HTTP {status}): {what} was removed or never existed on this server")]
    NotFound {
        /// What was asked for.
        url: String,
        /// 404 or 410.
        status: u16,
        /// Its name for people.
        what: String,
    },
    /// The server has it, perhaps, but does not give it.
    #[error("{url}: the server answered HTTP {status}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
    },
    /// The bytes are not those that were meant.
    #[error(
        "{url} has digest {found}, not {expected}: the file was changed or damaged on the way or on the server; \
         nothing of it is kept"
    )]
    WrongDigest {
        /// What was asked for.
        url: String,
        /// The digest it should have.
        expected: Sha256Digest,
        /// The digest it has.
        found: Sha256Digest,
    },
    /// More bytes than the thing has.
    #[error("{url} is longer than the {limit} bytes it should have at most")]
    TooLong {
        /// What was asked for.
        url: String,
        /// Most bytes accepted.
        limit: u64,
    },
    /// Not a URL, or not of a scheme we speak.
    #[error("`{url}` is not an http or https URL: {why}")]
    InvalidUrl {
        /// The text.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The client cannot be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Client(String),
    /// The cache cannot hold it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl FetchError {
    /// Whether the server said that it does not have the file: the one fault that resolving again can mend.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Proxies by URL scheme, each with exceptions by host. Where none is named, the environment's variables
/// (`http_proxy`, `https_proxy`, `no_proxy`) apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Key: scheme (`http`) or scheme and host (`http::mirror.example`); `None` means a direct connection.
    pub rules: BTreeMap<String, Option<String>>,
}

impl Proxies {
    fn rule(&self, url: &Url) -> Option<&Option<String>> {
        let host = url.host_str().unwrap_or_default();
        self.rules.get(&format!("{}::{host}", url.scheme())).or_else(|| self.rules.get(url.scheme()))
    }
}

/// One file to bring into the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Its name for people: `systemd 257.8-1`.
    pub what: String,
    /// Where it is.
    pub url: String,
    /// What its bytes hash to.
    pub digest: Sha256Digest,
    /// How many they are, when known; more are refused.
    pub size: Option<u64>,
}

/// The downloader.
#[derive(Debug)]
pub struct Fetcher {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    cache: Cache,
}

impl Fetcher {
    /// Downloads go into `cache`, through `proxies`.
    ///
    /// # Errors
    /// The client cannot be set up: no threads, a proxy that is not a URL.
    pub fn new(cache: Cache, proxies: Proxies) -> Result<Self, FetchError> {
        // An error only says that the process has a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| FetchError::Client(error.to_string()))?;
        for proxy in proxies.rules.values().flatten() {
            parse_url(proxy)?;
        }
        let client = reqwest::Client::builder()
            .user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(SILENCE);
        let client = if proxies.rules.is_empty() {
            client
        } else {
            let proxy = reqwest::Proxy::custom(move |url| match proxies.rule(url) {
                Some(Some(proxy)) => Url::parse(proxy).ok(),
                Some(None) | None => None,
            });
            client.proxy(proxy)
        };
        let client = client.build().map_err(|error| FetchError::Client(causes(&error)))?;
        Ok(Self { runtime, client, cache })
    }

    /// The cache that downloads go to.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Brings every download into the cache; the answer has the paths in the same order.
    ///
    /// What is there is not asked for again. The first failure ends it; parts of unfinished downloads stay and
    /// are resumed the next time.
    ///
    /// # Errors
    /// The first failure.
    pub fn blobs(&self, downloads: &[Download], progress: &Progress<'_>) -> Result<Vec<PathBuf>, FetchError> {
        let missing: BTreeMap<_, _> = downloads
            .iter()
            .filter(|download| !self.cache.blob(&download.digest).exists())
            .map(|download| (download.digest, download))
            .collect();
        if !missing.is_empty() {
            let bytes = missing.values().filter_map(|download| download.size).sum();
            progress(Event::Downloading { files: missing.len(), bytes });
            self.runtime.block_on(
                stream::iter(missing.into_values())
                    .map(|download| self.blob(download, progress))
                    .buffer_unordered(CONNECTIONS)
                    .try_collect::<()>(),
            )?;
        }
        Ok(downloads.iter().map(|download| self.cache.blob(&download.digest)).collect())
    }

    /// Brings a document that has no known digest into memory: at most `limit` bytes.
    ///
    /// # Errors
    /// It cannot be had, or is longer.
    pub fn document(&self, url: &str, limit: u64, progress: &Progress<'_>) -> Result<Vec<u8>, FetchError> {
        self.runtime.block_on(async {
            let mut bytes = Vec::new();
            retried(url, progress, async |_| {
                bytes.clear();
                let response = self.ask(url, url, 0).await?;
                let mut body = response.bytes_stream();
                while let Some(chunk) = body.next().await {
                    bytes.extend_from_slice(&chunk.map_err(|error| Fault::Passing(causes(&error)))?);
                    if bytes.len() as u64 > limit {
                        return Err(FetchError::TooLong { url: url.to_owned(), limit }.into());
                    }
                }
                Ok(())
            })
            .await?;
            Ok(bytes)
        })
    }

    async fn blob(&self, download: &Download, progress: &Progress<'_>) -> Result<(), FetchError> {
        let path = self.cache.blob(&download.digest);
        let part = loop {
            match Part::try_claim(&path)? {
                Some(Claim::Ready) => return Ok(()),
                Some(Claim::Mine(part)) => break part,
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let mut transfer = Transfer::resume(part, progress)?;
        loop {
            let resumed = transfer.length > 0;
            // An interrupted build may have left all of it, only without its final name.
            if !resumed || transfer.digest() != download.digest {
                retried(&download.url, progress, async |received| {
                    self.receive(download, &mut transfer, received, progress).await
                })
                .await?;
            }
            let found = transfer.digest();
            if found == download.digest {
                transfer.part.finish()?;
                progress(Event::Downloaded(&download.what));
                return Ok(());
            }
            // What an earlier attempt left may be of another file or half written: once more from the start.
            if !resumed {
                transfer.part.discard();
                let (url, expected) = (download.url.clone(), download.digest);
                return Err(FetchError::WrongDigest { url, expected, found });
            }
            transfer.restart(progress)?;
        }
    }

    async fn receive(
        &self,
        download: &Download,
        transfer: &mut Transfer,
        received: &mut bool,
        progress: &Progress<'_>,
    ) -> Result<(), Fault> {
        let url = &download.url;
        let response = self.ask(url, &download.what, transfer.length).await?;
        let continued = response.status() == StatusCode::PARTIAL_CONTENT
            && response
                .headers()
                .get(header::CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .is_some_and(|range| range.starts_with(&format!("bytes {}-", transfer.length)));
        if !continued && transfer.length > 0 {
            transfer.restart(progress)?;
            if !response.status().is_success() || response.status() == StatusCode::PARTIAL_CONTENT {
                return Err(Fault::Passing("the server cannot continue this download".to_owned()));
            }
        }
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| Fault::Passing(causes(&error)))?;
            transfer.append(&chunk)?;
            *received = true;
            progress(Event::Received(chunk.len() as u64));
            if let Some(limit) = download.size.filter(|&size| transfer.length > size) {
                transfer.restart(progress)?;
                return Err(FetchError::TooLong { url: url.clone(), limit }.into());
            }
        }
        match download.size {
            Some(size) if transfer.length < size => {
                Err(Fault::Passing(format!("the server ended after {} of {size} bytes", transfer.length)))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&self, url: &str, what: &str, from: u64) -> Result<reqwest::Response, Fault> {
        // No `Accept-Encoding`: what is stored is what was hashed.
        let mut request = self.client.get(parse_url(url)?);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.send().await.map_err(|error| Fault::Passing(causes(&error)))?;
        let status = response.status();
        match status {
            _ if status.is_success() => Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(Fault::Final(FetchError::NotFound {
                url: url.to_owned(),
                status: status.as_u16(),
                what: what.to_owned(),
            })),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Fault::Passing(format!("HTTP {status}")))
            }
            _ if status.is_server_error() => Err(Fault::Passing(format!("HTTP {status}"))),
            _ => Err(Fault::Final(FetchError::Refused { url: url.to_owned(), status: status.as_u16() })),
        }
    }
}

/// A failed attempt.
enum Fault {
    /// Worth another attempt.
    Passing(String),
    /// Not.
    Final(FetchError),
}

impl From<FetchError> for Fault {
    fn from(error: FetchError) -> Self {
        Self::Final(error)
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Self::Final(error.into())
    }
}

/// Calls `attempt` until it succeeds, fails for good, or fails too often without having received anything.
async fn retried(
    url: &str,
    progress: &Progress<'_>,
    mut attempt: impl AsyncFnMut(&mut bool) -> Result<(), Fault>,
) -> Result<(), FetchError> {
    let mut failures = 0;
    loop {
        let mut received = false;
        let why = match attempt(&mut received).await {
            Ok(()) => return Ok(()),
            Err(Fault::Final(error)) => return Err(error),
            Err(Fault::Passing(why)) => why,
        };
        failures = if received { 1 } else { failures + 1 };
        if failures == ATTEMPTS {
            return Err(FetchError::Unreachable { url: url.to_owned(), why });
        }
        let delay = PAUSE * 2u32.pow(failures - 1);
        progress(Event::Retrying { what: url, why: &why, delay });
        tokio::time::sleep(delay).await;
    }
}

/// A blob being written, and the hash of what is written.
struct Transfer {
    part: Part,
    hash: Sha256,
    length: u64,
}

impl Transfer {
    fn resume(mut part: Part, progress: &Progress<'_>) -> Result<Self, StorageError> {
        let (mut hash, mut length) = (Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = part.file.read(&mut buffer).map_err(|error| part.fault(error))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            length += count as u64;
        }
        if length > 0 {
            progress(Event::Received(length));
        }
        Ok(Self { part, hash, length })
    }

    fn digest(&self) -> Sha256Digest {
        Sha256Digest::new(self.hash.clone().finalize().into())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.part.file.write_all(bytes).map_err(|error| self.part.fault(error))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self, progress: &Progress<'_>) -> Result<(), StorageError> {
        progress(Event::Discarded(self.length));
        self.part.restart()?;
        (self.hash, self.length) = (Sha256::new(), 0);
        Ok(())
    }
}

fn parse_url(text: &str) -> Result<Url, FetchError> {
    let invalid = |why: String| FetchError::InvalidUrl { url: text.to_owned(), why };
    let url = Url::parse(text).map_err(|error| invalid(error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => Err(invalid(format!("the scheme is `{scheme}`"))),
    }
}

/// The message of an error without the URL, and of what caused it: the HTTP client's own says only "error
/// sending request".
fn causes(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if std::ptr::addr_eq(innermost, error) {
        return if error.is_timeout() { "timed out".to_owned() } else { error.to_string() };
    }
    let text = innermost.to_string();
    if error.source().is_some() && error.is_connect() { format!("no connection, {text}") } else { text }
}

#[cfg(test)]
mod tests;
