//! How a registry asks for credentials: the `WWW-Authenticate` header (RFC 9110 section 11).

/// A longer header is nobody's challenge, and reading it would take the square of its length.
const MAX_HEADER: usize = 8 << 10;

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The first challenge in `header` that we can answer, Bearer preferred.
    pub(in super::super) fn parse(header: &str) -> Option<Self> {
        if header.len() > MAX_HEADER {
            return None;
        }
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

    proptest! {
        #[test]
        fn any_header_is_survived(header in "\\PC{0,80}|[Bb]earer [a-z=\", \\\\]{0,60}") {
            let _ = Challenge::parse(&header);
        }
    }
}
