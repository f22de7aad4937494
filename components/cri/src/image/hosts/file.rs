//! `hosts.toml`.
//!
//! ```toml
//! server = "https://registry.example"      # tried last; left out: the registry itself
//!
//! [host."https://mirror.example"]          # tried in the order of the file
//!   capabilities = ["pull", "resolve"]      # left out or empty: all
//!   ca = "ca.pem"                           # relative to this file; a list is fine
//!   client = [["client.cert", "client.key"]]
//!   skip_verify = false
//!   override_path = false                   # true: the URL's path is the API root, `/v2` is not added
//!   dial_timeout = "3s"
//!   [host."https://mirror.example".header]
//!     x-token = "abc"
//! ```

use super::{Endpoint, HostsError, Tls, api_host, upstream};
use crate::image::auth::same_server;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path, time::Duration};
use toml::Spanned;

/// Keys of the file that are also keys of each `[host]`.
const HOST_KEYS: [&str; 7] =
    ["capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostsFile {
    server: Option<Spanned<String>>,
    /// Keyed with positions: the order in the file is the order of asking.
    host: BTreeMap<Spanned<String>, HostTable>,
    // The keys below are those of `server`.
    capabilities: Vec<String>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostTable {
    capabilities: Vec<String>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
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

/// containerd's ways to write client certificates: a file with certificate and key, or a pair of files; one or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"file\", [\"file\"] or [[\"certificate\", \"key\"]]")]
enum Client {
    One(String),
    Many(Vec<ClientFiles>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientFiles {
    Combined(String),
    Separate(Vec<String>),
}

/// Parses the text of a file that lies in `directory`.
pub(in crate::image) fn parse(
    text: &str,
    directory: &Path,
    domain: &str,
) -> Result<Vec<Endpoint>, HostsError> {
    let place = Place { text, directory, domain };
    let file: HostsFile = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        place.invalid(at, error.message().replace('\n', "; "))
    })?;
    place.warn_of_unknown_keys();
    let HostsFile {
        server,
        host,
        capabilities,
        ca,
        client,
        skip_verify,
        override_path,
        header,
        dial_timeout,
    } = file;
    let mut hosts: Vec<_> = host.into_iter().collect();
    hosts.sort_by_key(|(url, _)| url.span().start);
    let mut endpoints = Vec::with_capacity(hosts.len() + 1);
    for (url, table) in &hosts {
        let mut endpoint = place.endpoint(url.get_ref(), url.span().start, table)?;
        endpoint.own = same_server(&endpoint.base, domain);
        endpoints.push(endpoint);
    }
    let table = HostTable { capabilities, ca, client, skip_verify, override_path, header, dial_timeout };
    let default = upstream(domain).base;
    let (url, at) = match &server {
        Some(server) if !server.get_ref().is_empty() => (server.get_ref().as_str(), server.span().start),
        _ => (default.trim_end_matches("/v2"), 0),
    };
    let mut endpoint = place.endpoint(url, at, &table)?;
    // What the registry's own file names as its server is the registry; one server for all is a mirror of them.
    let everyones = directory.file_name().is_some_and(|name| name == "_default");
    endpoint.own = !everyones || same_server(&endpoint.base, domain);
    endpoints.push(endpoint);
    Ok(endpoints)
}

/// Where we are, for messages and for relative names.
struct Place<'a> {
    text: &'a str,
    directory: &'a Path,
    domain: &'a str,
}

impl Place<'_> {
    fn invalid(&self, at: usize, message: String) -> HostsError {
        let before = self.text.get(..at).unwrap_or_default();
        HostsError::Invalid {
            path: self.directory.join("hosts.toml"),
            line: before.matches('\n').count() + 1,
            message,
        }
    }

    /// Not an error: newer versions of containerd may have keys that we do not know.
    fn warn_of_unknown_keys(&self) {
        let Ok(table) = self.text.parse::<toml::Table>() else { return };
        let warn = |key: &str| {
            let path = self.directory.join("hosts.toml");
            tracing::warn!(path = %path.display(), registry = self.domain, key, "unknown key, ignored");
        };
        for key in table.keys().filter(|key| !matches!(key.as_str(), "server" | "host")) {
            if !HOST_KEYS.contains(&key.as_str()) {
                warn(key);
            }
        }
        for host in
            table.get("host").and_then(toml::Value::as_table).into_iter().flat_map(|hosts| hosts.values())
        {
            for key in host.as_table().into_iter().flat_map(|host| host.keys()) {
                if !HOST_KEYS.contains(&key.as_str()) {
                    warn(key);
                }
            }
        }
    }

    fn endpoint(&self, url: &str, at: usize, table: &HostTable) -> Result<Endpoint, HostsError> {
        let invalid = |message: String| self.invalid(at, message);
        let absolute = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let parsed = reqwest::Url::parse(&absolute)
            .map_err(|error| invalid(format!("`{url}` is not a URL: {error}")))?;
        let Some(host) = parsed.host_str().filter(|_| matches!(parsed.scheme(), "http" | "https")) else {
            return Err(invalid(format!("`{url}` must be an http:// or https:// URL")));
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(invalid(
                "a URL here has no user and password: put them into the file that `registry_auth` names"
                    .to_owned(),
            ));
        }
        let host = api_host(host);
        let host = parsed.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let root = parsed.path().trim_end_matches('/');
        let root = match table.override_path || root.ends_with("/v2") {
            true => root.to_owned(),
            false => format!("{root}/v2"),
        };
        let (mut resolve, mut pull) = (table.capabilities.is_empty(), table.capabilities.is_empty());
        for capability in &table.capabilities {
            match capability.as_str() {
                "resolve" => resolve = true,
                "pull" => pull = true,
                "push" | "referrers" => {}
                other => {
                    return Err(invalid(format!(
                        "`{url}`: unknown capability `{other}`: use pull, resolve or push"
                    )));
                }
            }
        }
        let dial_timeout = match &table.dial_timeout {
            None => None,
            Some(text) => Some(duration(text).ok_or_else(|| {
                invalid(format!(
                    "`{url}`: dial_timeout = \"{text}\" is not a duration such as \"3s\" or \"500ms\""
                ))
            })?),
        };
        Ok(Endpoint {
            base: format!("{}://{host}{root}", parsed.scheme()),
            host,
            own: false,
            resolve,
            pull,
            headers: headers(&table.header)
                .map_err(|name| invalid(format!("`{url}`: `{name}` is not a header, or its value is not")))?,
            tls: self.tls(table, at)?,
            dial_timeout: dial_timeout.filter(|timeout| !timeout.is_zero()),
        })
    }

    fn tls(&self, table: &HostTable, at: usize) -> Result<Tls, HostsError> {
        let read = |name: &String| {
            let path = self.directory.join(name);
            std::fs::read(&path).map_err(|source| HostsError::Read { path, source })
        };
        let ca = table.ca.iter().flat_map(OneOrMany::iter).map(read).collect::<Result<_, _>>()?;
        let files = match &table.client {
            None => Vec::new(),
            Some(Client::One(name)) => vec![vec![name]],
            Some(Client::Many(many)) => many
                .iter()
                .map(|files| match files {
                    ClientFiles::Combined(name) => vec![name],
                    ClientFiles::Separate(names) => names.iter().filter(|name| !name.is_empty()).collect(),
                })
                .collect(),
        };
        if files.iter().any(|files| !matches!(files.len(), 1 | 2)) {
            return Err(self.invalid(at, "`client`: a pair is [\"certificate\", \"key\"]".to_owned()));
        }
        // TLS shows one identity; the first, as no file says which server wants which.
        if files.len() > 1 {
            tracing::warn!(directory = %self.directory.display(), "several client certificates: the first is used");
        }
        let identity = match files.first() {
            None => None,
            Some(names) => {
                let parts = names.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>()?;
                Some(parts.join(&b'\n'))
            }
        };
        Ok(Tls { ca, identity, skip_verify: table.skip_verify })
    }
}

/// `Err`: the name of the one that is none.
fn headers(table: &BTreeMap<String, OneOrMany>) -> Result<HeaderMap, &str> {
    let mut headers = HeaderMap::new();
    for (name, values) in table {
        for value in values.iter() {
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            let (parsed, mut value) = parsed.ok_or(name.as_str())?;
            value.set_sensitive(true);
            headers.append(parsed, value);
        }
    }
    Ok(headers)
}

/// A duration as Go writes it: `1m30s`, `1.5s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str, domain: &str) -> Vec<Endpoint> {
        parse(text, Path::new("/nonexistent"), domain).unwrap()
    }

    fn bases(text: &str, domain: &str) -> Vec<String> {
        parsed(text, domain).into_iter().map(|endpoint| endpoint.base).collect()
    }

    #[test]
    fn mirrors_keep_the_order_of_the_file_and_the_server_is_last() {
        let text = r#"
            server = "https://up.example"
            [host."https://z.example"]
            capabilities = ["pull"]
            [host."http://a.example:5000/prefix"]
            capabilities = []
            [host."https://m.example/api"]
            override_path = true
            dial_timeout = "1.5s"
            header.X-Token = ["one", "two"]
            [host."b.example/v2/"]
            [host."https://R.example"]
        "#;
        let found = parsed(text, "r.example");
        let bases: Vec<_> = found.iter().map(|endpoint| endpoint.base.as_str()).collect();
        assert_eq!(
            bases,
            [
                "https://z.example/v2",
                "http://a.example:5000/prefix/v2",
                "https://m.example/api",
                "https://b.example/v2",
                "https://r.example/v2",
                "https://up.example/v2",
            ]
        );
        assert!(found[0].pull && !found[0].resolve);
        assert!(found[1].pull && found[1].resolve);
        assert_eq!(found[2].headers.get_all("x-token").iter().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(found[2].dial_timeout, Some(Duration::from_millis(1500)));
        assert!(!format!("{:?}", found[2]).contains("two"), "header values are secrets");
        let own: Vec<_> = found.iter().map(|endpoint| endpoint.own).collect();
        assert_eq!(own, [false, false, false, false, true, true]);
    }

    #[test]
    fn the_servers_keys_stand_at_the_top() {
        assert_eq!(bases("skip_verify = true", "docker.io"), ["https://registry-1.docker.io/v2"]);
        assert_eq!(bases("server = 'https://docker.io'", "docker.io"), ["https://registry-1.docker.io/v2"]);
        assert!(parsed("skip_verify = true", "r.example")[0].tls.skip_verify);
        let all = |domain: &str| {
            parse("server = 'https://all.example'", Path::new("/x/_default"), domain).unwrap()[0].own
        };
        assert!(!all("r.example"), "a server for every registry is not the registry");
        assert!(all("all.example"));
    }

    #[test]
    fn client_certificates_in_every_form() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["c", "k"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let identity = |client: &str| {
            let text = format!("[host.'https://m']\nclient = {client}\nca = ['c', 'k']");
            parse(&text, dir.path(), "r").map(|found| found[0].tls.identity.clone())
        };
        for (client, expected) in [
            ("'c'", "c"),
            ("['c']", "c"),
            ("[['c', 'k']]", "c\nk"),
            ("[['c', '']]", "c"),
            ("[['c', 'k'], ['k', 'c']]", "c\nk"),
            ("['c', ['k', 'c']]", "c"),
        ] {
            assert_eq!(identity(client).unwrap().as_deref(), Some(expected.as_bytes()), "{client}");
        }
        assert!(identity("[['c', 'k', 'c']]").is_err());
        assert!(identity("['missing']").is_err());
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (text, expected) in [
            ("3s", Some(3000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("0", Some(0)),
            ("3", None),
            ("-3s", None),
            ("s", None),
            ("3 s", None),
            ("", None),
            ("1e400s", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, expected) in [
            ("\nserver = 1", "hosts.toml:2: "),
            ("[host.'ftp://x']", "http://"),
            (
                "\n\n[host.'https://x']\ncapabilities = ['pul']",
                "hosts.toml:3: `https://x`: unknown capability `pul`",
            ),
            ("[host.'https://x']\nca = 'missing.pem'", "missing.pem"),
            ("[host.'https://x']\nca = 3", "a string or a list"),
            ("[host.'https://x']\ndial_timeout = 'soon'", "soon"),
            ("[host.'https://u:p@x']", "registry_auth"),
            ("[host.'https://x'.header]\n'a b' = 'c'", "a b"),
            ("server =", "hosts.toml:1: "),
        ] {
            let message = parse(text, Path::new("/nonexistent"), "r").unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("/nonexistent"), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,80}", url in "\\PC{0,30}", span in "[0-9a-z.µ]{0,12}") {
            let _ = parse(&text, Path::new("/nonexistent"), "r.example");
            let _ = parse(&format!("[host.{url:?}]"), Path::new("/nonexistent"), "r.example");
            let _ = duration(&span);
        }
    }
}
