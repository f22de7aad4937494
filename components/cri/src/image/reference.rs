//! Image references: `[domain/]path[:tag][@digest]`, normalised as people expect since Docker.
//!
//! The grammar is that of the OCI distribution specification for the path and the tag; the normalisation is
//! Docker's: no domain means `docker.io`, no slash on `docker.io` means `library/`, no tag and no digest means
//! `latest`. A reference with both tag and digest is the digest's: the tag is dropped, as it promises nothing.

use cairn_contract::digest::Sha256Digest;
use std::{fmt, str::FromStr};

/// The domain of references that name none.
pub(super) const DEFAULT_DOMAIN: &str = "docker.io";

/// Which of a repository's images is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Version {
    Tag(String),
    Digest(Sha256Digest),
}

/// A normalised reference. Its text form is full: `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    version: Version,
}

/// The text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct InvalidReference {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// Registry host, with port if there is one: `docker.io`, `registry.example:5000`, `[::1]:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository without domain: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Repository with domain: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The digest, if the reference fixes one.
    pub fn digest(&self) -> Option<Sha256Digest> {
        match self.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }

    /// As a registry's URL wants it: the tag, or `sha256:…`.
    pub(super) fn version_text(&self) -> String {
        match &self.version {
            Version::Tag(tag) => tag.clone(),
            Version::Digest(digest) => digest.to_string(),
        }
    }

    /// The same repository at `digest`.
    pub(super) fn at(&self, digest: Sha256Digest) -> Self {
        Self { version: Version::Digest(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason| InvalidReference { text: text.chars().take(300).collect(), reason };
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) => {
                let digest =
                    digest.parse().map_err(|_| invalid("after `@` must stand sha256: and 64 hex digits"))?;
                (name, Some(digest))
            }
        };
        let (domain, rest) = split_domain(name);
        let domain = match domain {
            None | Some("index.docker.io") => DEFAULT_DOMAIN,
            Some(domain) => domain,
        };
        if !is_domain(domain) {
            return Err(invalid("the registry must be a host name or address, with an optional port"));
        }
        // The domain is off, so a colon can only begin a tag.
        let (path, tag) = match rest.split_once(':') {
            None => (rest, None),
            Some((path, tag)) => (path, Some(tag)),
        };
        if path.is_empty() {
            return Err(invalid("the repository is missing"));
        }
        let path = match domain == DEFAULT_DOMAIN && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        if !path.split('/').all(is_path_component) {
            return Err(invalid(
                "a repository is lower-case letters and digits, separated by `.`, `_`, `__`, dashes or `/`",
            ));
        }
        if domain.len() + path.len() > 254 {
            return Err(invalid("it is longer than 255 characters"));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(invalid(
                "a tag is at most 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`",
            ));
        }
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { domain: domain.to_owned(), path, version })
    }
}

/// The part before the first slash is a domain only if it cannot be a path component: it has a dot, a colon or an
/// upper-case letter, or it is `localhost`.
fn split_domain(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':', '['])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
                "v6",
                port.strip_prefix(':').or(match port {
                    "" => None,
                    _ => Some("bad"),
                }),
            ),
            _ => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // URL parsers take `1.2.3` for the address `1.2.0.3`, and labels that begin with `xn--` for Punycode, which they may
    // not be: only what such a parser reads as it is written is a host.
    let as_written = || {
        let url = reqwest::Url::parse(&format!("https://{host}/"));
        url.is_ok_and(|url| url.host_str().is_some_and(|read| read.eq_ignore_ascii_case(host)))
    };
    host.split('.').all(label)
        && as_written()
        && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    component
        .split(|c: char| word(u8::try_from(c).unwrap_or(0)))
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_normalised() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.37", "docker.io/library/busybox:1.37".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/user/app:V1", "docker.io/user/app:V1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("Registry/a", "Registry/a:latest".to_owned()),
            ("cairn.local/probe:0.1.0", "cairn.local/probe:0.1.0".to_owned()),
            ("a--b__c/d.e_f-g", "docker.io/a--b__c/d.e_f-g:latest".to_owned()),
            (&format!("busybox@{digest}"), format!("docker.io/library/busybox@{digest}")),
            (&format!("r.example:5/b:tag@{digest}"), format!("r.example:5/b@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            ":",
            "@",
            "/",
            "a/",
            "/a",
            "Busybox",
            "a b",
            "a:",
            "a:.x",
            "a:b:c",
            "a@sha256:00",
            "a@md5:00",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "r.example:port/a",
            "r.example:99999/a",
            "r.ele0.15000/a",
            "1.2.3/a",
            "1.2.3.4.5/a",
            "127.0.0.01/a",
            "r.0x7f/a",
            "r.xn--aexample/a",
            "5:80/a",
            "[::1/a",
            "[::1]x/a",
            "../etc",
            "a/../b",
            "https://r.example/a",
            "r.example/A",
            "a\n",
            "-r.example/a",
            "é",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!(format!("a:{}", "x".repeat(129)).parse::<Reference>().is_err());
        assert!("a".repeat(300).parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_and_what_parses_is_stable(text in "\\PC{0,60}|[a-zA-Z0-9./:@_\\[\\]-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let full = reference.to_string();
                prop_assert_eq!(full.parse::<Reference>().unwrap(), reference);
                prop_assert!(!full.contains(".."));
            }
        }
    }
}
