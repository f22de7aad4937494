//! apt's configuration syntax (apt.conf(5)): `A::B "value";` and nested `A { B "value"; };`.
//!
//! Only what a downloader needs is kept: every scalar by its full name, the last one written winning.

use std::{collections::BTreeMap, fs, io, path::Path};

/// Values by full name in lower case: `acquire::http::proxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AptConf(BTreeMap<String, String>);

impl AptConf {
    /// Reads `etc/apt/apt.conf.d/*` and `etc/apt/apt.conf` below `root`, in apt's order.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub fn load(root: &Path) -> io::Result<Self> {
        let mut conf = Self::default();
        for path in super::sources::parts(&root.join("etc/apt/apt.conf.d"), &["", "conf"])? {
            conf.read(&fs::read_to_string(path)?);
        }
        match fs::read_to_string(root.join("etc/apt/apt.conf")) {
            Ok(text) => conf.read(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(conf)
    }

    /// The value of this full name, in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(&name.to_lowercase()).map(String::as_str)
    }

    /// Values whose full name begins with this, with the rest of the name.
    pub fn below<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = (&'c str, &'c str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    /// Reads one file. apt is lenient about what it does not know, and so is this.
    fn read(&mut self, text: &str) {
        let mut scopes: Vec<String> = Vec::new();
        let mut words: Vec<String> = Vec::new();
        for token in Tokens(text) {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => scopes.push(words.drain(..).next().unwrap_or_default()),
                Token::Close => {
                    words.clear();
                    scopes.pop();
                }
                Token::End => {
                    if let [name, value] = words.as_slice() {
                        let full =
                            scopes.iter().chain([name]).map(String::as_str).collect::<Vec<_>>().join("::");
                        self.0.insert(full.to_lowercase(), value.clone());
                    }
                    words.clear();
                }
            }
        }
    }
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

struct Tokens<'t>(&'t str);

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            self.0 = self.0.trim_start();
            if self.0.starts_with("//") || self.0.starts_with('#') {
                self.0 = self.0.split_once('\n').map_or("", |(_, rest)| rest);
            } else if self.0.starts_with("/*") {
                self.0 = self.0.split_once("*/").map_or("", |(_, rest)| rest);
            } else {
                break;
            }
        }
        let first = self.0.chars().next()?;
        let (token, end) = match first {
            '{' => (Token::Open, 1),
            '}' => (Token::Close, 1),
            ';' => (Token::End, 1),
            '"' => {
                let end = self.0[1..].find('"').map_or(self.0.len(), |end| end + 1);
                (Token::Word(self.0[1..end].to_owned()), (end + 1).min(self.0.len()))
            }
            _ => {
                let stop = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"');
                let end = self.0.find(stop).unwrap_or(self.0.len());
                (Token::Word(self.0[..end].to_owned()), end)
            }
        };
        self.0 = &self.0[end..];
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_comments_are_read() {
        let mut conf = AptConf::default();
        conf.read(
            "// no\n# no\n/* Acquire::http::Proxy \"no\"; */\nAcquire::http::Proxy \"http://proxy:3142\";\n\
             Acquire { Check-Valid-Until \"false\"; http { Proxy { mirror.example DIRECT; }; }; Languages { \"a\"; }; };\n\
             DPkg::Post { \"rm -f {a;b}; true\"; };",
        );
        assert_eq!(conf.get("Acquire::HTTP::Proxy"), Some("http://proxy:3142"));
        assert_eq!(conf.get("Acquire::Check-Valid-Until"), Some("false"));
        let hosts: Vec<_> = conf.below("acquire::http::proxy::").collect();
        assert_eq!(hosts, [("mirror.example", "DIRECT")]);
        assert_eq!(conf.0.len(), 3);
    }

    #[test]
    fn broken_text_ends_the_reading() {
        let mut conf = AptConf::default();
        conf.read("A::B \"unfinished");
        conf.read("} } ; {");
        assert_eq!(conf, AptConf::default());
    }
}
