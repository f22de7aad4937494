//! open-iscsi: the records that say how a target is logged in to, and iscsiadm(8), which does it.
//!
//! The records are written here and not by iscsiadm, whose command line everyone on the node could read the secrets in. They
//! are files of `name = value` in the form that it writes itself, in a directory that a reboot empties; what a record does
//! not say is as `iscsid.conf` has it. The session itself is the kernel's, and iscsid's when its connection breaks.

use super::target::{Chap, Portal, Target};
use crate::{
    error::{During, Fault},
    program::{self, Ended},
};
use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

/// Longer than iscsid tries for.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// No iscsiadm that lives has its lock for so long.
const LOCKED: Duration = Duration::from_secs(5);
/// A way of several is given up soon, for there are others; the only one is waited for.
const GIVE_UP: (u32, u32) = (5, 120);

/// iscsiadm's exit codes (open-iscsi, include/iscsi_err.h).
const SESSION_EXISTS: i32 = 15;
const NO_OBJECTS: i32 = 21;
const LOGIN_AUTH_FAILED: i32 = 24;
/// Transport error, transport timeout, PDU timeout, and login failures that are not for lack of rights.
const UNREACHABLE: [i32; 4] = [4, 8, 11, 5];
/// The target does not know this name, or not for us.
const NO_TARGET: i32 = 19;

/// Extension of a record that is being written.
const ASIDE: &str = "new";

/// The lines of a record that have secrets.
const AUTH: &str = "node.session.auth.";

/// Who we are to a target: lines of a record. There may be secrets in them.
pub(super) struct Auth(String);

impl Auth {
    /// By these secrets.
    pub(super) fn of(chap: Option<&Chap<'_>>) -> Self {
        let mut text = String::new();
        let mut say = |key: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{AUTH}{key} = {value}");
        };
        match chap {
            None => say("authmethod", "None"),
            Some(Chap { ours, theirs }) => {
                say("authmethod", "CHAP");
                say("username", ours.0);
                say("password", ours.1);
                if let Some((user, secret)) = theirs {
                    say("username_in", user);
                    say("password_in", secret);
                }
            }
        }
        Self(text)
    }
}

/// Where iscsiadm keeps its records.
#[derive(Debug, Clone)]
pub(super) struct Admin {
    nodes: PathBuf,
    /// iscsiadm's lock while it reads or writes them: a second link to a file, by which it is made and removed.
    lock: PathBuf,
}

impl Default for Admin {
    fn default() -> Self {
        Self { nodes: "/var/lib/iscsi/nodes".into(), lock: "/run/lock/iscsi/lock.write".into() }
    }
}

impl Admin {
    /// Logs in by one way; that there is a session already is fine.
    ///
    /// # Errors
    /// [`Fault::Denied`] for wrong secrets, [`Fault::Unavailable`] if nobody answers, [`Fault::NotFound`] if there is no
    /// such target.
    pub(super) fn login(&self, target: &Target, portal: &Portal, auth: &Auth) -> Result<(), Fault> {
        self.write(target, portal, auth)?;
        let ended = run(target, portal, "--login")?;
        match ended.status.code() {
            Some(0 | SESSION_EXISTS) => Ok(()),
            code => {
                let fault = explained(target, portal, code, &ended).unwrap_or_else(|| ended.fault());
                // A record that leads nowhere is of no use, and has secrets in it.
                self.forget(target, portal)?;
                Err(fault)
            }
        }
    }

    /// Logs out by one way, and forgets it; no session is fine.
    ///
    /// # Errors
    /// If the session cannot be ended.
    pub(super) fn logout(&self, target: &Target, portal: &Portal) -> Result<(), Fault> {
        // iscsiadm ends only sessions that it has a record of.
        if !self.path(target, portal).exists() {
            self.write(target, portal, &Auth::of(None))?;
        }
        let ended = run(target, portal, "--logout")?;
        match ended.status.code() {
            Some(0 | NO_OBJECTS) => self.forget(target, portal),
            _ => Err(ended.fault()),
        }
    }

    /// Who we were when we logged in by a way: its record has it.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn auth(&self, target: &Target, portal: &Portal) -> Result<Auth, Fault> {
        let path = self.path(target, portal);
        let text = fs::read_to_string(&path).during(|| format!("read the record {}", path.display()))?;
        Ok(Auth(text.split_inclusive('\n').filter(|line| line.starts_with(AUTH)).collect()))
    }

    /// Whether there is a record of a way: of a session, or of a login that did not end.
    pub(super) fn knows(&self, target: &Target, portal: &Portal) -> bool {
        self.path(target, portal).exists()
    }

    /// Ends a login that was cut short. iscsid goes on with it when iscsiadm is killed, and its session comes when nobody
    /// expects it: so it is asked for the login again, says how that ended, and is told to log out.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] if it does not get to an end.
    pub(super) fn abandon(&self, target: &Target, portal: &Portal) -> Result<(), Fault> {
        self.end_login(target, portal, PATIENCE, |what| {
            run(target, portal, what).map(|ended| ended.status.code())
        })
    }

    /// [`Self::abandon`], with iscsiadm's exit codes from `ask`.
    fn end_login(
        &self,
        target: &Target,
        portal: &Portal,
        patience: Duration,
        mut ask: impl FnMut(&str) -> Result<Option<i32>, Fault>,
    ) -> Result<(), Fault> {
        let deadline = Instant::now() + patience;
        loop {
            match ask("--login")? {
                // There is a session, or there will be one: until then iscsiadm finds nothing to log out.
                Some(0 | SESSION_EXISTS) if ask("--logout")? == Some(0) => break,
                Some(0 | SESSION_EXISTS) if Instant::now() < deadline => thread::sleep(PAUSE),
                Some(0 | SESSION_EXISTS) => {
                    return Err(Fault::Unavailable(format!(
                        "{} at {portal}: a login that was cut short does not end",
                        target.iqn
                    )));
                }
                // It came to nothing.
                _ => break,
            }
        }
        self.forget(target, portal)
    }

    /// Removes records that were being written when their driver was killed: they have secrets in them. None is being written
    /// now.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let Some(directory) = self.nodes.parent() else { return Ok(()) };
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == ASIDE) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Removes the lock that an iscsiadm left which was killed: all others would wait for it, and give up after 30 s. One that
    /// lives has it for a moment.
    pub(super) fn unlock(&self) -> io::Result<()> {
        loop {
            let taken = match fs::metadata(&self.lock) {
                Ok(link) => UNIX_EPOCH + Duration::from_secs(link.ctime().unsigned_abs()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            // A clock that was set back makes it look young, and it is waited for again.
            match LOCKED.checked_sub(taken.elapsed().unwrap_or_default()) {
                Some(left) if !left.is_zero() => thread::sleep(left),
                _ => break,
            }
        }
        tracing::info!(lock = %self.lock.display(), "an iscsiadm that was killed left its lock: removed");
        match fs::remove_file(&self.lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, target: &Target, portal: &Portal) -> PathBuf {
        self.nodes.join(&target.iqn).join(format!("{},{}", portal.host, portal.port))
    }

    fn write(&self, target: &Target, portal: &Portal, auth: &Auth) -> Result<(), Fault> {
        let path = self.path(target, portal);
        let write = || -> io::Result<()> {
            if let Some(directory) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            // iscsiadm takes every file in the directory for a record; so this is beside it.
            let aside = self.nodes.with_file_name(format!("{}.{ASIDE}", uuid::Uuid::new_v4()));
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            file.write_all(record(target, portal, auth).as_bytes())?;
            fs::rename(&aside, &path)
        };
        write().during(|| format!("write the record {}", path.display()))
    }

    fn forget(&self, target: &Target, portal: &Portal) -> Result<(), Fault> {
        let path = self.path(target, portal);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).during(|| format!("remove the record {}", path.display()));
            }
            _ => {}
        }
        // The directory stays while it holds other ways.
        if let Some(directory) = path.parent() {
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }
}

/// A record. Units are looked for one by one, so that no disk appears that nobody asked for.
fn record(target: &Target, portal: &Portal, auth: &Auth) -> String {
    let give_up = if target.portals.len() > 1 { GIVE_UP.0 } else { GIVE_UP.1 };
    format!(
        "# BEGIN RECORD\nnode.name = {}\nnode.tpgt = -1\nnode.startup = manual\niface.iscsi_ifacename = default\n\
         iface.transport_name = tcp\nnode.discovery_type = static\nnode.session.scan = manual\n\
         node.session.initial_login_retry_max = 2\nnode.session.timeo.replacement_timeout = {give_up}\n\
         node.conn[0].address = {}\nnode.conn[0].port = {}\nnode.conn[0].startup = manual\n\
         node.conn[0].timeo.login_timeout = 15\n{}# END RECORD\n",
        target.iqn, portal.host, portal.port, auth.0
    )
}

fn run(target: &Target, portal: &Portal, what: &str) -> Result<Ended, Fault> {
    let mut command = Command::new("iscsiadm");
    command.args(["-m", "node", "-T", &target.iqn, "-p", &portal.to_string(), what]);
    program::run(&mut command, b"", PATIENCE)
}

fn explained(target: &Target, portal: &Portal, code: Option<i32>, ended: &Ended) -> Option<Fault> {
    let place = format!("{} at {portal}", target.iqn);
    match code? {
        LOGIN_AUTH_FAILED => Some(Fault::Denied(format!(
            "{place} does not take these CHAP secrets, or does not show the right ones itself"
        ))),
        NO_TARGET => Some(Fault::NotFound(format!("{place}: no login: {}", ended.complaint))),
        code if UNREACHABLE.contains(&code) => {
            Some(Fault::Unavailable(format!("{place} does not answer: {}", ended.complaint)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, path::Path};

    fn admin(directory: &Path) -> Admin {
        Admin { nodes: directory.join("nodes"), lock: directory.join("lock.write") }
    }

    #[test]
    fn a_lock_that_nobody_holds_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let admin = admin(root.path());
        admin.unlock().unwrap();
        fs::write(root.path().join("lock"), "").unwrap();
        let take = || fs::hard_link(root.path().join("lock"), &admin.lock).unwrap();
        take();
        admin.unlock().unwrap();
        assert!(!admin.lock.exists() && root.path().join("lock").exists());
        // Its holder lives after all.
        take();
        thread::scope(|scope| {
            scope.spawn(|| admin.unlock().unwrap());
            thread::sleep(PAUSE);
            fs::remove_file(&admin.lock).unwrap();
        });
    }

    fn target() -> Target {
        let portal = |port| Portal { host: "10.0.2.2".into(), port };
        Target {
            iqn: "iqn.2026-11.test:a".into(),
            portals: vec![portal(3260), portal(3261)],
            lun: 1,
            chap: true,
        }
    }

    #[test]
    fn records_hold_secrets_for_root_alone_and_go_with_the_session() {
        let root = tempfile::tempdir().unwrap();
        let admin = admin(&root.path().join("iscsi"));
        let (target, portal) = (target(), &target().portals[1]);
        let chap = Chap { ours: ("node", "s e=c#ret"), theirs: Some(("t", "other")) };
        admin.write(&target, portal, &Auth::of(Some(&chap))).unwrap();
        let path = admin.path(&target, portal);
        assert!(path.ends_with("iqn.2026-11.test:a/10.0.2.2,3261"), "{}", path.display());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        for line in [
            "node.name = iqn.2026-11.test:a",
            "node.conn[0].port = 3261",
            "node.session.scan = manual",
            "node.session.timeo.replacement_timeout = 5",
            "node.session.auth.authmethod = CHAP",
            "node.session.auth.password = s e=c#ret",
            "node.session.auth.password_in = other",
        ] {
            assert!(text.lines().any(|held| held == line), "{line} is not in {text}");
        }
        assert_eq!(fs::read_dir(root.path().join("iscsi")).unwrap().count(), 1, "nothing lies beside");
        // The other way is taken by the same.
        let auth = admin.auth(&target, portal).unwrap();
        assert_eq!(auth.0, Auth::of(Some(&chap)).0);
        assert!(admin.auth(&target, &target.portals[0]).is_err());
        admin.forget(&target, portal).unwrap();
        admin.forget(&target, portal).unwrap();
        assert_eq!(fs::read_dir(&admin.nodes).unwrap().count(), 0);
    }

    #[test]
    fn a_record_that_was_being_written_goes_with_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let admin = admin(&root.path().join("iscsi"));
        admin.tidy().unwrap();
        let (target, portal) = (target(), &target().portals[0]);
        admin.write(&target, portal, &Auth::of(None)).unwrap();
        let half = admin.nodes.with_file_name("964c21c6-2349-49fe-b591-976baed4aa02.new");
        fs::write(&half, "# BEGIN RECORD\nnode.session.auth.pass").unwrap();
        admin.tidy().unwrap();
        assert!(!half.exists() && admin.knows(&target, portal));
    }

    #[test]
    fn a_login_that_was_cut_short_is_ended_and_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let admin = admin(root.path());
        let (target, portal) = (target(), &target().portals[0]);
        // Still under way, then logged in; given up by iscsid; done again by the question.
        for answers in [
            &[("--login", 15), ("--logout", 21), ("--login", 15), ("--logout", 0)][..],
            &[("--login", 8)],
            &[("--login", 0), ("--logout", 0)],
        ] {
            admin.write(&target, portal, &Auth::of(None)).unwrap();
            assert!(admin.knows(&target, portal));
            let mut left = answers.iter();
            let ask = |what: &str| {
                let (asked, code) = left.next().unwrap();
                assert_eq!(*asked, what);
                Ok(Some(*code))
            };
            admin.end_login(&target, portal, PATIENCE, ask).unwrap();
            assert!(!admin.knows(&target, portal) && left.next().is_none());
        }
        admin.write(&target, portal, &Auth::of(None)).unwrap();
        let endless = |what: &str| Ok(Some(if what == "--login" { 15 } else { 21 }));
        let fault = admin.end_login(&target, portal, Duration::ZERO, endless).unwrap_err();
        assert!(matches!(fault, Fault::Unavailable(_)), "{fault}");
        assert!(admin.knows(&target, portal), "the next call asks again");
    }

    #[test]
    fn the_only_way_is_waited_for() {
        let mut target = target();
        target.portals.truncate(1);
        let text = record(&target, &target.portals[0], &Auth::of(None));
        assert!(
            text.contains("replacement_timeout = 120\n") && text.contains("authmethod = None\n"),
            "{text}"
        );
    }
}
