//! One endpoint during one pull: what it asked of us, and whether it is worth asking.

use super::{
    super::{
        auth::{Auth, PullSecret, basic, same_server},
        hosts::Endpoint,
        keyring::Keyring,
        reference::Reference,
    },
    challenge::Challenge,
    retry::Failure,
    silence::Silences,
    token::{Tokens, Wanted, secret},
    transport::{self, Patience, refusal},
};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// What pulls leave to those after them.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) tokens: Arc<Tokens>,
    pub(super) silences: Arc<Silences>,
}

/// Where an answer to a challenge came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// From an earlier challenge.
    Old,
    /// From this one.
    New,
}

/// An endpoint, our credentials for it, and what became of them.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) endpoint: Endpoint,
    client: Client,
    /// Path of the repository at the registry.
    repository: String,
    /// The registry that is meant, for a mirror of several.
    mirror_of: Option<String>,
    credentials: Option<Auth>,
    tokens: Arc<Tokens>,
    patience: Patience,
    /// `Authorization` value that a challenge led to.
    authorization: Mutex<Option<HeaderValue>>,
    /// Layers are fetched side by side and are challenged at the same time: one answers for all.
    answering: tokio::sync::Mutex<()>,
    silences: Arc<Silences>,
    /// As at the pull's begin, or since: a pull asks in one order.
    silent: AtomicBool,
}

impl Session {
    pub(super) fn new(
        endpoint: Endpoint,
        client: Client,
        reference: &Reference,
        credentials: Option<Auth>,
        memory: &Memory,
        patience: Patience,
    ) -> Self {
        let silent = AtomicBool::new(memory.silences.contains(&endpoint.base));
        let mirror_of =
            (!same_server(&endpoint.base, reference.domain())).then(|| reference.domain().to_owned());
        Self {
            endpoint,
            client,
            repository: reference.path().to_owned(),
            mirror_of,
            credentials,
            tokens: Arc::clone(&memory.tokens),
            patience,
            authorization: Mutex::default(),
            answering: tokio::sync::Mutex::default(),
            silences: Arc::clone(&memory.silences),
            silent,
        }
    }

    /// Did it fail to answer, now or a moment ago? Then the others are asked first.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, failure: &Failure) {
        if matches!(failure, Failure::Unreachable(_)) {
            self.silent.store(true, Ordering::Relaxed);
            self.silences.note(&self.endpoint.base);
        }
    }

    /// Gets `path` below the repository with the headers `common`, answering a challenge.
    pub(super) async fn get(&self, path: &str, common: &HeaderMap) -> Result<Response, Failure> {
        let mut url = Url::parse(&format!("{}/{}/{path}", self.endpoint.base, self.repository))
            .map_err(|error| Failure::Final(error.to_string()))?;
        if let Some(registry) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        let (mut answers, mut renewed) = (1, false);
        loop {
            let authorization = self.authorization();
            let mut headers = self.endpoint.headers.clone();
            headers.extend(authorization.clone().map(|value| (header::AUTHORIZATION, value)));
            let response = transport::get(&self.client, &url, &headers, common, self.patience).await?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                // A host that we were sent to has no business with our credentials.
                StatusCode::UNAUTHORIZED if answers > 0 && response.url().origin() == url.origin() => {
                    answers -= 1;
                    // A token that was kept may have been revoked, which is no reason to give up.
                    if self.answer(&response, authorization).await? == Answer::Old && !renewed {
                        renewed = true;
                        answers += 1;
                    }
                }
                _ => return Err(refusal("", response, self.patience).await),
            }
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the `Authorization` value that the registry asks for instead of `refused`.
    async fn answer(&self, response: &Response, refused: Option<HeaderValue>) -> Result<Answer, Failure> {
        let challenge = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .max_by_key(|challenge| matches!(challenge, Challenge::Bearer { .. }))
            .ok_or_else(|| Failure::Denied("401 without a challenge we can answer".to_owned()))?;
        let _answering = self.answering.lock().await;
        if self.authorization() != refused {
            return Ok(Answer::Old);
        }
        let unfit = || Failure::Denied("the credentials do not fit into a header".to_owned());
        let (value, kept) = match (challenge, &self.credentials) {
            (_, Some(Auth::RegistryToken(token))) => {
                (secret(&format!("Bearer {token}")).ok_or_else(unfit)?, false)
            }
            (Challenge::Basic, Some(Auth::Basic { username, password })) => {
                (secret(&basic(username, password)).ok_or_else(unfit)?, false)
            }
            (Challenge::Basic, _) => {
                return Err(Failure::Denied("401, it wants a user name and a password".to_owned()));
            }
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let wanted = Wanted {
                    realm,
                    service,
                    scope: scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository)),
                    credentials: credentials.clone(),
                };
                let plain = self.endpoint.base.starts_with("http:");
                self.tokens.get(&self.client, wanted, refused.as_ref(), plain, self.patience).await?
            }
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(if kept { Answer::Old } else { Answer::New })
    }
}

/// Our credentials for `endpoint`: the pull's, if they are meant for it; the node's; those of its `hosts.toml`.
///
/// A pull's credentials are the registry's. A mirror may be someone else's and gets them only if they name it.
pub(super) fn credentials(
    endpoint: &Endpoint,
    pull: Option<&PullSecret>,
    node: &Keyring,
    reference: &Reference,
) -> Option<Auth> {
    let domain = reference.domain();
    let meant = |secret: &&PullSecret| match &secret.server {
        None => endpoint.own,
        Some(server) => same_server(server, &endpoint.base) || (endpoint.own && same_server(server, domain)),
    };
    let header = || endpoint.headers.get(header::AUTHORIZATION)?.to_str().ok().and_then(Auth::from_header);
    let node = || {
        let by_name = endpoint.own.then(|| node.find(domain, reference.path())).flatten();
        by_name.or_else(|| node.find(&endpoint.base, reference.path())).cloned()
    };
    pull.filter(meant).map(|secret| secret.auth.clone()).or_else(node).or_else(header)
}
