//! Users and groups, as a sysusers.d(5) file: the builder makes them from it, and tools on the node can read it.

use super::File;
use crate::profile::model::Profile;
use std::fmt::Write as _;

/// `sysusers.d`; empty without users and groups.
pub(super) fn files(profile: &Profile) -> Vec<File> {
    if profile.users.is_empty() && profile.groups.is_empty() {
        return Vec::new();
    }
    let mut text = String::from("# From [users] and [groups] of the profile.\n");
    for (name, group) in &profile.groups {
        let _ = writeln!(text, "g {name} {} -", group.gid);
    }
    for (name, user) in &profile.users {
        let group = user.group.as_ref().unwrap_or(name);
        // The numeric form: sysusers.d takes `uid:gid` or `uid:group`.
        let _ = writeln!(
            text,
            "u {name} {}:{group} \"{}\" {} {}",
            user.uid,
            user.description.replace(['"', '\n'], " "),
            user.home,
            user.shell
        );
    }
    for (name, group) in &profile.groups {
        for member in &group.members {
            let _ = writeln!(text, "m {member} {name}");
        }
    }
    vec![File::text("/usr/lib/sysusers.d/00-cairn-profile.conf", text)]
}
