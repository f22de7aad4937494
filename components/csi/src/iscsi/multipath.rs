//! Several ways to one unit as one device: dm-multipath, kept by multipathd(8).
//!
//! multipathd takes no disk by itself (`find_multipaths strict` in `multipath.conf`): it is told of each unit by its WWID.
//! It is started with the first one, and sees from then on which ways are up.

use super::{
    patiently,
    sysfs::{Disk, Sysfs},
};
use crate::{error::Fault, program};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long somebody who only looks may have a device open.
const LETTING_GO: Duration = Duration::from_secs(5);
/// udevadm(8): waits until udev has nothing more to do.
const SETTLE: &[&str] = &["settle", "--timeout=20"];
/// What multipath's devices are called in the device mapper.
const PREFIX: &str = "mpath-";

/// The device that has all of `disks`, which are ways to one unit; made if there is none, and the ways that it lacks added.
///
/// # Errors
/// If multipathd cannot be started, or makes none.
pub(super) fn assemble(sysfs: &Sysfs, disks: &[Disk]) -> Result<PathBuf, Fault> {
    if let Some(map) = common(sysfs, disks) {
        return Ok(node(&map));
    }
    start()?;
    // multipath goes by the serial numbers that udev reads from new disks.
    run("udevadm", SETTLE)?;
    let mut refusal = None;
    for disk in disks.iter().filter(|disk| map_of(sysfs, disk).is_none()) {
        // multipathd takes a way to a unit that it knows by itself, and may be faster: what counts is the device.
        let added = run("multipath", &["-a", &disk.node().to_string_lossy()])
            .and_then(|()| tell(&["add", "path", disk.name()]));
        refusal = refusal.or(added.err());
    }
    let made = patiently(PATIENCE, || common(sysfs, disks).ok_or(()));
    made.map(|map| node(&map)).map_err(|()| {
        if let Some(refusal) = refusal {
            return refusal;
        }
        let names: Vec<&str> = disks.iter().map(Disk::name).collect();
        Fault::Unavailable(format!(
            "multipathd made no device of {} within {} s",
            names.join(" and "),
            PATIENCE.as_secs()
        ))
    })
}

/// The multipath device on a disk, `dm-3`.
pub(super) fn map_of(sysfs: &Sysfs, disk: &Disk) -> Option<String> {
    sysfs.holder(disk).filter(|(_, uuid)| uuid.starts_with(PREFIX)).map(|(name, _)| name)
}

/// Makes a device as large as the disks it is made of.
///
/// # Errors
/// multipathd's.
pub(super) fn grow(sysfs: &Sysfs, map: &str) -> Result<(), Fault> {
    let name = sysfs.map_name(map).unwrap_or_else(|| map.to_owned());
    tell(&["resize", "map", &name])
}

/// Takes the device on these disks away, and has multipathd forget their unit; that it knows nothing of it is fine.
///
/// # Errors
/// [`Fault::Precondition`] if it is in use.
pub(super) fn flush(sysfs: &Sysfs, disks: &[&Disk]) -> Result<(), Fault> {
    // Also without a device: it may have been told of the unit and no more.
    forget(sysfs, disks)?;
    let Some(map) = disks.iter().find_map(|disk| map_of(sysfs, disk)) else { return Ok(()) };
    let name = sysfs.map_name(&map).unwrap_or_else(|| map.clone());
    // udev reads from a device that is new or was written to, and tells multipathd of it: let it come to its end first.
    let _ = run("udevadm", SETTLE);
    let is_gone = || disks.iter().all(|disk| map_of(sysfs, disk).is_none());
    until_gone(&name, LETTING_GO, is_gone, || run("multipath", &["-f", &name]))
}

/// Has a device taken away by `flush` again and again: multipath refuses what anybody has open, if for a moment.
fn until_gone(
    name: &str,
    patience: Duration,
    is_gone: impl Fn() -> bool,
    mut flush: impl FnMut() -> Result<(), Fault>,
) -> Result<(), Fault> {
    let flushed = patiently(patience, || if is_gone() { Ok(()) } else { flush() });
    flushed
        .map_err(|fault| Fault::Precondition(format!("the multipath device {name} is in use: {fault}")))?;
    patiently(PATIENCE, || is_gone().then_some(()).ok_or(()))
        .map_err(|()| Fault::Precondition(format!("the multipath device {name} is in use")))
}

/// Has multipathd forget the unit of these disks; that it knows nothing of it is fine.
///
/// # Errors
/// multipath's.
pub(super) fn forget(sysfs: &Sysfs, disks: &[&Disk]) -> Result<(), Fault> {
    let map = disks.iter().find_map(|disk| map_of(sysfs, disk));
    let map = map.and_then(|map| sysfs.map_name(&map));
    let disks = disks.iter().map(|disk| disk.node().display().to_string());
    by_one_name(map.into_iter().chain(disks), |name| run("multipath", &["-w", name]))
}

/// Says of a unit by one of its names what all of them mean. A disk whose way is down is not known to be the unit, so its device is
/// asked for first, and then one disk after the other.
fn by_one_name(
    names: impl Iterator<Item = String>,
    mut say: impl FnMut(&str) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut refusal = Ok(());
    for name in names {
        refusal = say(&name);
        if refusal.is_ok() {
            break;
        }
    }
    refusal
}

/// Takes a disk out of its device, which goes on with its other ways; that it is in none is fine.
///
/// # Errors
/// multipathd's; [`Fault::Precondition`] if the device does not let go of it.
pub(super) fn leave(sysfs: &Sysfs, disk: &Disk) -> Result<(), Fault> {
    let Some(map) = map_of(sysfs, disk) else { return Ok(()) };
    tell(&["del", "path", disk.name()])?;
    patiently(PATIENCE, || map_of(sysfs, disk).is_none().then_some(()).ok_or(())).map_err(|()| {
        Fault::Precondition(format!("the multipath device {map} does not let go of {}", disk.name()))
    })
}

/// The one device that all of the disks are in.
pub(super) fn common(sysfs: &Sysfs, disks: &[Disk]) -> Option<String> {
    let (first, others) = disks.split_first()?;
    let map = map_of(sysfs, first)?;
    others.iter().all(|disk| map_of(sysfs, disk).as_ref() == Some(&map)).then_some(map)
}

fn node(map: &str) -> PathBuf {
    Path::new("/dev").join(map)
}

fn start() -> Result<(), Fault> {
    run("systemctl", &["start", "multipathd.service"])
}

/// multipathd answers `ok`, or `fail` with exit code 1.
fn tell(words: &[&str]) -> Result<(), Fault> {
    run("multipathd", words)
}

fn run(name: &str, words: &[&str]) -> Result<(), Fault> {
    program::run(Command::new(name).args(words), b"", PATIENCE)?.success().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, io};

    #[test]
    fn a_unit_is_forgotten_by_a_name_that_is_known() {
        let names = || ["mpatha", "/dev/sda", "/dev/sdb"].into_iter().map(str::to_owned);
        let asked = Cell::new(0);
        let only = |known: &'static str| {
            asked.set(0);
            let asked = &asked;
            move |name: &str| {
                asked.set(asked.get() + 1);
                (name == known).then_some(()).ok_or(Fault::Unavailable(name.to_owned()))
            }
        };
        by_one_name(names(), only("mpatha")).unwrap();
        assert_eq!(asked.get(), 1);
        by_one_name(names(), only("/dev/sdb")).unwrap();
        assert_eq!(asked.get(), 3);
        assert!(
            matches!(by_one_name(names(), only("none")), Err(Fault::Unavailable(last)) if last == "/dev/sdb")
        );
        by_one_name(std::iter::empty(), only("none")).unwrap();
    }

    #[test]
    fn a_device_that_somebody_looks_at_is_taken_away_a_moment_later() {
        let in_use =
            || Err(Fault::Io { what: "multipath".to_owned(), source: io::Error::other("map in use") });
        let (asked, gone) = (Cell::new(0), Cell::new(false));
        let flush = || {
            asked.set(asked.get() + 1);
            gone.set(asked.get() == 3);
            if gone.get() { Ok(()) } else { in_use() }
        };
        until_gone("m", PATIENCE, || gone.get(), flush).unwrap();
        assert_eq!(asked.get(), 3);
        // It went although multipath said no.
        until_gone("m", Duration::ZERO, || true, in_use).unwrap();
        let fault = until_gone("m", Duration::ZERO, || false, in_use).unwrap_err();
        assert!(matches!(&fault, Fault::Precondition(text) if text.contains("map in use")), "{fault}");
    }
}
