//! Where a registry's content is fetched from: `certs.d/<host>/hosts.toml`, in the form containerd documents.
//!
//! ```toml
//! server = "https://registry.example"      # tried last; left out: the registry itself
//!
//! [host."https://mirror.example"]          # tried in the order of the file
//!   capabilities = ["pull", "resolve"]
//!   ca = "ca.pem"                           # relative to this file
//!   client = [["client.cert", "client.key"]]
//!   skip_verify = false
//!   override_path = false                   # true: the URL's path is the API root, `/v2` is not added
//!   [host."https://mirror.example".header]
//!     x-token = "abc"
//! ```
//!
//! A directory `_default` serves registries that have none of their own. The files are read at every pull, so a
//! change needs no restart.

use super::reference::DEFAULT_DOMAIN;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// One place to ask, in the order of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// API root without trailing slash, `https://mirror.example/v2`.
    pub(super) base: String,
    /// Host and port, for messages and for the `ns` parameter.
    pub(super) host: String,
    /// May it turn tags into digests?
    pub(super) resolve: bool,
    /// May it serve manifests and blobs by digest?
    pub(super) pull: bool,
    /// Sent with each request.
    pub(super) headers: Vec<(String, String)>,
    /// How its certificate is checked.
    pub(super) tls: Tls,
}

/// How a certificate is checked, and which one we show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Tls {
    /// PEM, besides the system's.
    pub(super) ca: Vec<Vec<u8>>,
    /// PEM of certificate and key.
    pub(super) identity: Option<Vec<u8>>,
    pub(super) skip_verify: bool,
}

/// A `hosts.toml` that cannot be used: the administrator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// A file that exists but cannot be read, or that the configuration names and does not exist.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Well-formed, but a value makes no sense.
    #[error("{}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value, and what would be right.
        message: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostsFile {
    server: Option<String>,
    /// Keyed with positions: the order in the file is the order of asking.
    host: BTreeMap<toml::Spanned<String>, HostTable>,
    #[serde(flatten)]
    upstream: HostTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn iter(&self) -> std::slice::Iter<'_, String> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::Many(many) => many.iter(),
        }
    }
}

/// containerd's three ways to write client certificates.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Client {
    Combined(String),
    Many(Vec<String>),
    Pairs(Vec<[String; 2]>),
}

/// The endpoints for `domain`, from the files below `certs_d`. Never empty of errors' sake: without any file the
/// registry itself is the one endpoint.
pub(super) fn endpoints(certs_d: &Path, domain: &str) -> Result<Vec<Endpoint>, HostsError> {
    let candidates = [domain.to_owned(), domain.replacen(':', "_", 1) + "_", "_default".to_owned()];
    for candidate in candidates {
        let directory = certs_d.join(candidate);
        let path = directory.join("hosts.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => return parse(&text, &directory, domain),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(HostsError::Read { path, source }),
        }
    }
    Ok(vec![upstream(domain)])
}

/// Parses one file that lies in `directory`.
fn parse(text: &str, directory: &Path, domain: &str) -> Result<Vec<Endpoint>, HostsError> {
    let path = directory.join("hosts.toml");
    let file: HostsFile = toml::from_str(text)
        .map_err(|source| HostsError::Syntax { path: path.clone(), source: Box::new(source) })?;
    let mut hosts: Vec<_> = file.host.iter().collect();
    hosts.sort_by_key(|(url, _)| url.span().start);
    let mut endpoints = Vec::with_capacity(hosts.len() + 1);
    for (url, table) in hosts {
        endpoints.push(endpoint(url.get_ref(), table, directory)?);
    }
    let server = file.server.as_deref().filter(|server| !server.is_empty());
    let default = upstream(domain).base;
    endpoints.push(endpoint(server.unwrap_or(default.trim_end_matches("/v2")), &file.upstream, directory)?);
    Ok(endpoints)
}

fn endpoint(url: &str, table: &HostTable, directory: &Path) -> Result<Endpoint, HostsError> {
    let path = directory.join("hosts.toml");
    let value = |message: String| HostsError::Value { path: path.clone(), message };
    let absolute =
        if url.contains("://") { url.to_owned() } else { format!("{}://{url}", default_scheme(url)) };
    let parsed =
        reqwest::Url::parse(&absolute).map_err(|error| value(format!("`{url}` is not a URL: {error}")))?;
    let Some(host) = parsed.host_str().filter(|_| matches!(parsed.scheme(), "http" | "https")) else {
        return Err(value(format!("`{url}` must be an http:// or https:// URL")));
    };
    let host = parsed.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let root = parsed.path().trim_end_matches('/');
    let root =
        if table.override_path || root.ends_with("/v2") { root.to_owned() } else { format!("{root}/v2") };

    let (mut resolve, mut pull) = (true, true);
    if let Some(capabilities) = &table.capabilities {
        (resolve, pull) = (false, false);
        for capability in capabilities {
            match capability.as_str() {
                "resolve" => resolve = true,
                "pull" => pull = true,
                "push" | "referrers" => {}
                other => {
                    return Err(value(format!(
                        "`{url}`: unknown capability `{other}`: use pull, resolve or push"
                    )));
                }
            }
        }
    }
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).map_err(|source| HostsError::Read { path, source })
    };
    let ca = table.ca.iter().flat_map(OneOrMany::iter).map(|name| read(name)).collect::<Result<_, _>>()?;
    let identity = match &table.client {
        None => None,
        Some(Client::Combined(name)) => Some(read(name)?),
        Some(Client::Many(names)) => names.first().map(|name| read(name)).transpose()?,
        Some(Client::Pairs(pairs)) => match pairs.first() {
            None => None,
            Some([certificate, key]) => Some([read(certificate)?, b"\n".to_vec(), read(key)?].concat()),
        },
    };
    let headers = table
        .header
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| (name.to_ascii_lowercase(), value.clone())))
        .collect();
    Ok(Endpoint {
        base: format!("{}://{host}{root}", parsed.scheme()),
        host,
        resolve,
        pull,
        headers,
        tls: Tls { ca, identity, skip_verify: table.skip_verify },
    })
}

/// The registry itself, without any configuration.
fn upstream(domain: &str) -> Endpoint {
    let host = if domain == DEFAULT_DOMAIN { "registry-1.docker.io" } else { domain };
    Endpoint {
        base: format!("{}://{host}/v2", default_scheme(host)),
        host: host.to_owned(),
        resolve: true,
        pull: true,
        headers: Vec::new(),
        tls: Tls::default(),
    }
}

/// Plain HTTP for this machine only.
fn default_scheme(host: &str) -> &'static str {
    let host = host.split('/').next().unwrap_or(host);
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    let loopback =
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if loopback { "http" } else { "https" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bases(text: &str, domain: &str) -> Vec<String> {
        parse(text, Path::new("/nonexistent"), domain).unwrap().into_iter().map(|e| e.base).collect()
    }

    #[test]
    fn without_configuration_the_registry_itself() {
        let base = |domain: &str| endpoints(Path::new("/nonexistent"), domain).unwrap()[0].base.clone();
        assert_eq!(base("docker.io"), "https://registry-1.docker.io/v2");
        assert_eq!(base("r.example:5000"), "https://r.example:5000/v2");
        assert_eq!(base("localhost:5000"), "http://localhost:5000/v2");
        assert_eq!(base("127.0.0.1:80"), "http://127.0.0.1:80/v2");
        assert_eq!(base("[::1]:5000"), "http://[::1]:5000/v2");
        assert_eq!(base("localhost.example"), "https://localhost.example/v2");
    }

    #[test]
    fn mirrors_keep_the_order_of_the_file_and_the_server_is_last() {
        let text = r#"
            server = "https://up.example"
            [host."https://z.example"]
            capabilities = ["pull"]
            [host."http://a.example:5000/prefix"]
            [host."https://m.example/api"]
            override_path = true
            header.X-Token = ["one", "two"]
            [host."https://b.example/v2/"]
        "#;
        assert_eq!(
            bases(text, "r.example"),
            [
                "https://z.example/v2",
                "http://a.example:5000/prefix/v2",
                "https://m.example/api",
                "https://b.example/v2",
                "https://up.example/v2"
            ]
        );
        let endpoints = parse(text, Path::new("/nonexistent"), "r.example").unwrap();
        assert!(endpoints[0].pull && !endpoints[0].resolve);
        assert_eq!(
            endpoints[2].headers,
            [("x-token".into(), "one".into()), ("x-token".into(), "two".into())]
        );
        assert_eq!(bases("skip_verify = true", "docker.io"), ["https://registry-1.docker.io/v2"]);
        assert!(parse("skip_verify = true", Path::new("/"), "r.example").unwrap()[0].tls.skip_verify);
    }

    #[test]
    fn directories_are_searched_in_order_and_files_are_relative() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("_default/hosts.toml", "[host.'https://default.example']");
        assert_eq!(endpoints(dir.path(), "r.example:5").unwrap()[0].host, "default.example");
        assert_eq!(endpoints(dir.path(), "r.example:5").unwrap()[1].host, "r.example:5");
        put("r.example_5_/hosts.toml", "[host.'https://escaped.example']");
        assert_eq!(endpoints(dir.path(), "r.example:5").unwrap()[0].host, "escaped.example");
        put("r.example:5/hosts.toml", "ca = 'ca.pem'");
        assert!(matches!(endpoints(dir.path(), "r.example:5"), Err(HostsError::Read { .. })));
        put("r.example:5/ca.pem", "PEM");
        assert_eq!(endpoints(dir.path(), "r.example:5").unwrap()[0].tls.ca, [b"PEM".to_vec()]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("server = 1", "server"),
            ("[host.'ftp://x']", "http://"),
            ("[host.'https://x']\ncapabilities = ['pul']", "pul"),
            ("[host.'https://x']\nca = 'missing.pem'", "missing.pem"),
        ] {
            let message = parse(text, Path::new("/nonexistent"), "r").unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("/nonexistent"), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}", url in "\\PC{0,30}") {
            let _ = parse(&text, Path::new("/nonexistent"), "r.example");
            let _ = parse(&format!("[host.{url:?}]"), Path::new("/nonexistent"), "r.example");
        }
    }
}
