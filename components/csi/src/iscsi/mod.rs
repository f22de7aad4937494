//! Units of iSCSI targets.
//!
//! A volume is a unit (LUN) that a target shows, named by a persistent volume's attributes ([`target`]). There is no discovery
//! and no state of the driver's: a record for open-iscsi is made from the volume's context and secrets ([`admin`]), the kernel
//! knows which sessions and disks there are ([`sysfs`]), and several ways to one unit are one device of dm-multipath
//! ([`multipath`]). A session is logged out when its last disk is taken away. It is the kernel's, so it lives on while
//! the driver is away, and the next driver finds it. A disk is taken away only when no other volume of this node is the
//! same unit ([`users`]) and nobody uses it.
//!
//! Making and removing units is the target's affair: no Controller service is offered.

mod admin;
mod multipath;
mod read_only;
mod sysfs;
mod target;
mod users;
mod ways;

use crate::{
    access::{Access, AccessType},
    backend::{Attachment, Backend, Condition, Features, Source},
    capacity::CapacityRange,
    error::Fault,
    filesystem::{self, Content},
    id::VolumeId,
    locks::Locks,
    mount::OptionSet,
    node::Staged,
};
use admin::{Admin, Auth};
use cairn_contract::{
    csi::node_service_capability::rpc::Type as NodeRpc,
    storage::{BackendKind, StorageConfig},
};
use std::{
    thread,
    time::{Duration, Instant},
};
use sysfs::{Disk, Session, Sysfs};
use target::{Portal, Target};
use users::Users;
use ways::Looks;

/// The backend. All clones are one.
#[derive(Debug, Clone, Default)]
struct Iscsi {
    sysfs: Sysfs,
    admin: Admin,
    /// Targets that are being logged in to or out of: two volumes may share their sessions.
    targets: Locks,
    /// The volumes of this node; changed with the target's lock held.
    users: Users,
    /// For ways that are missing.
    looks: Looks,
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks again and again until there is an answer; after `patience`, why there was none at last.
fn patiently<T, E>(patience: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            answer => return answer,
        }
    }
}

/// Opens the backend.
///
/// # Errors
/// None now.
pub fn open(_: &StorageConfig) -> Result<Box<dyn Backend>, Fault> {
    if let Err(error) = Admin::default().tidy() {
        tracing::warn!("records of iscsiadm that were being written cannot be removed: {error}");
    }
    // Beside us: it takes some seconds to be sure, and whoever needs the lock waits for it longer than that.
    thread::spawn(|| {
        if let Err(error) = Admin::default().unlock() {
            tracing::warn!("iscsiadm's lock cannot be removed: {error}");
        }
    });
    Ok(Box::new(Iscsi::default()))
}

const NODE: &[NodeRpc] = &[
    NodeRpc::StageUnstageVolume,
    NodeRpc::GetVolumeStats,
    NodeRpc::ExpandVolume,
    NodeRpc::VolumeCondition,
    NodeRpc::SingleNodeMultiWriter,
    NodeRpc::VolumeMountGroup,
];

impl Iscsi {
    /// Ways without a session.
    fn missing<'t>(&self, target: &'t Target) -> Result<Vec<&'t Portal>, Fault> {
        let there = target.taken(&self.sysfs)?;
        let is_missing = |portal: &&Portal| !there.iter().any(|session| session.portal == **portal);
        Ok(target.portals.iter().filter(is_missing).collect())
    }

    /// Sessions by every way that is there or can be had of those that are missing; warns of those that cannot.
    fn sessions(&self, target: &Target, missing: &[&Portal], auth: &Auth) -> Result<Vec<Session>, Fault> {
        // Side by side: one that does not answer keeps nobody waiting but itself.
        let faults: Vec<Fault> = thread::scope(|scope| {
            let logins: Vec<_> = missing
                .iter()
                .map(|portal| scope.spawn(move || self.admin.login(target, portal, auth)))
                .collect();
            let ended = logins.into_iter().map(|login| {
                login
                    .join()
                    .unwrap_or_else(|_| Err(Fault::Unavailable("the login failed inside the driver".into())))
            });
            ended.filter_map(Result::err).collect()
        });
        let sessions = target.taken(&self.sysfs)?;
        match faults.into_iter().next() {
            Some(fault) if sessions.is_empty() => Err(fault),
            Some(fault) => {
                tracing::warn!(iqn = %target.iqn, "one way of {}: {fault}", target.portals.len());
                Ok(sessions)
            }
            None if sessions.is_empty() => {
                Err(Fault::Unavailable(format!("{}: no session came up", target.iqn)))
            }
            None => Ok(sessions),
        }
    }

    /// The unit's disks by all sessions, one unit by all of them.
    fn disks(&self, target: &Target, sessions: &[Session]) -> Result<Vec<Disk>, Fault> {
        let mut disks = Vec::new();
        let mut fault = None;
        for session in sessions {
            let found = self.sysfs.find(session, target.lun).and_then(|disk| {
                sysfs::until_it_opens(&disk.node(), sysfs::PATIENCE)?;
                Ok(disk)
            });
            match found {
                Ok(disk) => disks.push(disk),
                Err(error) => fault = Some(error),
            }
        }
        if let (Some(fault), true) = (fault, disks.is_empty()) {
            return Err(fault);
        }
        let identities: Result<Vec<String>, Fault> =
            disks.iter().map(|disk| self.sysfs.identity(disk)).collect();
        if disks.len() > 1 && identities?.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Fault::Precondition(format!(
                "the portals of {} lead to different units: they are not ways to one volume",
                target.iqn
            )));
        }
        Ok(disks)
    }

    /// The unit's disks now, each with the session that brings it.
    fn present(&self, target: &Target) -> Result<Vec<(Session, Option<Disk>)>, Fault> {
        let with_disk = |session: Session| {
            let disk = self.sysfs.disk(&session, target.lun);
            (session, disk)
        };
        Ok(target.taken(&self.sysfs)?.into_iter().map(with_disk).collect())
    }

    /// Ways by which a login began and whose end nobody knows: each has a record, and no session.
    fn cut_short<'t>(&self, target: &'t Target) -> Result<Vec<&'t Portal>, Fault> {
        let missing = self.missing(target)?.into_iter();
        Ok(missing.filter(|portal| self.admin.knows(target, portal)).collect())
    }

    /// Whether all sessions of a target with several ways bring a disk of one device.
    fn is_one_device(&self, target: &Target) -> Result<bool, Fault> {
        let present = self.present(target)?;
        let disks: Vec<Disk> = present.iter().filter_map(|(_, disk)| disk.clone()).collect();
        let is_one = disks.len() == present.len() && multipath::common(&self.sysfs, &disks).is_some();
        Ok(target.portals.len() == 1 || is_one)
    }

    /// Looks, beside us, whether ways that are missing can be had by now.
    fn look_again(&self, id: &VolumeId, target: &Target) {
        if !self.looks.is_time(&target.iqn) {
            return;
        }
        let (all, id, target) = (self.clone(), id.clone(), target.clone());
        thread::spawn(move || {
            // Whatever is against it now is looked at the next time.
            if let Err(fault) = all.complete(&id, &target) {
                tracing::info!(volume = %id, "a way that is missing: {fault}");
            }
        });
    }

    /// Takes the ways that could not be had before, with what the others were taken with.
    fn complete(&self, id: &VolumeId, target: &Target) -> Result<(), Fault> {
        let answering: Vec<&Portal> =
            self.missing(target)?.into_iter().filter(|way| ways::answers(way)).collect();
        if answering.is_empty() && self.is_one_device(target)? {
            return Ok(());
        }
        let _held = self.targets.take([target.iqn.as_str()])?;
        let taken = target.taken(&self.sysfs)?;
        let up = taken.iter().find(|session| session.is_up && self.admin.knows(target, &session.portal));
        // It may have been taken away meanwhile, or lose the way that is left.
        let (true, Some(up)) = (self.users.has(id), up) else { return Ok(()) };
        let auth = self.admin.auth(target, &up.portal)?;
        let sessions = self.sessions(target, &answering, &auth)?;
        let disks = self.disks(target, &sessions)?;
        multipath::assemble(&self.sysfs, &disks)?;
        tracing::info!(volume = %id, ways = disks.len(), "ways that were missing are taken");
        Ok(())
    }
}

/// Whether nothing may write to the unit itself. A single reader of files may still replay their journal.
fn is_only_read(access: &Access) -> bool {
    match access.kind {
        AccessType::Block => access.mode.is_read_only(),
        AccessType::Mount(_) => access.mode.is_read_only() && !access.mode.is_single_node(),
    }
}

impl Backend for Iscsi {
    fn kind(&self) -> BackendKind {
        BackendKind::Iscsi
    }

    fn features(&self) -> Features {
        Features {
            controller: &[],
            node: NODE,
            groups: false,
            topology: false,
            options: OptionSet::FILE_SYSTEM,
            ephemeral: false,
        }
    }

    fn accepts(&self, access: &Access) -> Result<(), Fault> {
        match access.kind {
            // ext4 and XFS are one node's: a second one that writes, or reads what another writes, breaks them.
            AccessType::Mount(_) if !access.mode.is_single_node() && !access.mode.is_read_only() => {
                Err(Fault::Invalid(format!(
                    "{}: a file system on an iSCSI volume is one node's to write; use a SINGLE_NODE mode, or a block volume",
                    access.mode.name()
                )))
            }
            _ => Ok(()),
        }
    }

    fn remember(&self, staged: &[Staged]) {
        for held in staged {
            if let Ok(target) = Target::parse(&held.context) {
                self.users.add(&held.id, &target);
            }
        }
    }

    fn attach(&self, wanted: &Attachment<'_>) -> Result<Source, Fault> {
        let target = Target::parse(wanted.context)?;
        let chap = target.chap(wanted.secrets)?;
        let _held = self.targets.take([target.iqn.as_str()])?;
        self.users.add(wanted.id, &target);
        let missing = self.missing(&target)?;
        let sessions = self.sessions(&target, &missing, &Auth::of(chap.as_ref()))?;
        let disks = self.disks(&target, &sessions)?;
        let device = match (target.portals.len(), disks.as_slice()) {
            // Another volume may have come by several ways to the same unit.
            (1, [disk]) if multipath::map_of(&self.sysfs, disk).is_none() => disk.node(),
            _ => multipath::assemble(&self.sysfs, &disks)?,
        };
        let only_read = is_only_read(wanted.access);
        if !self.users.others(wanted.id, &target).share(target.lun) {
            read_only::set(&device, only_read)?;
        }
        if only_read && wanted.access.mount().is_some() && filesystem::look(&device)? == Content::Blank {
            return Err(Fault::Precondition(format!(
                "unit {} of {} is blank: there is nothing to read; stage it once for one writer",
                target.lun, target.iqn
            )));
        }
        Ok(Source::Device(device))
    }

    fn detach(&self, staged: &Staged) -> Result<(), Fault> {
        // A context that makes no sense never brought anything.
        let Ok(target) = Target::parse(&staged.context) else { return Ok(()) };
        let _held = self.targets.take([target.iqn.as_str()])?;
        let others = self.users.others(&staged.id, &target);
        let present = self.present(&target)?;
        let disks: Vec<&Disk> = present.iter().filter_map(|(_, disk)| disk.as_ref()).collect();
        let has_map = disks.iter().any(|disk| multipath::map_of(&self.sysfs, disk).is_some());
        match others.share(target.lun) {
            false if has_map || target.portals.len() > 1 => multipath::flush(&self.sysfs, &disks)?,
            // No device came of it, since another volume has the unit's disk as it is.
            true if !has_map && target.portals.len() > 1 => multipath::forget(&self.sysfs, &disks)?,
            _ => {}
        }
        for (session, disk) in &present {
            let Some(disk) = disk else { continue };
            if others.share_by(target.lun, &session.portal) {
                tracing::info!(volume = %staged.id, disk = disk.name(), "stays: another volume is the same unit");
                continue;
            }
            multipath::leave(&self.sysfs, disk)?;
            self.sysfs.remove(disk)?;
        }
        for (session, _) in &present {
            if !self.sysfs.is_used(session) && !others.go_by(&session.portal) {
                self.admin.logout(&target, &session.portal)?;
            }
        }
        for portal in self.cut_short(&target)? {
            if !others.go_by(portal) {
                self.admin.abandon(&target, portal)?;
            }
        }
        self.users.remove(&staged.id);
        Ok(())
    }

    fn waits(&self, staged: &Staged) -> bool {
        let Ok(target) = Target::parse(&staged.context) else { return false };
        self.cut_short(&target).is_ok_and(|ways| !ways.is_empty())
    }

    fn grow(&self, staged: &Staged, range: CapacityRange) -> Result<(), Fault> {
        let target = Target::parse(&staged.context)?;
        let disks: Vec<Disk> = self.present(&target)?.into_iter().filter_map(|(_, disk)| disk).collect();
        let bytes = range.required.unwrap_or_default();
        for disk in &disks {
            self.sysfs.rescan(disk, bytes)?;
        }
        match disks.iter().find_map(|disk| multipath::map_of(&self.sysfs, disk)) {
            Some(map) if disks.iter().any(|disk| self.sysfs.size(disk.name()) > self.sysfs.size(&map)) => {
                multipath::grow(&self.sysfs, &map)
            }
            _ => Ok(()),
        }
    }

    fn condition(&self, staged: &Staged) -> Condition {
        let ways = || -> Result<(usize, usize), Fault> {
            let target = Target::parse(&staged.context)?;
            let up = target.taken(&self.sysfs)?.iter().filter(|session| session.is_up).count();
            let is_complete = self.missing(&target)?.is_empty() && self.is_one_device(&target)?;
            if staged.made.is_some() && !is_complete {
                self.look_again(&staged.id, &target);
            }
            Ok((up, target.portals.len()))
        };
        match ways() {
            Ok((up, all)) if up == all => Condition::Normal,
            Ok((up, all)) => Condition::Abnormal(format!("{up} of {all} ways to the target are up")),
            Err(fault) => Condition::Abnormal(fault.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AccessMode;
    use std::fs;

    fn staged(id: &str, iqn: &str, lun: &str) -> Staged {
        let entries = [("iqn", iqn), ("lun", lun), ("targetPortal", "10.0.2.2")];
        Staged {
            id: VolumeId::parse(id).unwrap(),
            path: None,
            access: Access { mode: AccessMode::SingleNodeWriter, kind: AccessType::Block },
            context: entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            publish: Default::default(),
            made: None,
        }
    }

    #[test]
    fn a_disk_that_two_volumes_name_goes_with_the_last() {
        let (root, sysfs) = sysfs::tests::sys();
        let deleted = root.path().join("block/sdzzz/device/delete");
        let is_deleted = || !fs::read_to_string(&deleted).unwrap().is_empty();
        let iscsi = Iscsi { sysfs, ..Default::default() };
        let unit = |id: &str| staged(id, "iqn.2026-11.test:b", "1");
        // The driver was started anew while both were there.
        iscsi.remember(&[unit("a"), unit("b")]);
        iscsi.detach(&unit("b")).unwrap();
        assert!(!is_deleted(), "the other volume has lost its disk");
        // One that never came to anything, and one on another unit.
        iscsi.detach(&unit("c")).unwrap();
        iscsi.detach(&staged("d", "iqn.2026-11.test:b", "2")).unwrap();
        assert!(!is_deleted());
        iscsi.detach(&unit("a")).unwrap();
        assert!(is_deleted());
    }
}
