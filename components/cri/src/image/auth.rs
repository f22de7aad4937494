//! Credentials, and how a registry asks for them (RFC 9110 section 11, and the token flow of the distribution
//! specification).

use base64::{Engine, engine::general_purpose::STANDARD};
use cairn_contract::cri;
use std::fmt;

/// Credentials for one pull.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// User name and password, or user name and access token.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth2 refresh token, exchanged for access tokens at the registry's token service.
    IdentityToken(String),
    /// A bearer token to be sent as it is.
    RegistryToken(String),
}

/// Secrets stay out of logs.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

/// CRI's `AuthConfig.auth` is not base64 of `user:password`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pull secret's `auth` is not base64 of `username:password`")]
pub(super) struct InvalidAuth;

impl Auth {
    /// What CRI's message means: the first of its fields that is set, in the order user name, identity token,
    /// `auth`, registry token. All empty, or meant for another server than `domain`: anonymous.
    pub(super) fn from_cri(config: &cri::AuthConfig, domain: &str) -> Result<Option<Self>, InvalidAuth> {
        if !config.server_address.is_empty() && !same_server(&config.server_address, domain) {
            return Ok(None);
        }
        Ok(if !config.username.is_empty() {
            Some(Self::Basic { username: config.username.clone(), password: config.password.clone() })
        } else if !config.identity_token.is_empty() {
            Some(Self::IdentityToken(config.identity_token.clone()))
        } else if !config.auth.is_empty() {
            Some(Self::from_base64(&config.auth).ok_or(InvalidAuth)?)
        } else if !config.registry_token.is_empty() {
            Some(Self::RegistryToken(config.registry_token.clone()))
        } else {
            None
        })
    }

    fn from_base64(text: &str) -> Option<Self> {
        let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        // Some tools pad the password with NULs.
        let password = password.trim_end_matches('\0');
        Some(Self::Basic { username: username.to_owned(), password: password.to_owned() })
    }

    /// The credentials in an `Authorization` header value of the Basic scheme.
    pub(super) fn from_header(value: &str) -> Option<Self> {
        let (scheme, rest) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("basic").then(|| Self::from_base64(rest)).flatten()
    }
}

/// `https://index.docker.io/v1/` is how Docker's own config names `docker.io`.
fn same_server(address: &str, domain: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    let canonical = |host: &str| match host {
        "index.docker.io" | "registry-1.docker.io" => super::reference::DEFAULT_DOMAIN.to_owned(),
        host => host.to_ascii_lowercase(),
    };
    canonical(host) == canonical(domain)
}

/// One challenge of a `WWW-Authenticate` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The first challenge in `header` that we can answer, Bearer preferred.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let mut best = None;
        let mut rest = header.trim_start();
        while !rest.is_empty() {
            let end = rest.find([' ', ',']).unwrap_or(rest.len());
            let scheme = &rest[..end];
            let (parameters, remainder) = parameters(&rest[end..]);
            let get = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = get("realm") {
                    return Some(Self::Bearer { realm, service: get("service"), scope: get("scope") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                best = Some(Self::Basic);
            }
            rest = remainder.trim_start_matches([' ', ',', '\t']);
        }
        best
    }
}

/// Reads `key=value, key="quoted"` until something that is not a parameter; returns what is left.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let start = text.trim_start_matches([' ', ',', '\t']);
        let Some((key, value)) = start.split_once('=') else { return (found, start) };
        let key = key.trim_end();
        if key.is_empty() || key.contains([' ', ',', '"']) {
            return (found, start);
        }
        let value = value.trim_start();
        if let Some(quoted) = value.strip_prefix('"') {
            let mut content = String::new();
            let mut characters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((index, character)) = characters.next() {
                match character {
                    '"' => {
                        end = index + 1;
                        break;
                    }
                    '\\' => content.extend(characters.next().map(|(_, escaped)| escaped)),
                    other => content.push(other),
                }
            }
            found.push((key.to_owned(), content));
            text = &quoted[end..];
        } else {
            let end = value.find([',', ' ']).unwrap_or(value.len());
            found.push((key.to_owned(), value[..end].to_owned()));
            text = &value[end..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
                bearer("https://auth.example/token", Some("r.example"), Some("repository:a/b:pull,push")),
            ),
            (r#"bearer  realm=https://a/t , service = "x\"y""#, bearer("https://a/t", Some("x\"y"), None)),
            (r#"Basic realm="x", Bearer realm="https://a""#, bearer("https://a", None, None)),
            (r#"Basic realm="x y""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Negotiate, Basic realm=x", Some(Challenge::Basic)),
            ("Digest realm=x", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn cri_credentials() {
        let config = |auth: &str, server: &str| cri::AuthConfig {
            auth: auth.into(),
            server_address: server.into(),
            ..Default::default()
        };
        let user = Auth::Basic { username: "user".into(), password: "pa:ss".into() };
        let encoded = STANDARD.encode("user:pa:ss");
        assert_eq!(Auth::from_cri(&config(&encoded, ""), "r.example"), Ok(Some(user.clone())));
        assert_eq!(
            Auth::from_cri(&config(&encoded, "https://R.example/v2/"), "r.example"),
            Ok(Some(user.clone()))
        );
        assert_eq!(
            Auth::from_cri(&config(&encoded, "https://index.docker.io/v1/"), "docker.io"),
            Ok(Some(user))
        );
        assert_eq!(Auth::from_cri(&config(&encoded, "other.example"), "r.example"), Ok(None));
        assert_eq!(Auth::from_cri(&config("!", ""), "r.example"), Err(InvalidAuth));
        assert_eq!(Auth::from_cri(&config("", ""), "r.example"), Ok(None));
        assert!(!format!("{:?}", Auth::RegistryToken("secret".into())).contains("secret"));
    }

    proptest! {
        #[test]
        fn any_header_is_survived(header in "\\PC{0,80}|[Bb]earer [a-z=\", \\\\]{0,60}") {
            let _ = Challenge::parse(&header);
        }
    }
}
