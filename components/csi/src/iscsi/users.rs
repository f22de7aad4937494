//! Which volumes of this node name which units.
//!
//! Two volumes may name one unit: shared on purpose, a persistent volume that was made again, a slip of the pen. Then one that
//! goes must leave to the other what they have in common: the unit's disks, and the ways to the target.

use super::target::{Portal, Target};
use crate::id::VolumeId;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The volumes that are brought to this node, or are being brought or taken away. All clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Users(Arc<Mutex<BTreeMap<VolumeId, Target>>>);

/// The other volumes by the same target.
#[derive(Debug)]
pub(super) struct Others(Vec<Target>);

impl Users {
    /// A volume comes.
    pub(super) fn add(&self, id: &VolumeId, target: &Target) {
        self.lock().insert(id.clone(), target.clone());
    }

    /// A volume is gone.
    pub(super) fn remove(&self, id: &VolumeId) {
        self.lock().remove(id);
    }

    /// Whether a volume is there.
    pub(super) fn has(&self, id: &VolumeId) -> bool {
        self.lock().contains_key(id)
    }

    /// All but this one that are on the same target.
    pub(super) fn others(&self, id: &VolumeId, target: &Target) -> Others {
        let others = self.lock();
        let others = others.iter().filter(|(other, held)| *other != id && held.iqn == target.iqn);
        Others(others.map(|(_, held)| held.clone()).collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Others {
    /// Whether one of them is the same unit.
    pub(super) fn share(&self, lun: u16) -> bool {
        self.0.iter().any(|other| other.lun == lun)
    }

    /// Whether one of them is the same unit by the same way, which is one disk.
    pub(super) fn share_by(&self, lun: u16, portal: &Portal) -> bool {
        self.0.iter().any(|other| other.lun == lun && other.portals.contains(portal))
    }

    /// Whether one of them goes by this way, to whatever unit.
    pub(super) fn go_by(&self, portal: &Portal) -> bool {
        self.0.iter().any(|other| other.portals.contains(portal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_a_unit_a_way_or_both() {
        let portal = |port| Portal { host: "192.0.2.7".into(), port };
        let target = |iqn: &str, lun, ports: &[u16]| Target {
            iqn: iqn.into(),
            portals: ports.iter().copied().map(portal).collect(),
            lun,
            chap: false,
        };
        let id = |text: &str| VolumeId::parse(text).unwrap();
        let users = Users::default();
        let ours = target("iqn.2026-11.test:a", 1, &[1, 2]);
        users.add(&id("ours"), &ours);
        assert!(!users.others(&id("ours"), &ours).share(1), "a volume is not another one");
        users.add(&id("elsewhere"), &target("iqn.2026-11.test:b", 1, &[1]));
        users.add(&id("same unit"), &target("iqn.2026-11.test:a", 1, &[2, 3]));
        users.add(&id("same way"), &target("iqn.2026-11.test:a", 9, &[1]));
        let others = users.others(&id("ours"), &ours);
        assert!(others.share(1));
        assert_eq!([1, 2, 3].map(|port| others.share_by(1, &portal(port))), [false, true, true]);
        assert_eq!([1, 4].map(|port| others.go_by(&portal(port))), [true, false]);
        users.remove(&id("same unit"));
        assert!(!users.others(&id("ours"), &ours).share(1));
    }
}
