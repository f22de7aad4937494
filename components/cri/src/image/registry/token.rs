//! Bearer tokens: asked for at the service that a registry names, and kept until they expire.
//!
//! A token is kept under everything that decided about it, the credentials included: a pull without credentials is
//! never served with a token that others got.

use super::{
    super::auth::{Auth, basic},
    retry::Failure,
    transport::{self, MAX_ANSWER, Patience, read_limited, refusal, timely},
};
use reqwest::{
    Client, Response, Url,
    header::{self, HeaderMap, HeaderValue},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What a token is good for when the service does not say (the specification's default).
const DEFAULT_LIFE: u64 = 60;
/// A token is not used in its last seconds: the request has to arrive, too.
const MARGIN: Duration = Duration::from_secs(5);
/// Tokens kept at most.
const MAX_KEPT: usize = 256;

/// What to ask for, of whom, as whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    /// URL of the token service.
    pub(super) realm: String,
    pub(super) service: Option<String>,
    /// `repository:library/busybox:pull`.
    pub(super) scope: String,
    pub(super) credentials: Option<Auth>,
}

#[derive(Debug)]
struct Kept {
    token: HeaderValue,
    until: Instant,
}

/// The tokens of all pulls.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<Wanted, Kept>>);

impl Tokens {
    /// An `Authorization` value, and whether it was kept from an earlier time. `refused` is one that the registry did not take. `plain`: the registry itself is
    /// spoken to without TLS, so its token service may be, too.
    pub(super) async fn get(
        &self,
        client: &Client,
        wanted: Wanted,
        refused: Option<&HeaderValue>,
        plain: bool,
        patience: Patience,
    ) -> Result<(HeaderValue, bool), Failure> {
        if let Some(kept) = self.lock().get(&wanted)
            && kept.until > Instant::now()
            && Some(&kept.token) != refused
        {
            return Ok((kept.token.clone(), true));
        }
        let asked = Instant::now();
        let (token, life) = ask(client, &wanted, plain, patience).await?;
        let until = asked + life.saturating_sub(MARGIN);
        let mut kept = self.lock();
        kept.retain(|_, token| token.until > asked);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(wanted, Kept { token: token.clone(), until });
        Ok((token, false))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Wanted, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(
    client: &Client,
    wanted: &Wanted,
    plain: bool,
    patience: Patience,
) -> Result<(HeaderValue, Duration), Failure> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<u64>,
    }
    let realm = &wanted.realm;
    let wrong = |reason: &str| Failure::Final(format!("token service `{realm}` {reason}"));
    let url = Url::parse(realm).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    match url.scheme() {
        "https" => {}
        "http" if plain || wanted.credentials.is_none() => {}
        "http" => return Err(wrong("is not https: credentials are not sent there")),
        _ => return Err(wrong("is not at an https:// URL")),
    }
    let response = request(client, url, wanted, patience).await?;
    if !response.status().is_success() {
        return Err(refusal("token service: ", response, patience).await);
    }
    let body = read_limited(response, MAX_ANSWER, patience).await?;
    // serde's messages would quote what may be a token.
    let answer: Answer =
        serde_json::from_slice(&body).map_err(|_| wrong("answered something that is not a token"))?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| wrong("gave no token"))?;
    let value = secret(&format!("Bearer {token}")).ok_or_else(|| wrong("gave a token no header can hold"))?;
    Ok((value, Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE).min(86400))))
}

/// A refresh token is exchanged by POST, everything else is a GET, with the password as the Basic scheme has it.
async fn request(
    client: &Client,
    mut url: Url,
    wanted: &Wanted,
    patience: Patience,
) -> Result<Response, Failure> {
    let mut parameters = vec![("scope", wanted.scope.as_str())];
    parameters.extend(wanted.service.as_deref().map(|service| ("service", service)));
    match &wanted.credentials {
        Some(Auth::IdentityToken(token)) => {
            parameters.push(("grant_type", "refresh_token"));
            parameters.push(("client_id", "cairn-cri"));
            parameters.push(("refresh_token", token));
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(&parameters);
            // Redirects are not followed: the body is a secret.
            let request = client
                .post(url)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.query().unwrap_or_default().to_owned());
            timely(patience, request.send()).await
        }
        credentials => {
            url.query_pairs_mut().extend_pairs(&parameters);
            let mut headers = HeaderMap::new();
            if let Some(Auth::Basic { username, password }) = credentials
                && let Some(value) = secret(&basic(username, password))
            {
                headers.insert(header::AUTHORIZATION, value);
            }
            transport::get(client, &url, &headers, &HeaderMap::new(), patience).await
        }
    }
}

/// A header value that is not to be printed.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
