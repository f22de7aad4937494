//! Credentials, where they come from, and which server they are for.

use base64::{Engine, engine::general_purpose::STANDARD};
use cairn_contract::cri;
use std::fmt;

/// Credentials for one server.
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

/// Credentials that came with a pull.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PullSecret {
    /// The credentials.
    pub auth: Auth,
    /// The server they are for, as host, `host:port` or URL. `None`: the registry that the image's name begins with.
    pub server: Option<String>,
}

/// An `auth` field is not base64 of `user:password`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`auth` is not base64 of `username:password`")]
pub(super) struct InvalidAuth;

/// The fields that CRI's `AuthConfig` and Docker's `config.json` have in common; absent ones are empty.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) username: &'a str,
    pub(super) password: &'a str,
    pub(super) auth: &'a str,
    pub(super) identity_token: &'a str,
    pub(super) registry_token: &'a str,
}

impl Auth {
    /// What the fields mean: the first that is set, in the order user name, identity token, `auth`, registry token.
    pub(super) fn from_fields(fields: &Fields<'_>) -> Result<Option<Self>, InvalidAuth> {
        Ok(if !fields.username.is_empty() {
            Some(Self::basic(fields.username, fields.password))
        } else if !fields.identity_token.is_empty() {
            Some(Self::IdentityToken(fields.identity_token.to_owned()))
        } else if !fields.auth.is_empty() {
            Some(Self::from_base64(fields.auth).ok_or(InvalidAuth)?)
        } else if !fields.registry_token.is_empty() {
            Some(Self::RegistryToken(fields.registry_token.to_owned()))
        } else {
            None
        })
    }

    /// Docker's tools keep an identity token as the password of a user `<token>`.
    fn basic(username: &str, password: &str) -> Self {
        match username {
            "<token>" => Self::IdentityToken(password.to_owned()),
            username => Self::Basic { username: username.to_owned(), password: password.to_owned() },
        }
    }

    fn from_base64(text: &str) -> Option<Self> {
        let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        // Some tools pad the password with NULs.
        Some(Self::basic(username, password.trim_end_matches('\0')))
    }

    /// The credentials in an `Authorization` header value of the Basic scheme.
    pub(super) fn from_header(value: &str) -> Option<Self> {
        let (scheme, rest) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("basic").then(|| Self::from_base64(rest)).flatten()
    }
}

impl PullSecret {
    /// What CRI's message means; all fields empty is no secret.
    pub(super) fn from_cri(config: &cri::AuthConfig) -> Result<Option<Self>, InvalidAuth> {
        let auth = Auth::from_fields(&Fields {
            username: &config.username,
            password: &config.password,
            auth: &config.auth,
            identity_token: &config.identity_token,
            registry_token: &config.registry_token,
        })?;
        let server = Some(config.server_address.clone()).filter(|server| !server.is_empty());
        Ok(auth.map(|auth| Self { auth, server }))
    }
}

/// The value of an `Authorization` header.
pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// Do two addresses (`host`, `host:port` or URL, whatever its path) name one server? A port that is the scheme's
/// own, or 443 where there is no scheme, is as good as none.
pub(super) fn same_server(one: &str, other: &str) -> bool {
    server(one) == server(other)
}

/// Host in lower case, and the port unless it is the usual one.
pub(super) fn server(address: &str) -> (String, Option<&str>) {
    let (scheme, rest) = address.split_once("://").unwrap_or(("https", address));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let usual = if scheme.eq_ignore_ascii_case("http") { "80" } else { "443" };
    let host = match host.to_ascii_lowercase() {
        // Docker's own names for one and the same.
        host if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => {
            super::reference::DEFAULT_DOMAIN.to_owned()
        }
        host => host,
    };
    (host, port.filter(|port| !port.is_empty() && *port != usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cri_credentials() {
        let config = |auth: &str, server: &str| cri::AuthConfig {
            auth: auth.into(),
            server_address: server.into(),
            ..Default::default()
        };
        let user = Auth::Basic { username: "user".into(), password: "pa:ss".into() };
        let encoded = STANDARD.encode("user:pa:ss\0\0");
        let secret = |server: Option<&str>| {
            Ok(Some(PullSecret { auth: user.clone(), server: server.map(str::to_owned) }))
        };
        assert_eq!(PullSecret::from_cri(&config(&encoded, "")), secret(None));
        assert_eq!(PullSecret::from_cri(&config(&encoded, "r.example")), secret(Some("r.example")));
        assert_eq!(PullSecret::from_cri(&config("!", "")), Err(InvalidAuth));
        assert_eq!(PullSecret::from_cri(&config("", "r.example")), Ok(None));
        let token = PullSecret::from_cri(&config(&STANDARD.encode("<token>:abc"), "")).unwrap().unwrap();
        assert_eq!(token.auth, Auth::IdentityToken("abc".into()));
        assert!(!format!("{:?}", Auth::RegistryToken("secret".into())).contains("secret"));
        assert!(!format!("{:?}", secret(None)).contains("pa:ss"));
        assert_eq!(Auth::from_header(&basic("user", "pa:ss")), Some(user));
    }

    #[test]
    fn servers_are_compared_by_host_and_port() {
        for (one, other) in [
            ("https://R.example/v2/", "r.example"),
            ("r.example:443", "r.example"),
            ("https://r.example:443/x", "https://r.example"),
            ("http://r.example:80", "r.example"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://registry-1.docker.io/v2", "docker.io"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("[::1]", "https://[::1]:443"),
        ] {
            assert!(same_server(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("r.example", "r.example:5000"),
            ("r.example", "r.example.evil"),
            ("https://r.example:80", "r.example"),
            ("https://evil/r.example", "r.example"),
            ("https://evil?r.example", "r.example"),
            ("r.example@evil", "r.example"),
            ("", "r.example"),
        ] {
            assert!(!same_server(one, other), "{one} {other}");
        }
    }
}
