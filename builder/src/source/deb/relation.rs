//! Relations between packages (Debian Policy 7.1): `a (>= 1) | b:any, c`.

use super::version::Version;
use std::{cmp::Ordering, fmt};

/// A relation field: all of these, each by one of its alternatives.
pub type Relations = Vec<Vec<Relation>>;

/// One alternative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Package or virtual package.
    pub name: Box<str>,
    /// Which versions of it.
    pub constraint: Option<(Operator, Version)>,
}

/// How a version must compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`
    LaterOrEqual,
    /// `>>`
    Later,
}

impl Operator {
    const ALL: [(Self, &str); 5] = [
        (Self::Earlier, "<<"),
        (Self::EarlierOrEqual, "<="),
        (Self::Equal, "="),
        (Self::LaterOrEqual, ">="),
        (Self::Later, ">>"),
    ];

    fn admits(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order.is_lt(),
            Self::EarlierOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::LaterOrEqual => order.is_ge(),
            Self::Later => order.is_gt(),
        }
    }
}

impl Relation {
    /// Whether this version of the named package will do.
    pub fn admits(&self, version: &Version) -> bool {
        self.constraint.as_ref().is_none_or(|(operator, wanted)| operator.admits(version.cmp(wanted)))
    }

    /// Whether a package that provides the name, as this version or unversioned, will do (Policy 7.5: an
    /// unversioned provider satisfies only unversioned relations).
    pub fn admits_provided(&self, version: Option<&Version>) -> bool {
        match (version, &self.constraint) {
            (_, None) => true,
            (Some(version), Some(_)) => self.admits(version),
            (None, Some(_)) => false,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some((operator, version)) = &self.constraint {
            let text = Operator::ALL.iter().find(|(other, _)| other == operator).map_or("", |(_, text)| text);
            write!(f, " ({text} {version})")?;
        }
        Ok(())
    }
}

/// Alternatives as a person reads them.
pub fn describe(alternatives: &[Relation]) -> String {
    alternatives.iter().map(Relation::to_string).collect::<Vec<_>>().join(" | ")
}

/// Reads a relation field of a binary package for one architecture.
///
/// An architecture qualifier (`python3:any`) is accepted when it is `any`, `native` or `architecture`: there is
/// only one architecture in an image. Alternatives of another architecture are left out.
///
/// # Errors
/// What is wrong with the text, for people.
pub fn parse(text: &str, architecture: &str) -> Result<Relations, String> {
    let mut all = Relations::new();
    for group in text.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        let mut alternatives = Vec::new();
        for alternative in group.split('|') {
            let (name, constraint) = split(alternative)?;
            let name = match name.split_once(':') {
                None => name,
                Some((name, "any" | "native")) => name,
                Some((name, qualifier)) if qualifier == architecture => name,
                Some(_) => continue,
            };
            alternatives.push(Relation { name: name.into(), constraint });
        }
        if !alternatives.is_empty() {
            all.push(alternatives);
        }
    }
    Ok(all)
}

type Constraint = Option<(Operator, Version)>;

fn split(alternative: &str) -> Result<(&str, Constraint), String> {
    let alternative = alternative.trim();
    let error = |why: &str| Err(format!("`{alternative}` is not a relation: {why}"));
    let (name, rest) = match alternative.find([' ', '(', '\t', '\n']) {
        Some(end) => (&alternative[..end], alternative[end..].trim_start()),
        None => (alternative, ""),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return error("it must begin with a package name");
    }
    if rest.is_empty() {
        return Ok((name, None));
    }
    let Some(inner) = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) else {
        return error("after the name only `(operator version)` may follow");
    };
    let inner = inner.trim();
    let Some((operator, text)) = Operator::ALL.iter().find(|(_, text)| inner.starts_with(text)) else {
        return error("the operator must be one of << <= = >= >>");
    };
    match inner[text.len()..].trim().parse() {
        Ok(version) => Ok((name, Some((*operator, version)))),
        Err(invalid) => Err(format!("`{alternative}` is not a relation: {invalid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_read_and_written() {
        let text = "libc6 (>= 2.38), a|b:any (<<1:2~), python3:any, wine:i386 | c (= 1-1)";
        let shown: Vec<_> = parse(text, "amd64").unwrap().iter().map(|group| describe(group)).collect();
        assert_eq!(shown, ["libc6 (>= 2.38)", "a | b (<< 1:2~)", "python3", "c (= 1-1)"]);
        assert!(parse("", "amd64").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_a_relation_is_refused() {
        for text in
            ["a (1)", "a (>= )", "a (>= 1", "a >= 1", "(>= 1)", "a [amd64]", "a | ", "${misc:Depends}"]
        {
            assert!(parse(text, "amd64").is_err(), "{text}");
        }
    }

    #[test]
    fn provided_versions_count_as_policy_says() {
        let relation = |text| parse(text, "amd64").unwrap().remove(0).remove(0);
        let version: Version = "2".parse().unwrap();
        assert!(relation("a").admits_provided(None));
        assert!(!relation("a (>= 1)").admits_provided(None));
        assert!(relation("a (>= 1)").admits_provided(Some(&version)));
        assert!(!relation("a (<< 2)").admits_provided(Some(&version)));
    }
}
