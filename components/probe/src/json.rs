//! The little JSON that is printed here.

use std::fmt::Write;

/// A value.
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    pub(crate) fn text(text: impl ToString) -> Self {
        Self::Text(text.to_string())
    }

    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(value) => {
                let _ = write!(out, "{value}");
            }
            Self::Text(text) => quote(out, text),
            Self::List(items) => {
                Self::block(out, depth, ('[', ']'), items.iter(), |out, item| item.write(out, depth + 1));
            }
            Self::Object(members) => {
                Self::block(out, depth, ('{', '}'), members.iter(), |out, (key, value)| {
                    quote(out, key);
                    out.push_str(": ");
                    value.write(out, depth + 1);
                })
            }
        }
    }

    fn block<T>(
        out: &mut String,
        depth: usize,
        (open, close): (char, char),
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut String, T),
    ) {
        let empty = items.len() == 0;
        out.push(open);
        for (index, item) in items.enumerate() {
            out.push_str(if index == 0 { "\n" } else { ",\n" });
            out.push_str(&"  ".repeat(depth + 1));
            write(out, item);
        }
        if !empty {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
        out.push(close);
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_parser_reads_it() {
        let value = Json::Object(vec![
            ("text", Json::text("a\"b\\c\n\u{1}é")),
            ("list", Json::List(vec![Json::Number(-1), Json::Bool(true), Json::Null])),
            ("empty", Json::List(vec![])),
        ]);
        let parsed: serde_json::Value = serde_json::from_str(&value.render()).unwrap();
        let expected = serde_json::json!({"text": "a\"b\\c\n\u{1}é", "list": [-1, true, null], "empty": []});
        assert_eq!(parsed, expected);
    }
}
