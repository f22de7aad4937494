//! What can be wrong with a profile, for people.

use super::document::{Origin, Source};
use std::fmt;
use std::path::PathBuf;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such file.
    #[error("there is no profile {}{}", path.display(), help.as_ref().map(|help| format!("; {help}")).unwrap_or_default())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// Which there are.
        help: Option<String>,
    },
    /// The file is there but cannot be read.
    #[error("cannot read profile {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is wrong: syntax, an unknown key, a wrong type or value.
    #[error("{0}")]
    Text(Box<Diagnostic>),
    /// The chain of `extends` comes back to where it was.
    #[error("{at}")]
    Cycle {
        /// Names, the first again at the end.
        chain: Vec<String>,
        /// The `extends` that closes it.
        at: Box<Diagnostic>,
    },
}

impl ProfileError {
    /// Whether this is the machine's fault rather than the user's.
    pub fn is_machine_fault(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() != std::io::ErrorKind::InvalidData)
    }
}

/// One thing wrong in the text of a profile, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1. 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Dotted key, `kernel.package`; empty when it is about no key.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// The line, and how many characters of it are meant.
    excerpt: Option<(String, usize)>,
}

impl Diagnostic {
    /// A diagnostic for a place in one of `sources`.
    pub(crate) fn new(
        sources: &[Source],
        origin: Origin,
        key: &str,
        message: String,
        help: Option<String>,
    ) -> Box<Self> {
        let mut diagnostic = Self {
            path: PathBuf::from("built-in defaults"),
            line: 0,
            column: 0,
            key: key.to_owned(),
            message,
            help,
            excerpt: None,
        };
        if let Origin::File { source, start, end } = origin {
            let source = &sources[source];
            let place = Place::find(&source.text, start);
            diagnostic.path.clone_from(&source.path);
            diagnostic.line = place.line;
            diagnostic.column = place.column;
            let rest = place.text.chars().count().saturating_sub(place.column - 1);
            let meant = source.text.get(start..end).map_or(1, |text| text.chars().count());
            diagnostic.excerpt = Some((place.text.to_owned(), meant.clamp(1, rest.max(1))));
        }
        Box::new(diagnostic)
    }
}

/// A byte of a text, in terms that editors use.
pub(crate) struct Place<'a> {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) text: &'a str,
}

impl<'a> Place<'a> {
    pub(crate) fn find(text: &'a str, offset: usize) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line_start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: text[..offset].matches('\n').count() + 1,
            column: text[line_start..offset].chars().count() + 1,
            text: text[line_start..].lines().next().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        if let Some((line, length)) = &self.excerpt {
            let number = self.line.to_string();
            let indent: String =
                line.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n  {number} | {line}\n  {:1$} | {indent}{2}", "", number.len(), "^".repeat(*length))?;
        }
        Ok(())
    }
}
