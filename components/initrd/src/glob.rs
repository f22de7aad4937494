//! Shell patterns as module aliases use them: `*`, `?` and `[…]` (ranges, `!` or `^` to negate).
//!
//! `fnmatch(3)` without flags, over bytes: `/` and a leading `.` are ordinary characters, and `\` takes the
//! next character literally. Patterns come from `depmod`'s modules.alias.

/// Whether the whole of `text` matches `pattern`. A `[` that is never closed stands for itself.
///
/// Time is bounded by the product of both lengths: on a mismatch only the last `*` is tried again.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when something does not fit: after the last star, one more byte swallowed by it.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        match text.get(t) {
            None if p == pattern.len() => return true,
            // Letting the star swallow more only shortens what is left to match.
            None => return false,
            Some(&byte) => {
                if let Some(next) = step(pattern, p, byte) {
                    (p, t) = (next, t + 1);
                    continue;
                }
            }
        }
        match retry {
            Some((after_star, swallowed)) => {
                retry = Some((after_star, swallowed + 1));
                (p, t) = (after_star, swallowed + 1);
            }
            None => return false,
        }
    }
}

/// Matches one byte against the pattern element at `p`; the position after the element if it fits.
fn step(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => match set(pattern, p + 1, byte) {
            Some((true, next)) => Some(next),
            Some((false, _)) => None,
            None => (byte == b'[').then_some(p + 1),
        },
        b'\\' => match pattern.get(p + 1) {
            Some(&literal) => (literal == byte).then_some(p + 2),
            None => (byte == b'\\').then_some(p + 1),
        },
        literal => (literal == byte).then_some(p + 1),
    }
}

/// A bracket expression whose inside starts at `start`: whether `byte` is in it, and the position after `]`.
fn set(pattern: &[u8], start: usize, byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(start), Some(b'!' | b'^'));
    let first = start + usize::from(negated);
    let mut found = false;
    let mut at = first;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(&high)) if high != b']' => {
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    #[test]
    fn real_aliases() {
        let nvme = "pci:v00008086d00005845sv00001AF4sd00001100bc01sc08i02";
        assert!(matches("pci:v*d*sv*sd*bc01sc08i02*", nvme));
        assert!(matches("pci:v00008086d00005845sv*sd*bc*sc*i*", nvme));
        assert!(!matches("pci:v00008086d00000953sv*sd*bc*sc*i*", nvme));
        assert!(matches("virtio:d00000002v*", "virtio:d00000002v00001AF4"));
        assert!(!matches("virtio:d00000002v*", "virtio:d00000001v00001AF4"));
        assert!(matches("scsi:t-0x00*", "scsi:t-0x00"));
        let disk = "usb:v0781p5567d0100dc00dsc00dp00ic08isc06ip50in00";
        assert!(matches("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", disk));
        assert!(matches("usb:v0781p5567d0[0-2]*", disk));
    }

    #[test]
    fn table() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-", false),
            ("?", "", false),
            ("?", "/", true),
            ("[]x]", "]", true),
            ("[!a-c]", "b", false),
            ("[^a-c]", "d", true),
            ("[a-]", "-", true),
            ("[ab", "[ab", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*.ko", "a.ko.xz", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn many_stars_stay_fast() {
        assert!(!matches(&"a*".repeat(200), &"a".repeat(199)));
        assert!(!matches(&format!("{}b", "*a".repeat(2000)), &"a".repeat(4000)));
    }

    proptest! {
        #[test]
        fn any_text_matches_itself_escaped(text in "[ -~]{0,40}") {
            let pattern: String = text.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&pattern, &text));
        }

        #[test]
        fn nothing_panics(pattern in "[]\\[*?!a-c\\\\-]{0,20}", text in "[]a-c*-]{0,20}") {
            let _ = matches(&pattern, &text);
        }
    }
}
