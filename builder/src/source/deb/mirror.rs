//! Where Debian's archives are to be had.
//!
//! One mirror is two archives: the main one, and the security one. They are named, or found in the machine's own
//! apt configuration, whatever suite that uses: an archive has all suites.

use super::{
    apt_conf::AptConf,
    index::Area,
    release::Keyring,
    sources::{self, Source, SourcesError},
};
use crate::source::fetch::Proxies;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Names of Debian's suites, to tell its archives from other people's in the machine's sources.
const SUITES: &[&str] = &[
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
    "sid",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

/// Two archives and how to reach and judge them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// URI of the main archive, without a slash at the end: it has `/dists` and `/pool`.
    pub main: String,
    /// URI of the security archive.
    pub security: String,
    /// Keyring that must have signed the Release documents.
    pub keyring: PathBuf,
    /// Proxies to go through.
    pub proxies: Proxies,
    /// Whether a Release past its `Valid-Until` is refused.
    pub check_valid_until: bool,
}

/// Why there is no mirror.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// apt knows of no Debian archive.
    #[error(
        "this machine's apt configuration ({root}etc/apt) names no Debian archive over http or https: name a mirror \
         with --mirror or in the profile"
    )]
    NotFound {
        /// Where the configuration was looked for.
        root: String,
    },
    /// The security archive does not follow from the main one's URI.
    #[error("cannot tell the security archive's URI from {main}: it does not end in `/debian`; name both")]
    NoSecurity {
        /// The main archive.
        main: String,
    },
    /// apt's sources are malformed.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// apt's configuration cannot be read.
    #[error("cannot read the apt configuration: {0}")]
    AptConf(#[from] io::Error),
}

impl Mirror {
    /// A mirror by the URI of its main archive; the security archive is named, or expected beside it with
    /// `-security` appended to the name.
    ///
    /// # Errors
    /// The security archive is neither named nor to be guessed.
    pub fn explicit(main: &str, security: Option<&str>) -> Result<Self, MirrorError> {
        let main = trimmed(main);
        let security = match security {
            Some(security) => trimmed(security),
            None => beside(&main).ok_or_else(|| MirrorError::NoSecurity { main: main.clone() })?,
        };
        Ok(Self {
            main,
            security,
            keyring: PathBuf::from(Keyring::DEBIAN),
            proxies: Proxies::default(),
            check_valid_until: true,
        })
    }

    /// The mirror that apt uses below `root` (`/` for this machine), with apt's proxies and its word on
    /// `Valid-Until`.
    ///
    /// # Errors
    /// apt's configuration is malformed, or names no Debian archive.
    pub fn from_apt(root: &Path) -> Result<Self, MirrorError> {
        let sources = sources::load(root)?;
        let main = sources.iter().find(|source| is_debian(source) && !is_security(source));
        let security = sources.iter().find(|source| is_debian(source) && is_security(source));
        let main = main.ok_or_else(|| MirrorError::NotFound { root: root.display().to_string() })?;
        let mut mirror = Self::explicit(&main.uri, security.map(|source| source.uri.as_str()))?;
        let conf = AptConf::load(root)?;
        mirror.proxies = proxies(&conf);
        mirror.check_valid_until =
            !matches!(conf.get("Acquire::Check-Valid-Until"), Some("false" | "no" | "0"));
        Ok(mirror)
    }

    /// URI of one of its archives.
    pub fn uri(&self, area: Area) -> &str {
        match area {
            Area::Main => &self.main,
            Area::Security => &self.security,
        }
    }
}

fn trimmed(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

/// The security archive beside a main one; snapshots have a time stamp after the name.
fn beside(main: &str) -> Option<String> {
    let (before, after) = main.rsplit_once("/debian")?;
    (after.is_empty() || after.starts_with('/')).then(|| format!("{before}/debian-security{after}"))
}

fn is_debian(source: &Source) -> bool {
    let over_http = source.uri.starts_with("http://") || source.uri.starts_with("https://");
    let has_main = source.components.iter().any(|component| component == "main");
    let known = source.suites.iter().any(|suite| {
        let base = suite.split(['-', '/']).next().unwrap_or_default();
        SUITES.contains(&base)
    });
    // Others publish for Debian's suites too; their archives are not called `debian` or have their own key.
    let own_key = source.signed_by.as_deref().is_none_or(|key| {
        key.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("debian-archive"))
    });
    over_http && has_main && known && own_key
}

fn is_security(source: &Source) -> bool {
    source.suites.iter().any(|suite| suite.ends_with("-security") || suite.ends_with("/updates"))
}

fn proxies(conf: &AptConf) -> Proxies {
    let route = |value: &str| (!value.eq_ignore_ascii_case("direct")).then(|| value.to_owned());
    let mut proxies = Proxies::default();
    for scheme in ["http", "https"] {
        let prefix = format!("acquire::{scheme}::proxy");
        for (rest, value) in conf.below(&prefix).filter(|(_, value)| !value.is_empty()) {
            if rest.is_empty() {
                proxies.rules.insert(scheme.to_owned(), route(value));
            } else if let Some(host) = rest.strip_prefix("::") {
                proxies.rules.insert(format!("{scheme}::{host}"), route(value));
            }
        }
    }
    proxies
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn apt(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join("etc/apt").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn apts_mirror_proxy_and_leniency_are_taken() {
        let root = apt(&[
            ("sources.list", "deb http://other.example/debian-tools bookworm-tools thing\n"),
            (
                "sources.list.d/a.sources",
                "Types: deb\nURIs: https://vendor.example/\nSuites: bookworm\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/vendor.gpg\n",
            ),
            (
                "sources.list.d/debian.sources",
                "Types: deb\nURIs: http://m.example/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                 Types: deb\nURIs: http://s.example/debian-security\nSuites: bookworm-security\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            ),
            ("apt.conf.d/90proxy", "Acquire::http { Proxy \"http://p:1\"; Proxy::s.example \"DIRECT\"; };"),
            ("apt.conf.d/docker", "Acquire::Check-Valid-Until \"false\";"),
            ("apt.conf.d/ignored.bak", "Acquire::http::Proxy \"no\";"),
        ]);
        let mirror = Mirror::from_apt(root.path()).unwrap();
        assert_eq!(mirror.uri(Area::Main), "http://m.example/debian");
        assert_eq!(mirror.uri(Area::Security), "http://s.example/debian-security");
        assert!(!mirror.check_valid_until);
        let rules = [("http", Some("http://p:1")), ("http::s.example", None)];
        let rules = rules.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(mirror.proxies.rules, rules.into());
    }

    #[test]
    fn without_debian_sources_the_user_is_told_what_to_do() {
        let root = apt(&[("sources.list", "deb http://u.example/ubuntu noble main\n")]);
        let error = Mirror::from_apt(root.path()).unwrap_err().to_string();
        assert!(error.contains("--mirror"), "{error}");
    }

    #[test]
    fn the_security_archive_is_beside_the_main_one() {
        let security = |main| Mirror::explicit(main, None).map(|mirror| mirror.security);
        assert_eq!(security("http://m/debian/").unwrap(), "http://m/debian-security");
        assert_eq!(
            security("http://m/archive/debian/20251120T000000Z").unwrap(),
            "http://m/archive/debian-security/20251120T000000Z"
        );
        assert!(security("http://m/mirror").is_err());
    }
}
