//! The control-file syntax (deb822(5)) of Packages, Release, .sources and control files: paragraphs of fields.
//!
//! The parser copies nothing: a package index has 56 MB.

use std::{iter::Enumerate, str::Split};

/// A line that is not of this syntax.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {why}")]
pub struct SyntaxError {
    /// The document's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'t> {
    /// Name as written; names are compared without case.
    pub name: &'t str,
    /// Value from the first character to the last, continuation lines included as they are.
    pub value: &'t str,
    /// Line of the name, from 1.
    pub line: usize,
}

impl<'t> Field<'t> {
    /// The lines of the value, trimmed, comments left out.
    pub fn lines(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.value.lines().filter(|line| !line.starts_with('#')).map(str::trim)
    }

    /// The words of the value, comments left out.
    pub fn words(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.lines().flat_map(str::split_whitespace)
    }
}

/// One paragraph: at least one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paragraph<'t> {
    /// Fields in order.
    pub fields: Vec<Field<'t>>,
}

impl<'t> Paragraph<'t> {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<Field<'t>> {
        self.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).copied()
    }

    /// The value of the field of this name.
    pub fn get(&self, name: &str) -> Option<&'t str> {
        self.field(name).map(|field| field.value)
    }

    /// The value of a field that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn require(&self, name: &str, file: &str) -> Result<&'t str, SyntaxError> {
        self.get(name).ok_or_else(|| self.error(file, format!("this paragraph has no field `{name}`")))
    }

    /// An error about this paragraph.
    pub fn error(&self, file: &str, why: String) -> SyntaxError {
        let line = self.fields.first().map_or(1, |field| field.line);
        SyntaxError { file: file.to_owned(), line, why }
    }
}

/// The paragraphs of `text`, which is called `file` in errors.
pub fn paragraphs<'t>(file: &'t str, text: &'t str) -> Paragraphs<'t> {
    Paragraphs { file, text, lines: text.split('\n').enumerate() }
}

/// Iterator over paragraphs; see [`paragraphs`].
#[derive(Debug, Clone)]
pub struct Paragraphs<'t> {
    file: &'t str,
    text: &'t str,
    lines: Enumerate<Split<'t, char>>,
}

impl<'t> Iterator for Paragraphs<'t> {
    type Item = Result<Paragraph<'t>, SyntaxError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut fields: Vec<Field<'t>> = Vec::new();
        for (index, line) in self.lines.by_ref() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let error = |why: &str| {
                Some(Err(SyntaxError { file: self.file.to_owned(), line: index + 1, why: why.to_owned() }))
            };
            match line.as_bytes().first() {
                Some(b'#') => {}
                Some(b' ' | b'\t') if !line.trim().is_empty() => {
                    let Some(field) = fields.last_mut() else {
                        return error("a continuation line with no field before it");
                    };
                    field.value = join(self.text, field.value, line);
                }
                None | Some(b' ' | b'\t') => {
                    if !fields.is_empty() {
                        break;
                    }
                }
                Some(_) => {
                    let Some((name, value)) = line.split_once(':') else {
                        return error("a field must be `Name: value`");
                    };
                    if name.is_empty() || name.contains([' ', '\t']) {
                        return error("a field's name must be one word");
                    }
                    // An empty value must be a slice at its place in the text, for `join`.
                    let value = value.trim();
                    let value = if value.is_empty() { &line[line.len()..] } else { value };
                    fields.push(Field { name, value, line: index + 1 });
                }
            }
        }
        (!fields.is_empty()).then_some(Ok(Paragraph { fields }))
    }
}

/// The part of `text` from the start of `value` to the end of `line`; both are slices of it.
fn join<'t>(text: &'t str, value: &'t str, line: &'t str) -> &'t str {
    let offset = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    let end = offset(line) + line.trim_end().len();
    &text[offset(value)..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_have_fields_with_lines() {
        let text = "# a comment\n\nPackage: a\nDescription: short\n long\n .\n more\nTag:\n x,\n y\n\n\nPackage: b\r\n";
        let all: Vec<_> = paragraphs("Packages", text).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("a"));
        assert_eq!(all[0].get("Description"), Some("short\n long\n .\n more"));
        assert_eq!(all[0].field("Tag").unwrap().words().collect::<Vec<_>>(), ["x,", "y"]);
        assert_eq!(all[0].field("Tag").unwrap().line, 8);
        assert_eq!(all[1].get("Package"), Some("b"));
        assert_eq!(all[1].require("Version", "Packages").unwrap_err().line, 13);
    }

    #[test]
    fn comments_inside_a_value_are_left_out() {
        let text = "URIs:\n# old\n http://a\nSuites: x\n";
        let paragraph = paragraphs("f", text).next().unwrap().unwrap();
        assert_eq!(paragraph.field("URIs").unwrap().words().collect::<Vec<_>>(), ["http://a"]);
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, line) in [("A: 1\nnonsense\n", 2), (" cont\n", 1), ("A: 1\n\nA B: 1\n", 3), (": x", 1)] {
            let error = paragraphs("file", text).find_map(Result::err).unwrap();
            assert_eq!((error.file.as_str(), error.line), ("file", line), "{text:?}");
        }
    }
}
