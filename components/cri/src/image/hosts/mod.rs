//! Where a registry's content is fetched from: one directory for each registry below `certs.d`, in the form
//! containerd documents.
//!
//! For `registry.example:5000` the first of these directories that exists counts, and no other:
//!
//! ```text
//! registry.example_5000_/   registry.example:5000/   _default/
//! ```
//!
//! It holds a `hosts.toml` (see [`file`]), or certificates as Docker has them: `*.crt` are authorities, `*.cert` with
//! a `*.key` of the same name is what we show. The files are read at every pull, so a change needs no restart.

pub(super) mod file;

use super::{auth::same_server, reference::DEFAULT_DOMAIN};
use reqwest::header::HeaderMap;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Docker's registry answers under another name than its images have.
const DEFAULT_HOST: &str = "registry-1.docker.io";

/// One place to ask, in the order of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// API root without trailing slash, `https://mirror.example/v2`.
    pub(super) base: String,
    /// Host and port, for messages.
    pub(super) host: String,
    /// Is it the registry itself? Then a pull's credentials are meant for it.
    pub(super) own: bool,
    /// May it turn tags into digests?
    pub(super) resolve: bool,
    /// May it serve manifests and blobs by digest?
    pub(super) pull: bool,
    /// Sent with each request, to this endpoint alone; marked as secrets.
    pub(super) headers: HeaderMap,
    /// How its certificate is checked.
    pub(super) tls: Tls,
    /// How long a connection may take to come about.
    pub(super) dial_timeout: Option<Duration>,
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

/// A registry's directory that cannot be used: the administrator's to mend.
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
    /// Not TOML, a value of the wrong type, or one that makes no sense.
    #[error("{}:{line}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there, and what would be right.
        message: String,
    },
    /// A client certificate without its key.
    #[error("{}: its key is missing: {}", path.display(), key.display())]
    Key {
        /// The certificate.
        path: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
}

/// The endpoints for `domain`, from the files below `certs_d`; without any the registry itself is the one endpoint.
pub(super) fn endpoints(certs_d: &Path, domain: &str) -> Result<Vec<Endpoint>, HostsError> {
    let with_port = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => Some(format!("{host}_{port}_")),
        _ => None,
    };
    for name in with_port.into_iter().chain([domain.to_owned(), "_default".to_owned()]) {
        let directory = certs_d.join(name);
        match std::fs::metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => return configured(&directory, domain),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(HostsError::Read { path: directory, source }),
        }
    }
    Ok(vec![upstream(domain)])
}

fn configured(directory: &Path, domain: &str) -> Result<Vec<Endpoint>, HostsError> {
    let path = directory.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => file::parse(&text, directory, domain),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(vec![Endpoint { tls: docker_certificates(directory)?, ..upstream(domain) }])
        }
        Err(source) => Err(HostsError::Read { path, source }),
    }
}

fn docker_certificates(directory: &Path) -> Result<Tls, HostsError> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source| HostsError::Read { path, source }
    };
    let entries = std::fs::read_dir(directory).map_err(fault(directory))?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(fault(directory))?;
    paths.sort();
    let mut tls = Tls::default();
    for path in paths {
        let read = |path: &Path| std::fs::read(path).map_err(fault(path));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(read(&path)?),
            Some("cert") if tls.identity.is_none() => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return Err(HostsError::Key { path, key });
                }
                tls.identity = Some([read(&path)?, b"\n".to_vec(), read(&key)?].concat());
            }
            _ => {}
        }
    }
    Ok(tls)
}

/// The registry itself, without any configuration.
fn upstream(domain: &str) -> Endpoint {
    let host = api_host(domain);
    // Plain HTTP for this machine only.
    let scheme = if is_loopback(host) { "http" } else { "https" };
    Endpoint {
        base: format!("{scheme}://{host}/v2"),
        host: host.to_owned(),
        own: true,
        resolve: true,
        pull: true,
        headers: HeaderMap::new(),
        tls: Tls::default(),
        dial_timeout: None,
    }
}

fn api_host(host: &str) -> &str {
    if same_server(host, DEFAULT_DOMAIN) { DEFAULT_HOST } else { host }
}

/// Is `host`, with or without a port, this machine?
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_first_directory_counts_and_files_are_relative_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let found = || endpoints(dir.path(), "r.example:5").unwrap();
        put("_default/hosts.toml", "[host.'https://default.example']");
        assert_eq!((found()[0].host.as_str(), found()[1].host.as_str()), ("default.example", "r.example:5"));
        put("r.example/hosts.toml", "[host.'https://another-registry.example']");
        assert_eq!(found()[0].host, "default.example", "without the port it is another registry");
        put("r.example:5/hosts.toml", "[host.'https://colon.example']");
        assert_eq!(found()[0].host, "colon.example");
        put("r.example_5_/hosts.toml", "ca = 'ca.pem'");
        assert!(matches!(endpoints(dir.path(), "r.example:5"), Err(HostsError::Read { .. })));
        put("r.example_5_/ca.pem", "PEM");
        assert_eq!(found()[0].tls.ca, [b"PEM".to_vec()]);
        std::fs::remove_file(dir.path().join("r.example_5_/hosts.toml")).unwrap();
        assert_eq!(found(), [upstream("r.example:5")], "an empty directory hides the others");
    }

    #[test]
    fn dockers_certificate_files_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("r.example");
        std::fs::create_dir(&own).unwrap();
        for name in ["b.crt", "a.crt", "client.cert", "notes.txt"] {
            std::fs::write(own.join(name), name).unwrap();
        }
        let message = endpoints(dir.path(), "r.example").unwrap_err().to_string();
        assert!(message.contains("client.cert") && message.contains("client.key"), "{message}");
        std::fs::write(own.join("client.key"), "key").unwrap();
        let found = endpoints(dir.path(), "r.example").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].tls.ca, [b"a.crt".to_vec(), b"b.crt".to_vec()]);
        assert_eq!(found[0].tls.identity.as_deref(), Some(b"client.cert\nkey".as_slice()));
    }
}
