//! The daemon's arguments: those of the reference plugin's, written as Go programs take them (`-timeout 10s`,
//! `--timeout=10s`).

use crate::dhcp::{client::Patience, config::DEFAULT_SOCKET};
use std::{path::PathBuf, time::Duration};

/// How it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    /// Where to write the process id, if anywhere; absolute.
    pub pid_file: Option<PathBuf>,
    /// What is put before paths of network namespaces and of the socket: where the host's root is.
    pub host_prefix: String,
    /// The socket, without the prefix.
    pub socket: PathBuf,
    /// Ask for answers by broadcast.
    pub broadcast: bool,
    /// How long to try.
    pub patience: Patience,
}

/// What is taken, for a usage text.
pub const USAGE: &str = "[-socketpath PATH] [-pidfile PATH] [-hostprefix PATH] [-broadcast] [-timeout 10s] \
                         [-resendmax 62s] [-resendtimeout 208s]";

impl Arguments {
    /// From what follows `daemon`. `Err` says what is wrong.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut arguments = Self {
            pid_file: None,
            host_prefix: String::new(),
            socket: DEFAULT_SOCKET.into(),
            broadcast: false,
            patience: Patience::default(),
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
            let flag = flag.ok_or_else(|| format!("unexpected argument {word:?}"))?;
            let (name, given) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            if name == "broadcast" {
                arguments.broadcast = match given {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(other) => return Err(format!("-broadcast {other:?} is neither true nor false")),
                };
                continue;
            }
            let mut value = || given.or_else(|| words.next()).ok_or_else(|| format!("-{name} needs a value"));
            match name {
                "pidfile" => arguments.pid_file = Some(value()?.into()).filter(|p: &PathBuf| p != ""),
                "hostprefix" => arguments.host_prefix = value()?.to_owned(),
                "socketpath" => {
                    let path = value()?;
                    arguments.socket = if path.is_empty() { DEFAULT_SOCKET } else { path }.into();
                }
                "timeout" => arguments.patience.request = duration(name, value()?)?,
                "resendmax" => arguments.patience.pause = duration(name, value()?)?,
                "resendtimeout" => arguments.patience.total = duration(name, value()?)?,
                _ => return Err(format!("unknown flag -{name}")),
            }
        }
        if let Some(path) = arguments.pid_file.as_ref().filter(|path| !path.is_absolute()) {
            return Err(format!("-pidfile {} is not an absolute path", path.display()));
        }
        Ok(arguments)
    }

    /// A path of the host, as this process sees it.
    pub fn on_host(&self, path: &std::path::Path) -> PathBuf {
        let mut whole = std::ffi::OsString::from(&self.host_prefix);
        whole.push(path);
        whole.into()
    }
}

/// `1m30s`, `1.5h`, `200ms`: a duration as Go writes it, and none below zero.
fn duration(flag: &str, text: &str) -> Result<Duration, String> {
    let wrong = || format!("-{flag} {text:?} is not a duration such as 10s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (digits, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        seconds += digits.parse::<f64>().map_err(|_| wrong())? * scale;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Duration::try_from_secs_f64(seconds).map_err(|_| wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn flags_are_taken_as_go_takes_them() {
        let words =
            "-pidfile /p --hostprefix=/host -socketpath /s -broadcast --timeout 1m1.5s -resendmax=200ms";
        let arguments = Arguments::parse(words.split(' ')).unwrap();
        assert_eq!(arguments.pid_file.as_deref(), Some(Path::new("/p")));
        assert_eq!(arguments.on_host(&arguments.socket), Path::new("/host/s"));
        assert!(arguments.broadcast);
        let patience = arguments.patience;
        assert_eq!(
            (patience.request, patience.pause),
            (Duration::from_millis(61_500), Duration::from_millis(200))
        );
        assert_eq!(patience.total, Patience::default().total);
        assert_eq!(Arguments::parse([]).unwrap().socket, Path::new(DEFAULT_SOCKET));
        assert!(!Arguments::parse(["-broadcast=false"]).unwrap().broadcast);
    }

    #[test]
    fn mistakes_are_named() {
        for (words, part) in [
            ("daemon", "unexpected"),
            ("-what", "unknown flag -what"),
            ("-timeout", "needs a value"),
            ("-timeout 10", "10"),
            ("-timeout 10x", "10x"),
            ("-timeout -1s", "-1s"),
            ("-timeout 99999999999999999999h", "duration"),
            ("-pidfile p", "absolute"),
            ("-broadcast=maybe", "maybe"),
        ] {
            let error = Arguments::parse(words.split(' ')).unwrap_err();
            assert!(error.contains(part), "{words}: {error}");
        }
    }
}
