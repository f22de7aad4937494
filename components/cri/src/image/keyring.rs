//! The node's own credentials: a file in the form of Docker's `config.json`.
//!
//! ```json
//! { "auths": {
//!     "registry.example":         { "auth": "dXNlcjpwYXNzd29yZA==" },
//!     "registry.example/team":    { "username": "team", "password": "…" },
//!     "*.cloud.example":          { "identitytoken": "…" } } }
//! ```
//!
//! Of the entries that fit, the one with the longest path counts. Credential helpers are not run.

use super::auth::{self, Auth, Fields};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// A file of credentials that cannot be used: the administrator's to mend. What is in the file stays out of the text.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It exists but cannot be read.
    #[error("{} (registry_auth): {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not in the form of Docker's `config.json`.
    #[error(
        "{}:{line}:{column} (registry_auth): not what a Docker config.json has here: {{\"auths\": {{\"<registry>\": {{\"auth\": \"<base64 of user:password>\"}}}}}}",
        path.display()
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// An entry's `auth` cannot be decoded.
    #[error("{} (registry_auth): {server}: `auth` is not base64 of `username:password`", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Which entry.
        server: String,
    },
}

/// The credentials of a file.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    entries: Vec<(String, Auth)>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Keyring {
    /// Reads the file; without one there are no credentials.
    pub(super) fn load(path: &Path) -> Result<Self, KeyringError> {
        match std::fs::read(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(KeyringError::Read { path: path.to_owned(), source }),
        }
    }

    pub(super) fn parse(text: &[u8], path: &Path) -> Result<Self, KeyringError> {
        let file: File = serde_json::from_slice(text).map_err(|error| KeyringError::Syntax {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        let mut entries = Vec::with_capacity(file.auths.len());
        for (server, entry) in file.auths {
            let fields = Fields {
                username: &entry.username,
                password: &entry.password,
                auth: &entry.auth,
                identity_token: &entry.identitytoken,
                registry_token: &entry.registrytoken,
            };
            match Auth::from_fields(&fields) {
                Ok(auth) => entries.extend(auth.map(|auth| (server, auth))),
                Err(_) => return Err(KeyringError::Entry { path: path.to_owned(), server }),
            }
        }
        Ok(Self { entries })
    }

    /// The credentials for `repository` at `address` (host, `host:port` or URL).
    pub(super) fn find(&self, address: &str, repository: &str) -> Option<&Auth> {
        let fits = |(key, _): &&(String, Auth)| {
            let ((wanted, wanted_port), (host, port)) = (auth::server(key), auth::server(address));
            wanted_port == port && host_fits(&wanted, &host) && path_fits(path_of(key), repository)
        };
        // A full name goes before one with `*`.
        let rank = |(key, _): &&(String, Auth)| (path_of(key).len(), !key.contains('*'));
        self.entries.iter().filter(fits).max_by_key(rank).map(|(_, auth)| auth)
    }
}

/// The path in a key, without slashes around it. `v1` and `v2` are the API's, not a repository's.
fn path_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path.trim_matches('/'));
    if matches!(path, "v1" | "v2") { "" } else { path }
}

/// `*` stands for one label.
fn host_fits(pattern: &str, host: &str) -> bool {
    let (mut pattern, mut host) = (pattern.split('.'), host.split('.'));
    loop {
        match (pattern.next(), host.next()) {
            (None, None) => return true,
            (Some(wanted), Some(label)) if wanted == "*" || wanted == label => {}
            _ => return false,
        }
    }
}

fn path_fits(prefix: &str, repository: &str) -> bool {
    prefix.is_empty()
        || repository.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(keyring: &Keyring, address: &str, repository: &str) -> Option<String> {
        keyring.find(address, repository).map(|auth| match auth {
            Auth::Basic { username, .. } => username.clone(),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn the_most_specific_entry_is_found() {
        let text = r#"{"credHelpers": {}, "auths": {
            "r.example": {"auth": "dXNlcjpwYXNz"},
            "https://r.example/team/": {"username": "team", "password": "x"},
            "*.cloud.example": {"identitytoken": "t"},
            "a.cloud.example": {"username": "a"},
            "localhost:5000": {"username": "local"},
            "https://index.docker.io/v1/": {"username": "hub"},
            "empty.example": {}}}"#;
        let keyring = Keyring::parse(text.as_bytes(), Path::new("x")).unwrap();
        for (address, repository, expected) in [
            ("r.example", "app", Some("user")),
            ("https://r.example:443/v2", "teams/app", Some("user")),
            ("r.example", "team/app", Some("team")),
            ("r.example:5000", "app", None),
            ("x.cloud.example", "app", Some("IdentityToken")),
            ("a.cloud.example", "app", Some("a")),
            ("x.y.cloud.example", "app", None),
            ("cloud.example", "app", None),
            ("http://localhost:5000/v2", "app", Some("local")),
            ("docker.io", "library/busybox", Some("hub")),
            ("empty.example", "app", None),
        ] {
            assert_eq!(user(&keyring, address, repository).as_deref(), expected, "{address}/{repository}");
        }
    }

    #[test]
    fn mistakes_are_located_and_secrets_kept() {
        let error =
            Keyring::parse(br#"{"auths": {"r": "hunter2"}}"#, Path::new("/etc/auth.json")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("/etc/auth.json:1:") && !error.contains("hunter2"), "{error}");
        let error = Keyring::parse(br#"{"auths": {"r": {"auth": "hunter2"}}}"#, Path::new("x")).unwrap_err();
        assert!(
            error.to_string().contains(": r: `auth`") && !error.to_string().contains("hunter2"),
            "{error}"
        );
        assert!(Keyring::load(Path::new("/nonexistent/x")).unwrap().entries.is_empty());
    }
}
