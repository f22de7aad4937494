//! What names a directory on an NFS server: in parameters, contexts and identifiers.
//!
//! The keys are those of the field's NFS driver (csi-driver-nfs): `server`, `share`, `subDir`. Nothing here is a path of
//! this node, and none of it can climb: a share is absolute, a directory in it relative, neither has `..`.

use crate::{backend::Texts, error::Fault, id::VolumeId};
use std::{fmt, net::Ipv6Addr};

/// Key of the server: a name or an address, with a port behind it if it is not NFS' own.
pub(super) const SERVER: &str = "server";
/// Key of the exported path.
pub(super) const SHARE: &str = "share";
/// Key of the directory below it.
pub(super) const SUB_DIR: &str = "subDir";
/// Between the parts of an identifier.
const SEPARATOR: char = '#';

/// An export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    host: String,
    port: Option<u16>,
    share: String,
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
        Ok(Self { host: host.to_owned(), port, share })
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

    /// The mount option that its port needs.
    pub(super) fn option(&self) -> Option<String> {
        self.port.map(|port| format!("port={port}"))
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

    /// The identifier of a volume in it.
    ///
    /// # Errors
    /// [`Fault::Invalid`] if it is longer than an identifier may be.
    pub(super) fn id(&self, below: &SubDir) -> Result<VolumeId, Fault> {
        VolumeId::parse(&[&self.server(), &self.share, &below.0].map(String::as_str).join("#"))
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

    /// The path.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An identifier's parts; `None` if this driver gave it to no volume.
pub(super) fn of_id(id: &VolumeId) -> Option<(Export, SubDir)> {
    let mut parts = id.as_str().split(SEPARATOR);
    let (server, share, below) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (export, below) = (Export::new(server, share).ok()?, SubDir::parse(below).ok()?);
    // One volume has one identifier.
    (export.id(&below).ok()? == *id).then_some((export, below))
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
            assert_eq!(export.option(), server.ends_with(":20490").then(|| "port=20490".to_owned()));
            let id = export.id(&below).unwrap();
            assert_eq!(of_id(&id), Some((export.clone(), below.clone())));
            assert_eq!(Export::parse(&export.context(&below)).unwrap(), export);
        }
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
        assert_eq!(SubDir::of(&texts(&[])).unwrap(), None);
        assert!(SubDir::of(&texts(&[("subDir", "..")])).is_err());
    }

    #[test]
    fn identifiers_of_others_are_not_ours() {
        for id in ["a", "a#/b", "a#/b#c#d", "a#/b#..", "a#b#c", "a#/b/#c", "[::1]#/b#c", "a#/b#c/"] {
            assert_eq!(of_id(&VolumeId::parse(id).unwrap()), None, "{id}");
        }
    }
}
