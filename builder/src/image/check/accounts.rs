//! passwd(5) and shadow(5): nobody can log in.

use super::FinishedImage;
use crate::profile::check::Finding;

/// A locked account's password field starts with one of these, which no password hash does.
const LOCKED: [char; 2] = ['!', '*'];

pub(super) fn passwords(image: &FinishedImage<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, passes) in [
        ("/etc/shadow", (|field| field.starts_with(LOCKED)) as fn(&str) -> bool),
        // `x`: the password is in shadow.
        ("/etc/passwd", |field| field == "x" || field.starts_with(LOCKED)),
    ] {
        let node = image.tree.resolve(path).and_then(|place| image.tree.get(place));
        let Some(content) = node.and_then(|node| node.content()) else {
            let fix = "declare users in rootfs' sysusers.d, from which it is made";
            findings.push(Finding::new(path, "it is not in the image: no account would be locked", fix));
            continue;
        };
        let bytes = match content.read() {
            Ok(bytes) => bytes,
            Err(error) => {
                findings.push(Finding::new(path, format!("it cannot be read: {error}"), "build again"));
                continue;
            }
        };
        for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.trim().is_empty()) {
            let mut fields = line.split(':');
            let (name, password) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            if passes(password) {
                continue;
            }
            // The field itself is nothing to print.
            let problem = match password {
                "" => format!("`{name}` needs no password"),
                _ => format!("`{name}` has a password, the same on every node"),
            };
            let fix = format!("lock it: let the second field of `{name}` start with `!`");
            findings.push(Finding::new(path, problem, fix));
        }
    }
    findings
}
