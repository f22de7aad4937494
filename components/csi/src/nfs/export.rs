//! What names a directory on an NFS server: in parameters, contexts and identifiers.
//!
//! The keys are those of the field's NFS driver (csi-driver-nfs): `server`, `share`, `subDir`. Nothing here is a path of
//! this node, and none of it can climb: a share is absolute, a directory in it relative, neither has `..`.

use crate::{
    access::Access,
    backend::Texts,
    error::Fault,
    id::VolumeId,
    mount::{MountOptions, OptionSet},
};
use std::{fmt, net::Ipv6Addr};

/// Key of the server: a name or an address, with a port behind it if it is not NFS' own.
pub(super) const SERVER: &str = "server";
/// Key of the exported path.
pub(super) const SHARE: &str = "share";
/// Key of the directory below it.
pub(super) const SUB_DIR: &str = "subDir";
/// Between the parts of an identifier.
const SEPARATOR: char = '#';
/// Options of nfs(5) without which a server may not be reached, or not be understood. An identifier has them, for a volume is
/// removed by nothing else.
const REACHING: [&str; 12] = [
    "vers",
    "nfsvers",
    "minorversion",
    "proto",
    "port",
    "sec",
    "resvport",
    "noresvport",
    "mountport",
    "mountproto",
    "mountvers",
    "xprtsec",
];

/// An export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    host: String,
    port: Option<u16>,
    share: String,
    /// Options by which it is reached, as mount flags have them: `vers=4.1`.
    options: Vec<String>,
}

/// A directory below an export: a relative path of ordinary names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubDir(String);

impl Export {
    /// From parameters or a context.
    ///
    /// # Errors
    /// [`Fault::Invalid`], naming the key.
    pub(super) fn parse(texts: &Texts) -> Result<Self, Fault> {
        let value = |key: &str| {
            let value = texts.get(key).map(String::as_str).filter(|value| !value.is_empty());
            value.ok_or_else(|| {
                Fault::Invalid(format!("the parameter {key} is missing: an NFS volume has one"))
            })
        };
        Self::new(value(SERVER)?, value(SHARE)?)
    }

    fn new(server: &str, share: &str) -> Result<Self, Fault> {
        let (host, port) = place(server)
            .ok_or_else(|| Fault::Invalid(format!("{SERVER} {server:?} is not HOST or HOST:PORT")))?;
        let rest = share.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
        match rest {
            Some("") => {}
            Some(rest) if is_path(rest) => {}
            _ => {
                return Err(Fault::Invalid(format!(
                    "{SHARE} {share:?} is not an absolute path without . and .."
                )));
            }
        }
        let share = format!("/{}", rest.unwrap_or_default());
        Ok(Self { host: host.to_owned(), port, share, options: Vec::new() })
    }

    /// Reached by what these mount flags say of that.
    ///
    /// # Errors
    /// [`Fault::Invalid`] if an identifier cannot have one.
    pub(super) fn reached_by(self, flags: &MountOptions) -> Result<Self, Fault> {
        let reaching = |flag: &String| REACHING.contains(&flag.split('=').next().unwrap_or_default());
        let options: Vec<String> = written(flags).filter(reaching).collect();
        match options.iter().find(|option| option.contains(SEPARATOR)) {
            Some(wrong) => Err(Fault::Invalid(format!("the mount option {wrong:?} has a {SEPARATOR} in it"))),
            None => Ok(Self { options, ..self }),
        }
    }

    /// Reached as a capability says.
    ///
    /// # Errors
    /// As [`Self::reached_by`].
    pub(super) fn used_by(self, access: &[Access]) -> Result<Self, Fault> {
        match access.iter().find_map(Access::mount) {
            Some(mount) => self.reached_by(&mount.options),
            None => Ok(self),
        }
    }

    /// Reached as it was when a volume was made.
    pub(super) fn reached_with(self, options: &[String]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// As in parameters.
    fn server(&self) -> String {
        match (self.bracketed(), self.port) {
            (_, None) => self.host.clone(),
            (host, Some(port)) => format!("{host}:{port}"),
        }
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// The mount options that it needs; its own port has the last word.
    pub(super) fn options(&self) -> impl Iterator<Item = String> {
        self.options.iter().cloned().chain(self.port.map(|port| format!("port={port}")))
    }

    /// Options by which it is reached.
    pub(super) fn reaching(&self) -> &[String] {
        &self.options
    }

    /// As mount.nfs(8) takes it, with a directory below.
    pub(super) fn source(&self, below: Option<&SubDir>) -> String {
        let host = self.bracketed();
        match below {
            None => format!("{host}:{}", self.share),
            Some(SubDir(below)) => format!("{host}:{}/{below}", self.share.trim_end_matches('/')),
        }
    }

    /// What a volume's context says of it.
    pub(super) fn context(&self, below: &SubDir) -> Texts {
        let entries = [(SERVER, self.server()), (SHARE, self.share.clone()), (SUB_DIR, below.0.clone())];
        entries.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// The identifier of a volume in it: server, share, directory, and the options by which it is reached, if there are any.
    ///
    /// # Errors
    /// [`Fault::Invalid`] if it is longer than an identifier may be.
    pub(super) fn id(&self, below: &SubDir) -> Result<VolumeId, Fault> {
        let mut text = [&self.server(), &self.share, &below.0].map(String::as_str).join("#");
        if !self.options.is_empty() {
            text.push(SEPARATOR);
            text.push_str(&self.options.join(","));
        }
        VolumeId::parse(&text)
    }
}

impl fmt::Display for Export {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.source(None))
    }
}

impl SubDir {
    /// From a parameter or a name.
    ///
    /// # Errors
    /// [`Fault::Invalid`].
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let trimmed = text.trim_matches('/');
        if is_path(trimmed) && !text.starts_with('/') {
            return Ok(Self(trimmed.to_owned()));
        }
        Err(Fault::Invalid(format!(
            "{SUB_DIR} {text:?} is not a relative path of names that do not begin with `.`"
        )))
    }

    /// From a context, where it may be absent: then the volume is the share.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(super) fn of(context: &Texts) -> Result<Option<Self>, Fault> {
        let value = context.get(SUB_DIR).map(String::as_str).filter(|value| !value.is_empty());
        value.map(Self::parse).transpose()
    }

    /// The directories that it is in.
    pub(super) fn around(&self) -> impl Iterator<Item = Self> {
        self.0.match_indices('/').map(|(at, _)| Self(self.0[..at].to_owned()))
    }

    /// The path.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An identifier's parts; `None` if this driver gave it to no volume.
pub(super) fn of_id(id: &VolumeId) -> Option<(Export, SubDir)> {
    let parts: Vec<&str> = id.as_str().split(SEPARATOR).collect();
    let (server, share, below, options) = match parts[..] {
        [server, share, below] => (server, share, below, Vec::new()),
        [server, share, below, options] => (server, share, below, vec![options.to_owned()]),
        _ => return None,
    };
    let options = MountOptions::parse(&options, OptionSet::NFS).ok()?;
    let export = Export::new(server, share).and_then(|export| export.reached_by(&options)).ok()?;
    let below = SubDir::parse(below).ok()?;
    // One volume has one identifier.
    (export.id(&below).ok()? == *id).then_some((export, below))
}

/// What flags give to the file system, as mount(8) has it.
pub(super) fn written(flags: &MountOptions) -> impl Iterator<Item = String> {
    flags.settings().map(|(key, value)| value.map_or(key.to_owned(), |value| format!("{key}={value}")))
}

/// Host and port.
fn place(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            Some((host, if after.is_empty() { None } else { Some(port(after.strip_prefix(':')?)?) }))
        }
        None if text.parse::<Ipv6Addr>().is_ok() => Some((text, None)),
        None => {
            let (host, number) = match text.split_once(':') {
                Some((host, number)) => (host, Some(port(number)?)),
                None => (text, None),
            };
            is_host(host).then_some((host, number))
        }
    }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
}

/// Ordinary names with `/` between them. Hidden ones are the driver's and the server's own.
fn is_path(text: &str) -> bool {
    text.len() <= 255
        && text.split('/').all(|name| {
            !name.is_empty()
                && !name.starts_with('.')
                && !name.contains(|c: char| c.is_control() || c == SEPARATOR)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(entries: &[(&str, &str)]) -> Texts {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn exports_are_read_and_written_as_mount_has_them() {
        for (server, share, source) in [
            ("nfs.example", "/export/a", "nfs.example:/export/a/v/1"),
            ("192.0.2.7", "/", "192.0.2.7:/v/1"),
            ("[2001:db8::7]", "/a//".trim_end_matches('/'), "[2001:db8::7]:/a/v/1"),
            ("2001:db8::7", "/a/", "[2001:db8::7]:/a/v/1"),
            ("nfs.example:20490", "/a", "nfs.example:/a/v/1"),
            ("[2001:db8::7]:20490", "/a", "[2001:db8::7]:/a/v/1"),
        ] {
            let export = Export::parse(&texts(&[("server", server), ("share", share)])).unwrap();
            let below = SubDir::parse("v/1/").unwrap();
            assert_eq!(export.source(Some(&below)), source);
            let port = server.ends_with(":20490").then(|| "port=20490".to_owned());
            assert_eq!(export.options().collect::<Vec<_>>(), Vec::from_iter(port));
            let id = export.id(&below).unwrap();
            assert_eq!(of_id(&id), Some((export.clone(), below.clone())));
            assert_eq!(Export::parse(&export.context(&below)).unwrap(), export);
        }
    }

    #[test]
    fn what_reaches_a_server_is_in_the_identifier() {
        let flags = |text: &str| MountOptions::parse(&[text.to_owned()], OptionSet::NFS).unwrap();
        let export = Export::parse(&texts(&[("server", "a:20490"), ("share", "/b")])).unwrap();
        let below = SubDir::parse("c").unwrap();
        let export = export.reached_by(&flags("vers=3,noatime,nconnect=4,noresvport,hard,ro")).unwrap();
        assert_eq!(export.options().collect::<Vec<_>>(), ["vers=3", "noresvport", "port=20490"]);
        let id = export.id(&below).unwrap();
        assert_eq!(id.as_str(), "a:20490#/b#c#vers=3,noresvport");
        assert_eq!(of_id(&id), Some((export.clone(), below)));
        assert!(matches!(export.reached_by(&flags("sec=a#b")), Err(Fault::Invalid(_))));
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for (server, share) in [
            ("", "/a"),
            ("a b", "/a"),
            ("a:/b", "/a"),
            ("a:0", "/a"),
            ("a:b", "/a"),
            ("[a]:1", "/a"),
            ("-o", "/a"),
            ("a", ""),
            ("a", "relative"),
            ("a", "/a/../b"),
            ("a", "/a/./b"),
            ("a", "/.hidden"),
            ("a", "/a#b"),
            ("a", "/a\nb"),
        ] {
            let error = Export::parse(&texts(&[("server", server), ("share", share)])).unwrap_err();
            assert!(matches!(error, Fault::Invalid(_)), "{server} {share}: {error}");
        }
        for below in ["", "/", "/a", "..", "a/..", "a/../b", ".cairn-csi", "a/.b", "a//b", "a#b", "a\0"] {
            assert!(SubDir::parse(below).is_err(), "{below}");
        }
        let around: Vec<String> = SubDir::parse("a/b/c").unwrap().around().map(|sub| sub.0).collect();
        assert_eq!(around, ["a", "a/b"]);
        assert_eq!(SubDir::of(&texts(&[])).unwrap(), None);
        assert!(SubDir::of(&texts(&[("subDir", "..")])).is_err());
    }

    #[test]
    fn identifiers_of_others_are_not_ours() {
        for id in [
            "a",
            "a#/b",
            "a#/b#c#d",
            "a#/b#c#",
            "a#/b#c#soft",
            "a#/b#c#vers=4,,vers=4",
            "a#/b#c#vers=4#d",
            "a#/b#c#sloppy",
            "a#/b#..",
            "a#b#c",
            "a#/b/#c",
            "[::1]#/b#c",
            "a#/b#c/",
        ] {
            assert_eq!(of_id(&VolumeId::parse(id).unwrap()), None, "{id}");
        }
    }
}
