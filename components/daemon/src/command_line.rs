//! What a daemon's command line asks for.

use crate::config::Form;
use std::{ffi::OsString, path::PathBuf};

/// What it asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Serve(PathBuf),
    PrintDefault,
    Check(PathBuf),
    Help,
    Version,
}

impl Command {
    /// `None` when it makes no sense. Without a word of it, the configuration is the `usual` one.
    pub(crate) fn parse(arguments: &[OsString], usual: &str) -> Option<Self> {
        let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
        Some(match words.as_slice() {
            [] => Self::Serve(usual.into()),
            ["--config", _] => Self::Serve(arguments[1].clone().into()),
            ["config", "default"] => Self::PrintDefault,
            ["config", "check", _] => Self::Check(arguments[2].clone().into()),
            ["--help" | "-h" | "help"] => Self::Help,
            ["--version"] => Self::Version,
            _ => return None,
        })
    }
}

/// The help. `serves` follows "serve"; `example` is a further command, or empty.
pub(crate) fn usage(form: &Form, serves: &str, example: &str) -> String {
    let Form { program, usual, .. } = form;
    let mut text = format!(
        "\
usage: {program} [--config PATH]     serve {serves}
       {program} config default      print the default configuration, with what each key means
       {program} config check PATH   check a configuration
       {program} --help | --version

example: {program} config default > {usual}
         {program} --config {usual}
"
    );
    if !example.is_empty() {
        text += &format!("         {example}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_to_do() {
        let parse = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            Command::parse(&words, "/usual")
        };
        for (line, command) in [
            ("", Command::Serve("/usual".into())),
            ("--config /x", Command::Serve("/x".into())),
            ("config default", Command::PrintDefault),
            ("config check /x", Command::Check("/x".into())),
            ("help", Command::Help),
            ("--version", Command::Version),
        ] {
            assert_eq!(parse(line), Some(command), "{line}");
        }
        for bad in ["--config", "config", "config check", "serve", "--config /x y"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_help_has_its_examples_below_each_other() {
        let form = Form { program: "cairn-x", usual: "/etc/x.toml", keys: &[] };
        let text = usage(&form, "X", "xctl info");
        assert!(
            text.starts_with("usage: cairn-x [--config PATH]     serve X\n       cairn-x config default ")
        );
        assert!(text.ends_with(
            "\nexample: cairn-x config default > /etc/x.toml\n         cairn-x --config /etc/x.toml\n         xctl info\n"
        ));
        assert!(usage(&form, "X", "").ends_with("--config /etc/x.toml\n"));
    }
}
