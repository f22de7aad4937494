//! One GET: redirects followed without taking secrets along, deadlines, limits, and what an answer means.

use super::{
    super::error::Chain,
    retry::{Failure, retry_after},
};
use futures::StreamExt;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{self, HeaderMap},
};
use std::time::{Duration, Instant, SystemTime};

const MAX_REDIRECTS: usize = 10;
/// Error documents and token responses longer than this are refused.
pub(super) const MAX_ANSWER: u64 = 256 << 10;
/// A server that has nothing to say for so long has hung.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Deadlines, all derived from the configured progress deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From request to the answer's head.
    pub(super) answer: Duration,
    /// Between two pieces of a body. A connection that hangs is given up in time to try another before the deadline.
    pub(super) silence: Duration,
    /// Without any progress at all, or for the whole of a small document.
    pub(super) whole: Duration,
}

impl Patience {
    pub(super) fn new(stall: Duration) -> Self {
        let silence = (stall / 3).max(Duration::from_millis(100)).min(LONGEST_SILENCE);
        Self { answer: stall.min(LONGEST_SILENCE), silence, whole: stall }
    }
}

/// Gets `url`. `secret` headers go to its origin (scheme, host, port) only and no longer once a redirect left it;
/// `common` ones go everywhere.
pub(super) async fn get(
    client: &Client,
    url: &Url,
    secret: &HeaderMap,
    common: &HeaderMap,
    patience: Patience,
) -> Result<Response, Failure> {
    let mut at = url.clone();
    let mut home = true;
    for _ in 0..=MAX_REDIRECTS {
        home &= at.origin() == url.origin();
        let mut headers = common.clone();
        if home {
            headers.extend(secret.clone());
        }
        let response = timely(patience, client.get(at.clone()).headers(headers).send()).await?;
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(response);
        }
        let next = response
            .headers()
            .get(header::LOCATION)
            .and_then(|location| at.join(location.to_str().ok()?).ok())
            .ok_or_else(|| Failure::Final(format!("{} without a usable Location", response.status())))?;
        match (at.scheme(), next.scheme()) {
            ("http", "http" | "https") | ("https", "https") => at = next,
            (from, to) => return Err(Failure::Final(format!("a redirect from {from} to {to}"))),
        }
    }
    Err(Failure::Final(format!("more than {MAX_REDIRECTS} redirects")))
}

/// Waits for an answer's head.
pub(super) async fn timely(
    patience: Patience,
    response: impl Future<Output = reqwest::Result<Response>>,
) -> Result<Response, Failure> {
    match tokio::time::timeout(patience.answer, response).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(broken(&error)),
        Err(_) => Err(Failure::Unreachable(format!("no answer within {:?}", patience.answer))),
    }
}

/// Connections break and names fail to resolve for a while; a certificate stays wrong.
pub(super) fn broken(error: &reqwest::Error) -> Failure {
    let reason = Chain(error).to_string();
    if error.is_redirect() || error.is_builder() || reason.contains("certificate") {
        return Failure::Final(reason);
    }
    if error.is_connect() || error.is_timeout() {
        return Failure::Unreachable(reason);
    }
    Failure::Transient(reason, None)
}

/// A body of at most `limit` bytes.
pub(super) async fn read_limited(
    response: Response,
    limit: u64,
    patience: Patience,
) -> Result<Vec<u8>, Failure> {
    let too_long = || Failure::Final(format!("sent more than {limit} bytes"));
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_long());
    }
    let begin = Instant::now();
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    loop {
        let left = patience.whole.saturating_sub(begin.elapsed());
        match tokio::time::timeout(patience.silence.min(left), stream.next()).await {
            Err(_) => return Err(Failure::Unreachable("the connection hangs".to_owned())),
            Ok(None) => return Ok(body),
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(Some(Ok(data))) if (body.len() + data.len()) as u64 > limit => return Err(too_long()),
            Ok(Some(Ok(data))) => body.extend_from_slice(&data),
        }
    }
}

/// What an answer other than success means. `from` stands before what is said about it.
pub(super) async fn refusal(from: &str, response: Response, patience: Patience) -> Failure {
    let status = response.status();
    let after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
    let body = read_limited(response, MAX_ANSWER, patience).await.unwrap_or_default();
    let mut reason = format!("{from}{status}{}", message(&body));
    if let Some(after) = after {
        reason.push_str(&format!(", to be asked again in {} s", after.as_secs()));
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(reason),
        StatusCode::NOT_FOUND => Failure::NotFound(reason),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Failure::Transient(reason, after)
        }
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Failure::Final(reason),
        status if status.is_server_error() => Failure::Transient(reason, after),
        _ => Failure::Final(reason),
    }
}

/// The first message of the specification's error document.
fn message(body: &[u8]) -> String {
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
    let short = |text: &str| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    serde_json::from_slice::<Document>(body)
        .ok()
        .and_then(|document| document.errors.into_iter().next())
        .map(|error| format!(" ({} {})", short(&error.code), short(&error.message)))
        .unwrap_or_default()
}
