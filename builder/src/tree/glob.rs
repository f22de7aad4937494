//! Globs over paths in the tree: `*` and `?` stop at `/`, `**` does not.

/// Whether `pattern` matches all of `path`. A pattern that matches a directory stands for what is in it, too:
/// callers remove whole directories.
pub fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern.first() {
        None => path.is_empty(),
        Some(b'*') if pattern.get(1) == Some(&b'*') => {
            let rest = &pattern[2..];
            let rest_or_dir = rest.strip_prefix(b"/").unwrap_or(rest);
            matches(rest_or_dir, path) || (0..=path.len()).any(|n| matches(rest, &path[n..]))
        }
        Some(b'*') => {
            let end = path.iter().position(|b| *b == b'/').unwrap_or(path.len());
            (0..=end).any(|n| matches(&pattern[1..], &path[n..]))
        }
        Some(b'?') => path.first().is_some_and(|b| *b != b'/') && matches(&pattern[1..], &path[1..]),
        Some(byte) => path.first() == Some(byte) && matches(&pattern[1..], &path[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stop_at_slashes_and_double_stars_do_not() {
        for (pattern, path, expected) in [
            ("usr/share/doc", "usr/share/doc", true),
            ("usr/*/doc", "usr/share/doc", true),
            ("usr/*", "usr/share/doc", false),
            ("usr/**", "usr/share/doc", true),
            ("**/*.la", "usr/lib/x.la", true),
            ("**/*.la", "x.la", true),
            ("**.la", "usr/x.la", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), path.as_bytes()), expected, "{pattern} {path}");
        }
    }
}
