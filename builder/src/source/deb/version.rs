//! Debian package versions and their order (Debian Policy 5.6.12, deb-version(7)).

use std::{cmp::Ordering, fmt, str::FromStr};

/// `[epoch:]upstream[-revision]`. Equal means: neither is later (`1.0` and `1.00` are).
#[derive(Debug, Clone)]
pub struct Version(Box<str>);

/// The text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a Debian version: {why}")]
pub struct InvalidVersion {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Version {
    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Epoch, upstream version, revision.
    fn parts(&self) -> (u32, &str, &str) {
        let (epoch, rest) = match self.0.split_once(':') {
            // Checked when it was parsed.
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, &*self.0),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream, revision)
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let invalid = |why| Err(InvalidVersion { text: text.to_owned(), why });
        let rest = match text.split_once(':') {
            Some((epoch, _)) if epoch.parse::<u32>().is_err() => return invalid("the epoch is not a number"),
            Some((_, rest)) => rest,
            None => text,
        };
        if rest.is_empty() || rest.starts_with('-') {
            return invalid("there is no upstream version");
        }
        if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-~:".contains(&byte)) {
            return invalid("it has a character other than letters, digits and . + - ~ :");
        }
        Ok(Self(text.into()))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (epoch, upstream, revision) = self.parts();
        let (other_epoch, other_upstream, other_revision) = other.parts();
        epoch
            .cmp(&other_epoch)
            .then_with(|| compare(upstream.as_bytes(), other_upstream.as_bytes()))
            .then_with(|| compare(revision.as_bytes(), other_revision.as_bytes()))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Weight of the first byte of what is not a number: `~` before the end, the end before letters, letters before
/// all else. A digit counts as the end.
fn weight(text: &[u8]) -> i32 {
    match text.first() {
        Some(b'~') => -1,
        None | Some(b'0'..=b'9') => 0,
        Some(&byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(&byte) => i32::from(byte) + 256,
    }
}

/// Compares alternating stretches of non-digits and digits.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (left, right) = (weight(a), weight(b));
            if left != right {
                return left.cmp(&right);
            }
            if left == 0 {
                break;
            }
            (a, b) = (&a[1..], &b[1..]);
        }
        let (left, right) = (number(&mut a), number(&mut b));
        // Without leading zeros the longer number is the greater one.
        let order = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes the digits off the front and gives them without leading zeros.
fn number<'t>(text: &mut &'t [u8]) -> &'t [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const TABLE: &[(&str, &str, Ordering)] = &[
        ("1.0", "1.0", Ordering::Equal),
        ("1.0", "1.00", Ordering::Equal),
        ("1.0", "1.0-0", Ordering::Equal),
        ("0:1.0-1", "1.0-1", Ordering::Equal),
        ("1.0~rc1", "1.0", Ordering::Less),
        ("1.0~~", "1.0~", Ordering::Less),
        ("1.0~~a", "1.0~", Ordering::Less),
        ("1.0-1", "1.0-1+b1", Ordering::Less),
        ("1.0-1+b1", "1.0-1.1", Ordering::Less),
        ("1.0-1~deb13u1", "1.0-1", Ordering::Less),
        ("1.0-1+deb13u1", "1.0-1+deb13u2", Ordering::Less),
        ("1.0-1+deb13u9", "1.0-1+deb13u10", Ordering::Less),
        ("1:0.1", "2", Ordering::Greater),
        ("9", "10", Ordering::Less),
        ("1.2.3", "1.2.3.1", Ordering::Less),
        ("1.2a", "1.2+", Ordering::Less),
        ("1.2a", "1.2.", Ordering::Less),
        ("1.2", "1.2a", Ordering::Less),
        ("1.2Z", "1.2a", Ordering::Less),
        ("1.2-a-1", "1.2-b-0", Ordering::Less),
        ("6.12.48-1", "6.12.9-1", Ordering::Greater),
        ("257.8-1~deb13u2", "257.13-1~deb13u1", Ordering::Less),
        ("1.0.0009", "1.0.9", Ordering::Equal),
        ("00000000000000000000000000000001", "1", Ordering::Equal),
        ("99999999999999999999", "100000000000000000000", Ordering::Less),
    ];

    #[test]
    fn the_order_is_debians() {
        for &(a, b, order) in TABLE {
            let (left, right): (Version, Version) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(left.cmp(&right), order, "{a} and {b}");
            assert_eq!(right.cmp(&left), order.reverse(), "{b} and {a}");
        }
    }

    #[test]
    fn the_table_is_dpkgs() {
        if Command::new("dpkg").arg("--version").output().is_err() {
            println!("skipped: no dpkg on this machine");
            return;
        }
        for &(a, b, order) in TABLE {
            let relation = match order {
                Ordering::Less => "lt",
                Ordering::Equal => "eq",
                Ordering::Greater => "gt",
            };
            let status = Command::new("dpkg").args(["--compare-versions", a, relation, b]).status().unwrap();
            assert!(status.success(), "dpkg does not say {a} {relation} {b}");
        }
    }

    #[test]
    fn what_is_not_a_version_is_refused() {
        for text in ["", "a:1", ":1", "1:", "-1", "1 2", "1_2", "1:-1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
