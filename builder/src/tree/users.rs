//! Users and groups. Maintainer scripts make them with adduser or systemd-sysusers at install time; here they
//! are made at build time, from the `sysusers.d` files that the tree holds (packages' and ours; sysusers.d(5)).
//!
//! Numbers must not depend on the order of anything: entries with a fixed number keep it, the others get the
//! highest free number below 1000 in the order of file name and line, groups and users from one pool, as
//! systemd-sysusers does.

use super::{Content, Entries, Metadata, Node, NotADirectory};
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a `sysusers.d` file.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// A line that is not sysusers.d(5).
    #[error("{file}:{line}: {reason}")]
    Line {
        /// Path in the tree.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read.
    #[error("users and groups: {0}")]
    Io(#[from] std::io::Error),
    /// Something is in the way of /etc.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
    /// More system users than numbers.
    #[error("users and groups: no free number below 1000 for `{0}`")]
    Exhausted(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    gecos: String,
    home: String,
    shell: String,
}

/// What all files together declare.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, u32>,
    members: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Line {
    kind: char,
    name: String,
    id: Option<String>,
    gecos: String,
    home: Option<String>,
    shell: Option<String>,
}

impl Accounts {
    /// Reads files given as (path, text), in the order in which sysusers.d(5) reads them: by file name.
    ///
    /// # Errors
    /// The first line that is malformed, or numbers that run out.
    pub fn from_files(files: &[(String, String)]) -> Result<Self, UsersError> {
        let mut lines = Vec::new();
        for (file, text) in files {
            for (index, text) in text.lines().enumerate() {
                let text = text.trim();
                if text.is_empty() || text.starts_with('#') {
                    continue;
                }
                let wrong = |reason: String| UsersError::Line { file: file.clone(), line: index + 1, reason };
                lines.push(parse_line(text).map_err(wrong)?);
            }
        }
        let mut accounts = Self::default();
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        let fixed =
            |id: &Option<String>| id.as_deref().and_then(|t| t.split(':').next()?.parse::<u32>().ok());
        taken.extend(lines.iter().filter_map(|l| fixed(&l.id)));
        // Groups first: a user may name one as its primary group.
        for line in lines.iter().filter(|l| l.kind == 'g') {
            if !accounts.groups.contains_key(&line.name) {
                let gid = match fixed(&line.id) {
                    Some(gid) => gid,
                    None => allocate(&mut taken, &line.name)?,
                };
                accounts.groups.insert(line.name.clone(), gid);
            }
        }
        for line in lines.iter().filter(|l| l.kind == 'u') {
            accounts.add_user(line, fixed(&line.id), &mut taken)?;
        }
        for line in lines.iter().filter(|l| l.kind == 'm') {
            let group = line.id.clone().unwrap_or_default();
            if !accounts.groups.contains_key(&group) {
                let gid = allocate(&mut taken, &group)?;
                accounts.groups.insert(group.clone(), gid);
            }
            accounts.members.entry(group).or_default().insert(line.name.clone());
        }
        Ok(accounts)
    }

    fn add_user(
        &mut self,
        line: &Line,
        fixed: Option<u32>,
        taken: &mut BTreeSet<u32>,
    ) -> Result<(), UsersError> {
        if self.users.contains_key(&line.name) {
            return Ok(());
        }
        let uid = match (fixed, self.groups.get(&line.name)) {
            (Some(uid), _) => uid,
            (None, Some(gid)) => *gid,
            (None, None) => allocate(taken, &line.name)?,
        };
        // "uid:gid" or "uid:group" names another primary group than one of the user's own name.
        let primary = line.id.as_deref().and_then(|t| t.split_once(':')).map(|(_, group)| group.to_owned());
        let gid = match primary {
            Some(group) => group.parse().ok().or_else(|| self.groups.get(&group).copied()).unwrap_or(uid),
            None => *self.groups.entry(line.name.clone()).or_insert(uid),
        };
        let root = uid == 0;
        let default_shell = if root { "/bin/sh" } else { "/usr/sbin/nologin" };
        self.users.insert(
            line.name.clone(),
            User {
                uid,
                gid,
                gecos: line.gecos.clone(),
                home: line.home.clone().unwrap_or_else(|| if root { "/root".into() } else { "/".into() }),
                shell: line.shell.clone().unwrap_or_else(|| default_shell.into()),
            },
        );
        Ok(())
    }

    /// `/etc/passwd`, by number.
    pub fn passwd(&self) -> String {
        let mut users: Vec<_> = self.users.iter().collect();
        users.sort_by_key(|(name, user)| (user.uid, (*name).clone()));
        users
            .iter()
            .map(|(name, u)| format!("{name}:x:{}:{}:{}:{}:{}\n", u.uid, u.gid, u.gecos, u.home, u.shell))
            .collect()
    }

    /// `/etc/group`, by number.
    pub fn group(&self) -> String {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(name, gid)| (**gid, (*name).clone()));
        let members = |name: &str| {
            self.members
                .get(name)
                .map(|m| m.iter().cloned().collect::<Vec<_>>().join(","))
                .unwrap_or_default()
        };
        groups.iter().map(|(name, gid)| format!("{name}:x:{gid}:{}\n", members(name))).collect()
    }

    /// `/etc/shadow`: no account has a password, every one is locked.
    pub fn shadow(&self) -> String {
        self.users.keys().map(|name| format!("{name}:!*::0:99999:7:::\n")).collect()
    }

    /// `/etc/gshadow`: no group has a password.
    pub fn gshadow(&self) -> String {
        self.groups.keys().map(|name| format!("{name}:!*::\n")).collect()
    }
}

fn allocate(taken: &mut BTreeSet<u32>, name: &str) -> Result<u32, UsersError> {
    let free =
        (100..1000).rev().find(|n| !taken.contains(n)).ok_or_else(|| UsersError::Exhausted(name.into()))?;
    taken.insert(free);
    Ok(free)
}

fn parse_line(text: &str) -> Result<Line, String> {
    let fields = fields(text)?;
    let field = |n: usize| fields.get(n).filter(|f| !f.is_empty() && *f != "-").cloned();
    // `u!` makes a locked account; every account here is.
    let kind = match field(0).as_deref() {
        Some("u" | "u!") => 'u',
        Some("g") => 'g',
        Some("m") => 'm',
        Some("r") => 'r',
        other => {
            return Err(format!("`{}` is no line type; known are u, g, m and r", other.unwrap_or_default()));
        }
    };
    let name = field(1).ok_or("the name is missing")?;
    if kind == 'm' && field(2).is_none() {
        return Err("a line of type m wants a user and a group".into());
    }
    Ok(Line {
        kind,
        name,
        id: field(2),
        gecos: field(3).unwrap_or_default(),
        home: field(4),
        shell: field(5),
    })
}

/// Splits at white space; quoted fields may hold some.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or("a quote is not closed")?,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        fields.push(field.to_owned());
        rest = after.trim_start();
    }
    Ok(fields)
}

/// Makes the account files of `/etc` from the tree's `usr/lib/sysusers.d`. Gives back what was declared.
///
/// # Errors
/// [`UsersError`].
pub fn apply(root: &mut Node) -> Result<Accounts, UsersError> {
    let empty = Entries::new();
    let mut files = Vec::new();
    for (name, node) in root.get("usr/lib/sysusers.d").and_then(Node::entries).unwrap_or(&empty) {
        if let (Some(content), true) = (node.content(), name.ends_with(b".conf")) {
            let text = String::from_utf8_lossy(&content.read()?).into_owned();
            files.push((format!("/usr/lib/sysusers.d/{}", String::from_utf8_lossy(name)), text));
        }
    }
    let accounts = Accounts::from_files(&files)?;
    let shadow_gid = accounts.groups.get("shadow").copied().unwrap_or(0);
    for (path, mode, gid, text) in [
        ("etc/passwd", 0o644, 0, accounts.passwd()),
        ("etc/group", 0o644, 0, accounts.group()),
        ("etc/shadow", 0o640, shadow_gid, accounts.shadow()),
        ("etc/gshadow", 0o640, shadow_gid, accounts.gshadow()),
    ] {
        let content = Content::Bytes(text.into_bytes().into());
        root.insert(
            path,
            Node { meta: Metadata { gid, ..Metadata::root(mode) }, kind: super::Kind::File(content) },
        )?;
    }
    Ok(accounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(text: &str) -> Accounts {
        Accounts::from_files(&[("a.conf".into(), text.into())]).unwrap()
    }

    #[test]
    fn fixed_numbers_stay_and_free_ones_come_from_the_top() {
        let got = accounts(
            "g shadow 42\nu root 0 \"Super User\" /root /bin/sh\nu net - \"Net\"\ng adm -\nu time 999\nm net adm",
        );
        assert_eq!(
            got.passwd(),
            "root:x:0:0:Super User:/root:/bin/sh\nnet:x:997:997:Net:/:/usr/sbin/nologin\ntime:x:999:999::/:/usr/sbin/nologin\n"
        );
        assert_eq!(got.group(), "root:x:0:\nshadow:x:42:\nnet:x:997:\nadm:x:998:net\ntime:x:999:\n");
        assert!(got.shadow().lines().all(|l| l.contains(":!*:")));
    }

    #[test]
    fn a_primary_group_may_be_named() {
        assert_eq!(
            accounts("g nogroup 65534\nu nobody 65534:nogroup \"n\" /nonexistent").passwd(),
            "nobody:x:65534:65534:n:/nonexistent:/usr/sbin/nologin\n"
        );
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = Accounts::from_files(&[("b.conf".into(), "# c\nx y".into())]).unwrap_err();
        assert_eq!(error.to_string(), "b.conf:2: `x` is no line type; known are u, g, m and r");
    }
}
