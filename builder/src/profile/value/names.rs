//! Names and other text with a grammar.

use super::{InvalidValue, string_form};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Declares a checked string: its documentation, JSON Schema pattern, an example, the rule in words and the test.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $pattern:expr, $example:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidValue { text: text.to_owned(), expected: $expected })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        string_form!($name, $pattern, $example);
    };
}

text!(
    /// A profile's name, which is also its file's: `<name>.toml`.
    ProfileName,
    Some("^[a-z0-9][a-z0-9-]{0,31}$"),
    "worker",
    "a profile name: 1 to 32 lower-case letters, digits and `-`, not starting with `-`",
    |text| (1..=32).contains(&text.len()) && !text.starts_with('-') && all(text, |b| lower(b) || b == b'-')
);

text!(
    /// Version of the image; also its slots' label, `cairn_<version>`, which GPT limits to 36 characters.
    /// `_` and `+` are refused because slot labels and boot counters use them to separate fields.
    ImageVersion,
    Some("^[0-9]+(\\.[0-9]+)*([~^-][a-z0-9.]+)?$"),
    "1.4.2",
    "an image version such as 1.4.2 or 1.5.0~rc1: numbers joined by dots, then perhaps `~`, `^` or `-` and lower-case letters, digits and dots; 29 characters at most",
    |text| {
        let split = text.find(['~', '^', '-']);
        let (numbers, suffix) = text.split_at(split.unwrap_or(text.len()));
        text.len() <= 29
            && numbers.split('.').all(|part| !part.is_empty() && all(part, |b| b.is_ascii_digit()))
            && (split.is_none() || (suffix.len() > 1 && all(&suffix[1..], |b| lower(b) || b == b'.')))
    }
);

text!(
    /// A Debian binary package (Debian Policy 5.6.7).
    PackageName,
    Some("^[a-z0-9][a-z0-9+.-]+$"),
    "systemd",
    "a Debian package name: at least two lower-case letters, digits, `+`, `-` and `.`, starting with a letter or digit",
    |text| text.len() >= 2 && lower(text.as_bytes()[0]) && all(text, |b| lower(b) || b"+-.".contains(&b))
);

text!(
    /// A Debian suite or code name.
    Suite,
    Some("^[a-z][a-z0-9-]*$"),
    "trixie",
    "a Debian suite: lower-case letters, digits and `-`",
    |text| text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) && all(text, |b| lower(b) || b == b'-')
);

text!(
    /// A kernel module, without directory and `.ko`. `-` and `_` mean the same.
    ModuleName,
    Some("^[A-Za-z0-9_-]+$"),
    "iscsi_tcp",
    "a kernel module name: letters, digits, `_` and `-`, without directory and `.ko`",
    |text| !text.is_empty() && all(text, |b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
);

text!(
    /// One kernel argument, as it stands on the command line.
    KernelArgument,
    Some("^[!-~]+$"),
    "quiet",
    "one kernel argument: printable ASCII without spaces, `key` or `key=value`",
    |text| !text.is_empty() && all(text, |b| b.is_ascii_graphic())
);

text!(
    /// A kernel parameter by its dotted name, `net.ipv4.ip_forward`.
    SysctlKey,
    Some("^[a-z0-9_]+(\\.[A-Za-z0-9_*-]+)+$"),
    "net.ipv4.ip_forward",
    "a kernel parameter: names joined by dots, such as net.ipv4.ip_forward",
    |text| {
        text.contains('.')
            && text.split('.').all(|part| !part.is_empty() && all(part, |b| b.is_ascii_alphanumeric() || b"_*-".contains(&b)))
    }
);

text!(
    /// CPUs as the kernel lists them, `2-7,10`.
    CpuList,
    Some("^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"),
    "2-7",
    "a CPU list such as 2-7,10: numbers and ascending ranges joined by commas",
    |text| text.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => matches!((from.parse::<u16>(), to.parse::<u16>()), (Ok(from), Ok(to)) if from < to),
        None => part.parse::<u16>().is_ok(),
    })
);

text!(
    /// A path in the image.
    AbsolutePath,
    Some("^/"),
    "/usr/bin/ping",
    "an absolute path without `.`, `..`, doubled or trailing slashes",
    |text| text.strip_prefix('/').is_some_and(|rest| {
        rest.is_empty() || rest.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
    })
);

text!(
    /// A path on the machine that builds. Relative ones start at the folder of the profile.
    HostPath,
    None,
    "../downloads/kubelet",
    "a path",
    |text| !text.is_empty() && !text.contains('\0')
);

text!(
    /// Target of an alternative: relative (to the link's folder) or absolute.
    Alternative,
    None,
    "/usr/bin/mawk",
    "the target of a link: a path without doubled slashes",
    |text| !text.is_empty() && !text.contains("//") && !text.contains('\0')
);

text!(
    /// An http or https URL.
    Url,
    Some("^https?://[^/]+"),
    "https://mirror.example/debian",
    "a URL: http:// or https://, a host, and perhaps a path",
    |text| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && all(rest, |b| b.is_ascii_graphic()))
    }
);

text!(
    /// A registry host as it stands in image names, port included.
    Host,
    Some("^[a-z0-9][a-z0-9.-]*(:[0-9]+)?$"),
    "registry.example:5000",
    "a registry host: a lower-case host name or IPv4 address, and perhaps `:port`",
    |text| {
        let (host, port) = text.split_once(':').unwrap_or((text, "1"));
        host.as_bytes().first().is_some_and(|b| lower(*b))
            && all(host, |b| lower(b) || b".-".contains(&b))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    }
);

text!(
    /// A full image reference: registry, repository, and a tag or digest (`distribution` reference grammar).
    ImageName,
    Some("^[a-z0-9][a-z0-9.-]*(:[0-9]+)?/[a-z0-9._/-]+(:[A-Za-z0-9_.-]+|@sha256:[0-9a-f]{64})$"),
    "cairn.local/probe:0.1.0",
    "a full image name: registry host, repository, and `:tag` or `@sha256:…`, such as cairn.local/probe:0.1.0",
    |text| {
        let Some((host, rest)) = text.split_once('/') else { return false };
        let (repository, reference) = match rest.split_once('@') {
            Some((repository, digest)) => (repository, digest.parse::<cairn_contract::digest::Sha256Digest>().is_ok()),
            None => match rest.rsplit_once(':') {
                Some((repository, tag)) => (repository, !tag.is_empty() && tag.len() <= 128 && all(tag, |b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))),
                None => return false,
            },
        };
        (host.contains(['.', ':']) || host == "localhost")
            && host.parse::<Host>().is_ok()
            && reference
            && repository.split('/').all(|part| !part.is_empty() && all(part, |b| lower(b) || b"._-".contains(&b)))
    }
);

text!(
    /// A CNI plugin's type: the name of its program.
    CniType,
    Some("^[a-z0-9-]+$"),
    "bridge",
    "a CNI plugin type: lower-case letters, digits and `-`",
    |text| !text.is_empty() && all(text, |b| lower(b) || b == b'-')
);

text!(
    /// A CNI network's name.
    NetworkName,
    Some("^[a-z0-9][a-z0-9-]*$"),
    "storage",
    "a network name: lower-case letters, digits and `-`, starting with a letter or digit",
    |text| text.as_bytes().first().is_some_and(|b| lower(*b)) && all(text, |b| lower(b) || b == b'-')
);

text!(
    /// A folder below `rootfs/`.
    OverlayName,
    Some("^[a-z0-9][a-z0-9-]*$"),
    "base",
    "a folder below rootfs/: lower-case letters, digits and `-`",
    |text| text.as_bytes().first().is_some_and(|b| lower(*b)) && all(text, |b| lower(b) || b == b'-')
);

text!(
    /// A program of ours: a cargo binary target, or the crate it is in.
    ProgramName,
    Some("^[a-z][a-z0-9-]*$"),
    "cairn-cri",
    "a program name: lower-case letters, digits and `-`, starting with a letter",
    |text| text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) && all(text, |b| lower(b) || b == b'-')
);

text!(
    /// A user or group.
    AccountName,
    Some("^[a-z_][a-z0-9_-]{0,30}$"),
    "systemd-network",
    "a user or group name: 1 to 31 lower-case letters, digits, `_` and `-`, starting with a letter or `_`",
    |text| {
        (1..=31).contains(&text.len())
            && (text.as_bytes()[0].is_ascii_lowercase() || text.starts_with('_'))
            && all(text, |b| lower(b) || b"_-".contains(&b))
    }
);

text!(
    /// File capabilities as setcap(8) reads them: names, then `=` or `+` with flags.
    FileCapability,
    Some("^cap_[a-z_]+(,cap_[a-z_]+)*[=+][eip]+$"),
    "cap_net_raw=ep",
    "file capabilities such as cap_net_raw=ep: names joined by commas, `=` or `+`, and flags out of e, i, p",
    |text| {
        let Some((names, flags)) = text.split_once(['=', '+']) else { return false };
        names.split(',').all(|name| {
            name.strip_prefix("cap_").is_some_and(|rest| !rest.is_empty() && all(rest, |b| b.is_ascii_lowercase() || b == b'_'))
        }) && !flags.is_empty()
            && all(flags, |b| b"eip".contains(&b))
    }
);

text!(
    /// A Kubernetes label key: perhaps a DNS prefix and one `/`, then a name.
    LabelKey,
    Some("^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"),
    "anuket.io/profile",
    "a label key: perhaps a lower-case DNS name and one `/`, then at most 63 letters, digits, `-`, `_` and `.`",
    |text| match text.split_once('/') {
        Some((prefix, name)) => {
            prefix.len() <= 253
                && prefix.split('.').all(|part| !part.is_empty() && all(part, |b| lower(b) || b == b'-'))
                && label_part(name)
        }
        None => label_part(text),
    }
);

text!(
    /// A Kubernetes label value.
    LabelValue,
    Some("^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$"),
    "true",
    "a label value: at most 63 letters, digits, `-`, `_` and `.`, starting and ending with a letter or digit",
    |text| text.is_empty() || label_part(text)
);

text!(
    /// A taint, `key=value:Effect` or `key:Effect`.
    Taint,
    Some("^[^=:]+(=[^:]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$"),
    "dedicated=database:NoSchedule",
    "a taint such as dedicated=database:NoSchedule; the effects are NoSchedule, PreferNoSchedule and NoExecute",
    |text| {
        let Some((rest, effect)) = text.rsplit_once(':') else { return false };
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute")
            && key.split('/').all(label_part)
            && (value.is_empty() || label_part(value))
    }
);

impl Taint {
    /// Key, value (may be empty) and effect.
    pub fn parts(&self) -> (&str, &str, &str) {
        let (rest, effect) = self.0.rsplit_once(':').unwrap_or((&self.0, ""));
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        (key, value, effect)
    }
}

text!(
    /// A CPU quantity as Kubernetes writes it.
    Quantity,
    Some("^[0-9]+(\\.[0-9]{1,3})?$|^[0-9]+m$"),
    "250m",
    "a CPU quantity such as 250m, 1 or 1.5",
    |text| match text.strip_suffix('m') {
        Some(milli) => milli.parse::<u32>().is_ok(),
        None => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            whole.parse::<u32>().is_ok() && (1..=3).contains(&fraction.len()) && all(fraction, |b| b.is_ascii_digit())
        }
    }
);

impl ImageName {
    /// The registry host.
    pub fn host(&self) -> &str {
        self.0.split_once('/').map_or("", |(host, _)| host)
    }
}

impl KernelArgument {
    /// What stands before `=`.
    pub fn key(&self) -> &str {
        self.0.split_once('=').map_or(&self.0, |(key, _)| key)
    }
}

impl ModuleName {
    /// The name as the kernel knows it, with `_`.
    pub fn canonical(&self) -> String {
        self.0.replace('-', "_")
    }
}

fn all(text: &str, valid: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(valid)
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn label_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
        && all(text, |b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<T: FromStr<Err = InvalidValue> + fmt::Display + fmt::Debug>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(text.parse::<T>().unwrap().to_string(), *text);
        }
        for text in bad {
            let message = text.parse::<T>().unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{text}` is not ")), "{message}");
        }
    }

    #[test]
    fn each_grammar_takes_its_own_and_refuses_the_rest() {
        table::<ProfileName>(
            &["worker", "high-performance", "9"],
            &["", "-a", "Worker", "a.b", &"a".repeat(33)],
        );
        table::<ImageVersion>(
            &["1", "0.1.0", "1.5.0~rc1", "2-1.b"],
            &["", "v1", "1.", "1.0_a", "1.0+3", "1~", "1.0~RC"],
        );
        table::<PackageName>(&["libstdc++6", "e2fsprogs", "0ad"], &["", "a", "Systemd", "-a", "a_b"]);
        table::<Suite>(&["trixie", "trixie-security"], &["", "13", "Trixie"]);
        table::<ModuleName>(&["iscsi_tcp", "dm-crypt", "8021q"], &["", "net/tun", "tun.ko"]);
        table::<KernelArgument>(&["quiet", "console=ttyS0,115200"], &["", "a b", "a\tb"]);
        table::<SysctlKey>(
            &["net.ipv4.ip_forward", "net.ipv4.conf.*.rp_filter"],
            &["", "swappiness", "vm..x", "net/ipv4"],
        );
        table::<CpuList>(&["0", "2-7", "2-3,6,8-9"], &["", "7-2", "2-", "a", "1,,2", "3-3"]);
        table::<AbsolutePath>(&["/", "/usr/bin/ping"], &["", "usr", "/a/../b", "/a//b", "/a/"]);
        table::<Url>(
            &["http://m.example", "https://m.example:1/x"],
            &["", "ftp://a", "http://", "http:///x", "http://a b"],
        );
        table::<Host>(&["docker.io", "10.0.2.2:5000"], &["", "a/b", "A.io", "a:0", "a:x"]);
        table::<ImageName>(
            &[
                "cairn.local/probe:0.1.0",
                "localhost/a/b:1",
                "r.io:5000/x:latest",
                &format!("r.io/x@sha256:{}", "0".repeat(64)),
            ],
            &[
                "",
                "busybox",
                "busybox:1",
                "library/busybox:1",
                "r.io/x",
                "r.io/X:1",
                "r.io/x@sha256:12",
                "r.io/x:",
            ],
        );
        table::<AccountName>(&["root", "_apt", "systemd-network"], &["", "1a", "Root", "a b"]);
        table::<FileCapability>(
            &["cap_net_raw=ep", "cap_net_raw,cap_net_admin+eip"],
            &["", "net_raw=ep", "cap_net_raw", "cap_net_raw=x", "cap_=e"],
        );
        table::<LabelKey>(&["a", "anuket.io/profile"], &["", "/a", "a/", "-a", "a b", "a/b/c", "A.io/a"]);
        table::<LabelValue>(&["", "true", "a.b"], &["-a", "a b", &"a".repeat(64)]);
        table::<Taint>(&["a=b:NoSchedule", "x.io/a:NoExecute"], &["", "a=b", "a:Never", "=b:NoSchedule"]);
        table::<Quantity>(&["250m", "1", "1.5"], &["", "m", "1.", "1Gi", "-1", "1.2345"]);
    }

    #[test]
    fn parts_are_found() {
        let taint: Taint = "dedicated=db:NoSchedule".parse().unwrap();
        assert_eq!(taint.parts(), ("dedicated", "db", "NoSchedule"));
        let image: ImageName = "r.io:5000/a/b:1".parse().unwrap();
        assert_eq!(image.host(), "r.io:5000");
        let argument: KernelArgument = "systemd.unit=a=b".parse().unwrap();
        assert_eq!(argument.key(), "systemd.unit");
    }
}
