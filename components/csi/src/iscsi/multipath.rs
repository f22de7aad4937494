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
    run("udevadm", &["settle", "--timeout=20"])?;
    for disk in disks {
        if map_of(sysfs, disk).is_none() {
            run("multipath", &["-a", &disk.node().to_string_lossy()])?;
            tell(&["add", "path", disk.name()])?;
        }
    }
    let made = patiently(PATIENCE, || common(sysfs, disks).ok_or(()));
    made.map(|map| node(&map)).map_err(|()| {
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
pub(super) fn flush(sysfs: &Sysfs, disks: &[Disk]) -> Result<(), Fault> {
    // Also without a device: it may have been told of the unit and no more.
    for disk in disks {
        run("multipath", &["-w", &disk.node().to_string_lossy()])?;
    }
    let Some(map) = disks.iter().find_map(|disk| map_of(sysfs, disk)) else { return Ok(()) };
    let name = sysfs.map_name(&map).unwrap_or_else(|| map.clone());
    run("multipath", &["-f", &name])?;
    let is_gone = || disks.iter().all(|disk| map_of(sysfs, disk).is_none());
    patiently(PATIENCE, || is_gone().then_some(()).ok_or(()))
        .map_err(|()| Fault::Precondition(format!("the multipath device {name} is in use")))
}

/// The one device that all of the disks are in.
fn common(sysfs: &Sysfs, disks: &[Disk]) -> Option<String> {
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
