//! The kernel's side of iSCSI: sessions, and the SCSI devices they bring (`scsi_transport_iscsi`, `scsi_sysfs`).
//!
//! Nothing about a session is kept by the driver: what there is stands in /sys, whoever made it, also after a restart.

use super::{
    patiently,
    target::{Portal, Target},
};
use crate::error::{During, Fault};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long the kernel takes to make a device of a unit, or to see its new size.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How long whoever unmounted a disk may still have it: the kernel lets go of it a moment later.
const LETTING_GO: Duration = Duration::from_secs(5);

/// /sys, or what stands for it in a test.
#[derive(Debug, Clone)]
pub(super) struct Sysfs(PathBuf);

/// A session: one way to a target that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// The way.
    pub(super) portal: Portal,
    /// Requests go through now.
    pub(super) is_up: bool,
    /// Its directory among the devices.
    directory: PathBuf,
}

/// A unit as one session sees it: a disk's name, `sda`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Disk(String);

impl Disk {
    /// Its node.
    pub(super) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.0)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.0
    }
}

impl Default for Sysfs {
    fn default() -> Self {
        Self("/sys".into())
    }
}

impl Sysfs {
    /// The sessions with a target.
    ///
    /// # Errors
    /// If /sys cannot be read.
    pub(super) fn sessions(&self, iqn: &str) -> Result<Vec<Session>, Fault> {
        let class = self.0.join("class/iscsi_session");
        let mut found = Vec::new();
        for name in names(&class).during(|| format!("read {}", class.display()))? {
            let session = class.join(&name);
            if text(&session.join("targetname")).as_deref() != Some(iqn) {
                continue;
            }
            let number = name.trim_start_matches("session");
            let connection = self.0.join(format!("class/iscsi_connection/connection{number}:0"));
            let (host, port) =
                (text(&connection.join("persistent_address")), text(&connection.join("persistent_port")));
            // It may be going while we look.
            let (Some(host), Some(port)) = (host, port.and_then(|port| port.parse().ok())) else { continue };
            let Ok(directory) = fs::canonicalize(session.join("device")) else { continue };
            let is_up = text(&session.join("state")).as_deref() == Some("LOGGED_IN");
            found.push(Session { portal: Portal { host, port }, is_up, directory });
        }
        Ok(found)
    }

    /// The unit as a session sees it, if it has been looked for.
    pub(super) fn disk(&self, session: &Session, lun: u16) -> Option<Disk> {
        let units = units(&session.directory);
        let unit = units.into_iter().find(|unit| number(unit) == Some(lun))?;
        names(&unit.join("block")).ok()?.into_iter().next().map(Disk)
    }

    /// Whether a session brings any disk.
    pub(super) fn is_used(&self, session: &Session) -> bool {
        units(&session.directory).iter().any(|unit| unit.join("block").exists())
    }

    /// Has a session look for a unit, and waits for it.
    ///
    /// # Errors
    /// [`Fault::NotFound`] if the target shows no such unit.
    pub(super) fn find(&self, session: &Session, lun: u16) -> Result<Disk, Fault> {
        if let Some(disk) = self.disk(session, lun) {
            return Ok(disk);
        }
        let host = session.directory.parent().and_then(Path::file_name).unwrap_or_default();
        let scan = self.0.join("class/scsi_host").join(host).join("scan");
        fs::write(&scan, format!("0 0 {lun}"))
            .during(|| format!("look for unit {lun}: write {}", scan.display()))?;
        patiently(PATIENCE, || self.disk(session, lun).ok_or(()))
            .map_err(|()| Fault::NotFound(format!("the target shows no unit {lun} at {}", session.portal)))
    }

    /// What identifies the unit behind a disk, the same by every way.
    ///
    /// # Errors
    /// [`Fault::Precondition`] if the unit does not say.
    pub(super) fn identity(&self, disk: &Disk) -> Result<String, Fault> {
        let identity = text(&self.block(disk).join("device/wwid")).filter(|identity| !identity.is_empty());
        identity.ok_or_else(|| {
            Fault::Precondition(format!("{} does not say which unit it is (VPD page 83h)", disk.0))
        })
    }

    /// Bytes of a disk.
    pub(super) fn size(&self, name: &str) -> u64 {
        let sectors =
            text(&self.0.join("block").join(name).join("size")).and_then(|size| size.parse::<u64>().ok());
        sectors.unwrap_or_default().saturating_mul(512)
    }

    /// Asks the unit how large it is, and waits until that is `bytes`.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] if it is less.
    pub(super) fn rescan(&self, disk: &Disk, bytes: u64) -> Result<(), Fault> {
        let path = self.block(disk).join("device/rescan");
        let asked = patiently(PATIENCE, || match fs::write(&path, "1") {
            Ok(()) => match self.size(&disk.0) {
                size if size >= bytes => Ok(Ok(())),
                size => Err(size),
            },
            Err(error) => Ok(Err(error)),
        });
        match asked {
            Ok(written) => written.during(|| format!("write {}", path.display())),
            Err(size) => Err(Fault::OutOfRange(format!(
                "{bytes} bytes were asked for, and the target's unit has {size}; enlarge it there first"
            ))),
        }
    }

    /// Takes a disk away from the kernel, which does not ask whether it is in use.
    ///
    /// # Errors
    /// [`Fault::Precondition`] if it is; the kernel's.
    pub(super) fn remove(&self, disk: &Disk) -> Result<(), Fault> {
        patiently(LETTING_GO, || self.use_of(disk).map_or(Ok(()), Err)).map_err(|used| {
            Fault::Precondition(format!("the unit's disk {} {used}, and is left as it is", disk.0))
        })?;
        let path = self.block(disk).join("device/delete");
        match fs::write(&path, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).during(|| format!("write {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// What a disk is used for, if anything.
    fn use_of(&self, disk: &Disk) -> Option<String> {
        let holders = names(&self.block(disk).join("holders")).unwrap_or_default();
        match holders.first() {
            Some(holder) => Some(format!("is part of {holder}")),
            None if is_claimed(&disk.node()) => {
                Some("is mounted, or claimed by a program of the node".to_owned())
            }
            None => None,
        }
    }

    /// The device mapper's device on a disk, if there is one, and what made it: `mpath-…`.
    pub(super) fn holder(&self, disk: &Disk) -> Option<(String, String)> {
        let holders = names(&self.block(disk).join("holders")).ok()?;
        holders.into_iter().find_map(|name| {
            let uuid = text(&self.0.join("block").join(&name).join("dm/uuid"))?;
            Some((name, uuid))
        })
    }

    /// A device mapper device's name.
    pub(super) fn map_name(&self, device: &str) -> Option<String> {
        text(&self.0.join("block").join(device).join("dm/name"))
    }

    fn block(&self, disk: &Disk) -> PathBuf {
        self.0.join("block").join(&disk.0)
    }
}

impl Target {
    /// The sessions that go by one of its ways.
    pub(super) fn taken(&self, sysfs: &Sysfs) -> Result<Vec<Session>, Fault> {
        let mut sessions = sysfs.sessions(&self.iqn)?;
        sessions.retain(|session| self.portals.contains(&session.portal));
        Ok(sessions)
    }
}

/// Waits until a disk can be opened. Its directory in /sys is there before that: the kernel adds the device first, and what
/// opens it last (`add_disk_fwnode` in block/genhd.c), in between is ENXIO.
///
/// # Errors
/// [`Fault::Unavailable`] if that does not come, as of a disk that the kernel took offline.
pub(super) fn until_it_opens(node: &Path, patience: Duration) -> Result<(), Fault> {
    let is_early = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound
            || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NXIO)
    };
    let opened = patiently(patience, || match fs::File::open(node) {
        Err(error) if is_early(&error) => Err(error),
        opened => Ok(opened),
    });
    match opened {
        Ok(opened) => opened.map(drop).during(|| format!("open {}", node.display())),
        Err(error) => {
            Err(Fault::Unavailable(format!("the unit's disk {} does not open: {error}", node.display())))
        }
    }
}

/// Whether somebody has a device, or a part of it, for himself alone: a mount, a device made of it, an exclusive program (open(2),
/// `O_EXCL` without `O_CREAT`).
fn is_claimed(node: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
    matches!(open(node, flags, Mode::empty()), Err(Errno::BUSY))
}

/// Directories of a session's units: `…/target2:0:0/2:0:0:1`.
fn units(session: &Path) -> Vec<PathBuf> {
    let targets = names(session).unwrap_or_default().into_iter().filter(|name| name.starts_with("target"));
    targets
        .flat_map(|target| {
            let target = session.join(target);
            names(&target).unwrap_or_default().into_iter().map(move |unit| target.join(unit))
        })
        .filter(|unit| number(unit).is_some())
        .collect()
}

/// The number of the unit whose directory this is: host, channel, target and unit with `:` between them.
fn number(unit: &Path) -> Option<u16> {
    let name = unit.file_name()?.to_str()?;
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [host, _, _, lun] if host.bytes().all(|b| b.is_ascii_digit()) => lun.parse().ok(),
        _ => None,
    }
}

/// What is in a directory, sorted; nothing if it is not there.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::PAUSE, *};
    use crate::loopback;
    use std::{os::unix::fs::symlink, thread};

    /// A /sys with two sessions of one target and one of another.
    pub(in super::super) fn sys() -> (tempfile::TempDir, Sysfs) {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (number, iqn, port, state) in [
            (1, "iqn.2026-11.test:a", 3260, "LOGGED_IN"),
            (2, "iqn.2026-11.test:a", 3261, "FAILED"),
            (3, "iqn.2026-11.test:b", 3260, "LOGGED_IN"),
        ] {
            let class = format!("class/iscsi_session/session{number}");
            put(&format!("{class}/targetname"), &format!("{iqn}\n"));
            put(&format!("{class}/state"), &format!("{state}\n"));
            let connection = format!("class/iscsi_connection/connection{number}:0");
            put(&format!("{connection}/persistent_address"), "10.0.2.2\n");
            put(&format!("{connection}/persistent_port"), &format!("{port}\n"));
            put(&format!("class/scsi_host/host{number}/scan"), "");
            let device = format!("devices/platform/host{number}/session{number}");
            fs::create_dir_all(root.path().join(&device)).unwrap();
            symlink(root.path().join(&device), root.path().join(class).join("device")).unwrap();
        }
        put("devices/platform/host1/session1/target1:0:0/1:0:0:7/block/sda/x", "");
        put("devices/platform/host1/session1/target1:0:0/power/x", "");
        put("devices/platform/host3/session3/target3:0:0/3:0:0:1/block/sdzzz/x", "");
        put("block/sdzzz/device/delete", "");
        put("block/sda/size", "2048\n");
        put("block/sda/device/wwid", "naa.5\n");
        put("block/sda/device/rescan", "");
        put("block/sda/holders/dm-3/x", "");
        put("block/dm-3/dm/uuid", "mpath-35\n");
        put("block/dm-3/dm/name", "35\n");
        let sysfs = Sysfs(root.path().to_owned());
        (root, sysfs)
    }

    #[test]
    fn sessions_and_their_disks_are_found() {
        let (_root, sysfs) = sys();
        let sessions = sysfs.sessions("iqn.2026-11.test:a").unwrap();
        let ways: Vec<(String, bool)> =
            sessions.iter().map(|session| (session.portal.to_string(), session.is_up)).collect();
        assert_eq!(ways, [("10.0.2.2:3260".to_owned(), true), ("10.0.2.2:3261".to_owned(), false)]);
        let disk = sysfs.disk(&sessions[0], 7).unwrap();
        assert_eq!(disk.node(), Path::new("/dev/sda"));
        assert_eq!(sysfs.find(&sessions[0], 7).unwrap(), disk);
        assert_eq!((sysfs.disk(&sessions[0], 1), sysfs.disk(&sessions[1], 7)), (None, None));
        assert!(sysfs.is_used(&sessions[0]) && !sysfs.is_used(&sessions[1]));
        assert_eq!(sysfs.identity(&disk).unwrap(), "naa.5");
        assert_eq!(sysfs.holder(&disk), Some(("dm-3".to_owned(), "mpath-35".to_owned())));
        assert_eq!(sysfs.map_name("dm-3").as_deref(), Some("35"));
        assert_eq!(sysfs.size("sda"), 1 << 20);
        sysfs.rescan(&disk, 1 << 20).unwrap();
        assert_eq!(sysfs.sessions("iqn.2026-11.test:none").unwrap(), []);
        assert_eq!(Sysfs("/no/such".into()).sessions("iqn.2026-11.test:a").unwrap(), []);
    }

    #[test]
    fn a_disk_in_use_is_not_taken_away() {
        let (root, sysfs) = sys();
        let (held, free) = (Disk("sda".to_owned()), Disk("sdzzz".to_owned()));
        assert_eq!(sysfs.use_of(&held).as_deref(), Some("is part of dm-3"));
        assert_eq!(sysfs.use_of(&free), None);
        sysfs.remove(&free).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("block/sdzzz/device/delete")).unwrap(), "1");
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: needs root and loop devices");
            return;
        }
        let image = root.path().join("image");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let device = loopback::attach(&image, false).unwrap();
        assert!(!is_claimed(&device));
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        let claim = open(&device, flags, Mode::empty()).unwrap();
        assert!(is_claimed(&device));
        drop(claim);
        assert!(!is_claimed(&device));
        loopback::detach(&image).unwrap();
    }

    #[test]
    fn a_disk_that_does_not_open_yet_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let node = directory.path().join("sda");
        // A socket's node answers as a disk's does that is not ready: ENXIO.
        let socket = std::os::unix::net::UnixListener::bind(&node).unwrap();
        let fault = until_it_opens(&node, PAUSE).unwrap_err();
        assert!(matches!(&fault, Fault::Unavailable(text) if text.contains("os error 6")), "{fault}");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| until_it_opens(&node, PATIENCE));
            thread::sleep(PAUSE);
            drop(socket);
            fs::remove_file(&node).unwrap();
            thread::sleep(PAUSE);
            fs::write(&node, "").unwrap();
            waiting.join().unwrap().unwrap();
        });
    }
}
