//! The applets.

mod devices;
mod files;
mod identity;
mod load;
mod network;
mod output;
mod pause;
mod ping;
mod processes;
mod serve;

use crate::errno;
use std::{fmt, io, process::ExitCode, str::FromStr, time::Duration};

/// One applet: how it is called, what it is for, what it does.
pub(crate) struct Applet {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static str,
    pub(crate) purpose: &'static str,
    pub(crate) run: fn(&[&str]) -> Outcome,
}

/// What an applet comes to.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// Why an applet did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Called wrongly: exit status 2.
    Usage(String),
    /// Called rightly, and it did not work: exit status 1.
    Tried(String),
}

impl Failure {
    pub(crate) fn usage(why: impl fmt::Display) -> Self {
        Self::Usage(why.to_string())
    }

    pub(crate) fn tried(why: impl fmt::Display) -> Self {
        Self::Tried(why.to_string())
    }

    /// A system call on `what` failed; its error's name comes first.
    pub(crate) fn os(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::Tried(format!("{}: {what}: {error}", errno::name_of(error)))
    }
}

/// Nothing went wrong.
pub(crate) const DONE: Outcome = Ok(ExitCode::SUCCESS);

/// In the order of the help text; the first is the default.
pub(crate) const TABLE: &[Applet] = &[
    Applet {
        name: "pause",
        arguments: "",
        purpose: "wait for SIGTERM or SIGINT, reaping children as PID 1",
        run: pause::run,
    },
    Applet {
        name: "serve",
        arguments: "[--tcp PORT [--http | --sink]] [--udp PORT]",
        purpose: "echo servers on all addresses; on the TCP port with --http a web server, with --sink one that takes what comes and tells how many bytes it was; prints `ready`",
        run: serve::run,
    },
    Applet {
        name: "dial",
        arguments: "tcp|udp ADDRESS PORT TEXT [--timeout SECONDS]",
        purpose: "send TEXT to an echo server and expect it back; prints the milliseconds it took",
        run: network::dial,
    },
    Applet {
        name: "pour",
        arguments: "ADDRESS PORT SECONDS",
        purpose: "send to a sink (serve --sink) for so long; prints the megabits a second that arrived, as JSON",
        run: network::pour,
    },
    Applet {
        name: "ping",
        arguments: "ADDRESS [--timeout SECONDS]",
        purpose: "one ICMP echo, IPv4 or IPv6; prints the milliseconds it took",
        run: ping::run,
    },
    Applet {
        name: "http",
        arguments: "get http://HOST[:PORT]/PATH [--timeout SECONDS]",
        purpose: "HTTP/1.1 GET; prints the status line's code, then the body; fails from status 400 on",
        run: network::http,
    },
    Applet {
        name: "resolve",
        arguments: "NAME",
        purpose: "A and AAAA records by the servers in /etc/resolv.conf, search list included",
        run: network::resolve,
    },
    Applet {
        name: "ifconfig",
        arguments: "",
        purpose: "addresses and routes of this network namespace as JSON",
        run: network::ifconfig,
    },
    Applet { name: "hostname", arguments: "", purpose: "the host name", run: identity::hostname },
    Applet {
        name: "print",
        arguments: "LINES [--stderr] [--every MILLISECONDS]",
        purpose: "numbered lines, one by one",
        run: output::print,
    },
    Applet { name: "echo", arguments: "[WORD…]", purpose: "the words", run: output::echo },
    Applet { name: "env", arguments: "", purpose: "environment variables, sorted", run: output::env },
    Applet { name: "cat", arguments: "[FILE]", purpose: "a file, or stdin", run: files::cat },
    Applet {
        name: "ls",
        arguments: "DIRECTORY",
        purpose: "mode, owner, group, size and name of what is in a directory",
        run: files::ls,
    },
    Applet { name: "write", arguments: "FILE TEXT", purpose: "make FILE hold TEXT", run: files::write },
    Applet {
        name: "fill",
        arguments: "FILE BYTES[K|M|G] [--every MILLISECONDS]",
        purpose: "make FILE that long, piece by piece, and wait until it is on its disk; prints how long it became",
        run: files::fill,
    },
    Applet {
        name: "head",
        arguments: "FILE BYTES[K|M|G]",
        purpose: "the first bytes of a file or device",
        run: files::head,
    },
    Applet { name: "mkdir", arguments: "DIRECTORY", purpose: "make it with its parents", run: files::mkdir },
    Applet { name: "sync", arguments: "", purpose: "wait until all is on its disk", run: files::sync },
    Applet {
        name: "install",
        arguments: "SOURCE TARGET",
        purpose: "copy a file with its mode, beside TARGET and renamed over it",
        run: files::install,
    },
    Applet { name: "rm", arguments: "FILE", purpose: "remove a file", run: files::rm },
    Applet { name: "sha256", arguments: "FILE", purpose: "the SHA-256 of a file", run: files::sha256 },
    Applet { name: "mounts", arguments: "[--json]", purpose: "/proc/self/mountinfo", run: files::mounts },
    Applet {
        name: "open",
        arguments: "DEVICE",
        purpose: "try to open for reading and writing; says ok or why not",
        run: devices::open,
    },
    Applet {
        name: "syscall",
        arguments: "NAME | --list",
        purpose: "try one system call with harmless arguments; prints ok or the error's name",
        run: devices::syscall,
    },
    Applet {
        name: "id",
        arguments: "",
        purpose: "ids, groups, capabilities, no_new_privs, seccomp mode as JSON",
        run: identity::id,
    },
    Applet {
        name: "kill",
        arguments: "SIGNAL PROCESS-NAME",
        purpose: "signal every process of that name but itself",
        run: processes::kill,
    },
    Applet {
        name: "forks",
        arguments: "N",
        purpose: "fork until N children wait or the kernel refuses; prints how many there were",
        run: processes::forks,
    },
    Applet {
        name: "hog",
        arguments: "BYTES[K|M|G] [--hold SECONDS]",
        purpose: "touch that much memory, and keep it",
        run: load::hog,
    },
    Applet {
        name: "spin",
        arguments: "SECONDS [--threads N]",
        purpose: "burn CPU; prints the CPU seconds it got",
        run: load::spin,
    },
    Applet { name: "sleep", arguments: "SECONDS", purpose: "wait", run: output::sleep },
    Applet { name: "exit", arguments: "CODE", purpose: "exit with that status", run: output::exit },
];

/// Splits off `--flag` and `--name VALUE`; what is left is positional.
pub(crate) struct Options<'a> {
    positional: Vec<&'a str>,
    named: Vec<(&'a str, &'a str)>,
    flags: Vec<&'a str>,
}

impl<'a> Options<'a> {
    /// `valued` and `flags` are the options there are, without dashes. After `--` all is positional.
    pub(crate) fn parse(words: &[&'a str], valued: &[&str], flags: &[&str]) -> Result<Self, Failure> {
        let mut options = Self { positional: Vec::new(), named: Vec::new(), flags: Vec::new() };
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some("") => options.positional.extend(words.by_ref()),
                Some(name) if flags.contains(&name) => options.flags.push(name),
                Some(name) if valued.contains(&name) => {
                    let value =
                        words.next().ok_or_else(|| Failure::usage(format!("--{name} wants a value")))?;
                    options.named.push((name, value));
                }
                Some(name) => return Err(Failure::usage(format!("no option --{name}"))),
                None => options.positional.push(word),
            }
        }
        Ok(options)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flags.contains(&name)
    }

    pub(crate) fn value<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        self.named.iter().find(|(n, _)| *n == name).map(|(_, text)| number(name, text)).transpose()
    }

    /// Exactly N positional words.
    pub(crate) fn words<const N: usize>(&self) -> Result<[&'a str; N], Failure> {
        self.positional
            .as_slice()
            .try_into()
            .map_err(|_| Failure::usage(format!("{} arguments, not the {N} it takes", self.positional.len())))
    }

    pub(crate) fn timeout(&self, default_seconds: f64) -> Result<Duration, Failure> {
        seconds(self.value::<f64>("timeout")?.unwrap_or(default_seconds))
    }
}

/// Parses a value, naming what it is for.
pub(crate) fn number<T: FromStr>(what: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::usage(format!("{what}: `{text}` is not a valid value")))
}

/// A number of bytes, with K, M or G behind it or nothing.
pub(crate) fn bytes(text: &str) -> Result<usize, Failure> {
    let unit = match text.bytes().last().unwrap_or_default().to_ascii_uppercase() {
        b'K' => 1 << 10,
        b'M' => 1 << 20,
        b'G' => 1 << 30,
        _ => 1,
    };
    let digits = if unit == 1 { text } else { &text[..text.len() - 1] };
    let size = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    size.ok_or_else(|| Failure::usage(format!("`{text}` is no size such as 64M")))
}

/// A duration that is neither negative nor endless.
pub(crate) fn seconds(number: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(number)
        .map_err(|_| Failure::usage(format!("{number} is no number of seconds")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_words_come_apart() {
        let options =
            Options::parse(&["a", "--every", "5", "--stderr", "--", "--b"], &["every"], &["stderr"]).unwrap();
        assert_eq!(options.words::<2>().unwrap(), ["a", "--b"]);
        assert!(options.flag("stderr") && options.value::<u64>("every").unwrap() == Some(5));
        assert!(options.words::<1>().is_err());
        assert!(Options::parse(&["--every"], &["every"], &[]).is_err());
        assert!(Options::parse(&["--nothing"], &[], &[]).is_err());
        assert!(seconds(-1.0).is_err() && seconds(f64::NAN).is_err());
    }

    #[test]
    fn names_are_unique_and_pause_is_first() {
        assert_eq!(TABLE[0].name, "pause");
        for (index, applet) in TABLE.iter().enumerate() {
            assert!(!TABLE[index + 1..].iter().any(|other| other.name == applet.name), "{}", applet.name);
        }
    }
}
