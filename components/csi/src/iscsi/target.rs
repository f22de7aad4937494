//! What names a unit of an iSCSI target: a volume's context and the secrets that go with it.
//!
//! The keys are those of the field's iSCSI driver (csi-driver-iscsi): `targetPortal`, `portals` (a JSON list), `iqn`, `lun`,
//! `sessionCHAPAuth`; the secrets are those of Kubernetes' type `kubernetes.io/iscsi-chap`.

use crate::{backend::Texts, error::Fault, id::Secrets};
use cairn_contract::machine::is_iscsi_name;
use std::{collections::BTreeSet, fmt, net::Ipv6Addr};

const TARGET_PORTAL: &str = "targetPortal";
const PORTALS: &str = "portals";
const IQN: &str = "iqn";
const LUN: &str = "lun";
const SESSION_CHAP: &str = "sessionCHAPAuth";
/// The port of a portal that names none (RFC 7143, section 4.2.7).
const PORT: u16 = 3260;
/// Bytes of a portal's name: with a port behind it, it is the name of a file of open-iscsi's.
const LONGEST_HOST: usize = 249;
/// The largest number that fits SAM's flat addressing, which every target knows.
const LARGEST_LUN: u16 = 16383;
/// Ways to one unit; more are a mistake.
const MOST_PORTALS: usize = 16;

const USER: &str = "node.session.auth.username";
const SECRET: &str = "node.session.auth.password";
const USER_IN: &str = "node.session.auth.username_in";
const SECRET_IN: &str = "node.session.auth.password_in";

/// One way to a target: host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Portal {
    /// IP address, without brackets, or name.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
}

/// A unit of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// iSCSI name.
    pub(super) iqn: String,
    /// At least one.
    pub(super) portals: Vec<Portal>,
    /// Number of the unit.
    pub(super) lun: u16,
    /// The target wants to know who we are.
    pub(super) chap: bool,
}

/// Who we are to a target, and who it has to be to us.
#[derive(Clone)]
pub(super) struct Chap<'s> {
    /// Our name and secret.
    pub(super) ours: (&'s str, &'s str),
    /// The target's, if it has to show them.
    pub(super) theirs: Option<(&'s str, &'s str)>,
}

impl Target {
    /// From a volume's context.
    ///
    /// # Errors
    /// [`Fault::Invalid`], naming the key.
    pub(super) fn parse(context: &Texts) -> Result<Self, Fault> {
        let value = |key: &str| context.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let missing = |key: &str| Fault::Invalid(format!("{key} is missing in the volume's attributes"));
        let iqn = value(IQN).ok_or_else(|| missing(IQN))?;
        if !is_iscsi_name(iqn) {
            return Err(Fault::Invalid(format!(
                "{IQN} {iqn:?} is no iSCSI name such as iqn.2026-11.org.example:disks"
            )));
        }
        let lun = value(LUN).ok_or_else(|| missing(LUN))?;
        let lun = lun.parse().ok().filter(|lun| *lun <= LARGEST_LUN);
        let lun =
            lun.ok_or_else(|| Fault::Invalid(format!("{LUN} is not a number from 0 to {LARGEST_LUN}")))?;
        let mut portals = BTreeSet::new();
        portals.extend(value(TARGET_PORTAL).map(|text| Portal::parse(text, TARGET_PORTAL)).transpose()?);
        if let Some(list) = value(PORTALS) {
            let list: Vec<String> = serde_json::from_str(list).map_err(|error| {
                Fault::Invalid(format!("{PORTALS} is not a JSON list such as [\"192.0.2.7:3260\"]: {error}"))
            })?;
            for text in list {
                portals.insert(Portal::parse(&text, PORTALS)?);
            }
        }
        match portals.len() {
            0 => return Err(missing(TARGET_PORTAL)),
            1..=MOST_PORTALS => {}
            many => {
                return Err(Fault::Invalid(format!(
                    "{PORTALS} has {many} ways; at most {MOST_PORTALS} are used"
                )));
            }
        }
        let chap = match value(SESSION_CHAP) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(Fault::Invalid(format!("{SESSION_CHAP} {other:?} is not true or false")));
            }
        };
        Ok(Self { iqn: iqn.to_owned(), portals: portals.into_iter().collect(), lun, chap })
    }

    /// The secrets, if the target wants any.
    ///
    /// # Errors
    /// [`Fault::Denied`] if one is missing.
    pub(super) fn chap<'s>(&self, secrets: &'s Secrets) -> Result<Option<Chap<'s>>, Fault> {
        let value = |key: &str| match secrets.get(key) {
            Some(text) if text.is_empty() || text.chars().any(char::is_control) => {
                Err(Fault::Denied(format!("the secret {key} is empty or has control characters")))
            }
            found => Ok(found),
        };
        let pair = |user, secret| match (value(user)?, value(secret)?) {
            (Some(name), Some(word)) => Ok(Some((name, word))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Fault::Denied(format!("the secret {user} is missing"))),
            (Some(_), None) => Err(Fault::Denied(format!("the secret {secret} is missing"))),
        };
        let (ours, theirs) = (pair(USER, SECRET)?, pair(USER_IN, SECRET_IN)?);
        match ours {
            Some(ours) => Ok(Some(Chap { ours, theirs })),
            None if self.chap => Err(Fault::Denied(format!(
                "{SESSION_CHAP} is true, and the volume's stage secret has no {USER} and {SECRET}"
            ))),
            None => Ok(None),
        }
    }
}

impl Portal {
    fn parse(text: &str, key: &str) -> Result<Self, Fault> {
        let wrong =
            || Fault::Invalid(format!("{key} {text:?} is not HOST or HOST:PORT such as 192.0.2.7:3260"));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
                host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(wrong)?) })
            }
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-.:".contains(&b);
        if host.is_empty()
            || host.len() > LONGEST_HOST
            || host.starts_with(['-', '.'])
            || !host.bytes().all(harmless)
        {
            return Err(wrong());
        }
        let port = match port {
            None => PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// As iscsiadm(8) takes it.
impl fmt::Display for Portal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Chap<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CHAP as {}", self.ours.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[(&str, &str)]) -> Result<Target, Fault> {
        let usual = [("iqn", "iqn.2026-11.test:a"), ("lun", "1"), ("targetPortal", "192.0.2.7")];
        let mut context: Texts = usual.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        context.extend(entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Target::parse(&context)
    }

    #[test]
    fn targets_are_understood() {
        let target =
            parse(&[("portals", "[\"[2001:db8::7]:3261\", \"192.0.2.7:3260\", \"b.example\"]")]).unwrap();
        let portals: Vec<String> = target.portals.iter().map(ToString::to_string).collect();
        // The first is also in the list: it is one way.
        assert_eq!(portals, ["192.0.2.7:3260", "[2001:db8::7]:3261", "b.example:3260"]);
        assert_eq!((target.lun, target.chap), (1, false));
        assert!(parse(&[("sessionCHAPAuth", "true")]).unwrap().chap);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        for (key, value) in [
            ("iqn", ""),
            ("iqn", "../../etc"),
            ("iqn", "iqn.2026-11.test:a/../b"),
            ("lun", ""),
            ("lun", "-1"),
            ("lun", "16384"),
            ("targetPortal", "a b"),
            ("targetPortal", "-o"),
            ("targetPortal", "a:0"),
            ("targetPortal", "a:3260,1"),
            ("targetPortal", "../x"),
            ("portals", "192.0.2.7"),
            ("portals", "[\"\"]"),
            ("sessionCHAPAuth", "yes"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err();
            assert!(matches!(&error, Fault::Invalid(text) if text.contains(key)), "{key} {value}: {error}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("192.0.2.{n}")).collect();
        assert!(parse(&[("portals", &serde_json::to_string(&many).unwrap())]).is_err());
    }

    #[test]
    fn secrets_come_in_pairs_and_are_not_shown() {
        let target = parse(&[("sessionCHAPAuth", "true")]).unwrap();
        let secrets = |entries: &[(&str, &str)]| {
            Secrets::from(entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
        };
        let denied = |held: &Secrets| target.chap(held).unwrap_err().to_string();
        assert!(denied(&secrets(&[])).contains("no node.session.auth.username"));
        assert!(denied(&secrets(&[(USER, "a")])).contains("node.session.auth.password is missing"));
        assert!(denied(&secrets(&[(USER, "a"), (SECRET, "x\ny")])).contains("control characters"));
        let held = secrets(&[(USER, "a"), (SECRET, "hidden"), (USER_IN, "t"), (SECRET_IN, "other")]);
        let chap = target.chap(&held).unwrap().unwrap();
        assert_eq!((chap.ours, chap.theirs), (("a", "hidden"), Some(("t", "other"))));
        assert!(!format!("{chap:?}").contains("hidden"));
    }
}
