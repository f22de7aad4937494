//! Who a container's process runs as.
//!
//! CRI may give a number, a name, or nothing; the image may give `user`, `user:group` or numbers. Names are looked up
//! in the image's own `/etc/passwd` and `/etc/group`, read without ever leaving the image's root, whatever links
//! it contains.

use crate::message::shortened;
use cairn_contract::cri;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Most of `/etc/passwd` and `/etc/group` that is read, bytes.
const READ_LIMIT: u64 = 4 << 20;

/// Numbers for the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further groups, the primary one included, sorted.
    pub groups: Vec<u32>,
}

/// A user that cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name that the image does not know.
    #[error("the image has no {kind} named `{name}` in /etc/{file}")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
        /// `passwd` or `group`.
        file: &'static str,
    },
    /// A number that is no id, or a group without a user.
    #[error("{0}")]
    Invalid(String),
}

/// The image's user database.
#[derive(Debug, Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads it below an image's root; absent files are empty ones.
    pub fn read(root: &Path) -> Self {
        let read = |path| read_inside(root, path).unwrap_or_default();
        Self { passwd: read("etc/passwd"), group: read("etc/group") }
    }

    /// uid and gid by name or number.
    fn user(&self, name: &str) -> Result<(u32, Option<u32>), UserError> {
        let number = name.parse::<u32>().ok();
        for line in self.passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [held, _, uid, gid, ..] = fields[..] else { continue };
            let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else { continue };
            if held == name || number == Some(uid) {
                return Ok((uid, Some(gid)));
            }
        }
        number.map(|uid| (uid, None)).ok_or_else(|| UserError::Unknown {
            kind: "user",
            name: shortened(name),
            file: "passwd",
        })
    }

    fn group(&self, name: &str) -> Result<u32, UserError> {
        let found = self.groups().find(|&(held, _, _)| held == name).map(|(_, gid, _)| gid);
        found.or_else(|| name.parse().ok()).ok_or_else(|| UserError::Unknown {
            kind: "group",
            name: shortened(name),
            file: "group",
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            Some((fields.next()?, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }

    /// Groups that list a user as member.
    fn memberships(&self, uid: u32) -> Vec<u32> {
        let names: Vec<&str> = self
            .passwd
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
            })
            .collect();
        let listed =
            self.groups().filter(|(_, _, members)| members.split(',').any(|member| names.contains(&member)));
        listed.map(|(_, gid, _)| gid).collect()
    }

    /// The user of a container: CRI's wish, else the image's (`Config.User`), else root.
    pub fn resolve(
        &self,
        security: &cri::LinuxContainerSecurityContext,
        image_user: Option<&str>,
    ) -> Result<User, UserError> {
        let id = |value: i64, what: &str| {
            u32::try_from(value).map_err(|_| UserError::Invalid(format!("{what} {value} is not an id")))
        };
        let (image_user, image_group) = match image_user.unwrap_or_default().split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (image_user.unwrap_or_default(), None),
        };
        let (uid, gid) = if let Some(user) = &security.run_as_user {
            let uid = id(user.value, "run_as_user")?;
            (uid, self.user(&uid.to_string())?.1)
        } else if !security.run_as_username.is_empty() {
            self.user(&security.run_as_username)?
        } else if security.run_as_group.is_some() && image_user.is_empty() {
            return Err(UserError::Invalid(
                "run_as_group needs run_as_user or a user in the image".to_owned(),
            ));
        } else if image_user.is_empty() {
            self.user("0")?
        } else {
            let (uid, gid) = self.user(image_user)?;
            (uid, image_group.map(|group| self.group(group)).transpose()?.or(gid))
        };
        let gid = match &security.run_as_group {
            Some(group) => id(group.value, "run_as_group")?,
            None => gid.unwrap_or(0),
        };
        let mut groups = vec![gid];
        for &group in &security.supplemental_groups {
            groups.push(id(group, "supplemental group")?);
        }
        if security.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Merge {
            groups.extend(self.memberships(uid));
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(User { uid, gid, groups })
    }
}

/// Reads a file below `root`, following links as if `root` were `/`.
fn read_inside(root: &Path, path: &str) -> io::Result<String> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let mut text = String::new();
    File::from(file).take(READ_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n".into(),
            group: "root:x:0:\nwww:x:33:\nlogs:x:50:web,other\n".into(),
        }
    }

    fn security() -> cri::LinuxContainerSecurityContext {
        cri::LinuxContainerSecurityContext::default()
    }

    #[test]
    fn names_and_numbers_resolve_in_the_image() {
        let resolve = |user: &str| accounts().resolve(&security(), Some(user)).unwrap();
        assert_eq!(resolve(""), User { uid: 0, gid: 0, groups: vec![0] });
        assert_eq!(resolve("web"), User { uid: 33, gid: 33, groups: vec![33, 50] });
        assert_eq!(resolve("web:logs").gid, 50);
        assert_eq!(resolve("1234:77"), User { uid: 1234, gid: 77, groups: vec![77] });
        assert!(accounts().resolve(&security(), Some("ghost")).unwrap_err().to_string().contains("ghost"));
    }

    #[test]
    fn cri_overrides_the_image() {
        let security = cri::LinuxContainerSecurityContext {
            run_as_user: Some(cri::Int64Value { value: 33 }),
            run_as_group: Some(cri::Int64Value { value: 9 }),
            supplemental_groups: vec![100],
            supplemental_groups_policy: cri::SupplementalGroupsPolicy::Strict.into(),
            ..security()
        };
        let user = accounts().resolve(&security, Some("root")).unwrap();
        assert_eq!(user, User { uid: 33, gid: 9, groups: vec![9, 100] });
    }

    #[test]
    fn links_do_not_lead_out_of_the_image() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("passwd"), "evil:x:7:7::/:\n").unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("passwd"), root.path().join("etc/passwd")).unwrap();
        assert_eq!(Accounts::read(root.path()).passwd, "");
    }
}
