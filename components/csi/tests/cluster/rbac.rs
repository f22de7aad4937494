//! What the sidecars ask the API server for: deploy/kubernetes/rbac.yaml of external-provisioner v6.3.0, external-resizer v2.2.1
//! and external-snapshotter v8.6.0, and the comments there, which say what is only needed when.

use super::{kinds::Rule, workload::Container};
use cairn_contract::csi::controller_service_capability::rpc::Type as ControllerRpc;
use cairn_csi::backend::Features;
use std::collections::BTreeSet;

/// Group, resource, verb.
pub type Grant = (String, String, String);

/// A sidecar of kubernetes-csi, by its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sidecar {
    Provisioner,
    Resizer,
    Snapshotter,
}

/// In the cluster, and in the sidecar's own namespace.
#[derive(Debug, Default)]
pub struct Needs {
    pub cluster: BTreeSet<Grant>,
    pub own: BTreeSet<Grant>,
}

const GROUP_SNAPSHOTS: &str = "--feature-gates=CSIVolumeGroupSnapshot=true";

impl Sidecar {
    pub const ALL: [Self; 3] = [Self::Provisioner, Self::Resizer, Self::Snapshotter];

    fn image(self) -> &'static str {
        match self {
            Self::Provisioner => "csi-provisioner:v6.3.0",
            Self::Resizer => "csi-resizer:v2.2.1",
            Self::Snapshotter => "csi-snapshotter:v8.6.0",
        }
    }

    /// The one that a container is, in the release whose rules are here.
    pub fn of(container: &Container) -> Self {
        let is = |sidecar: &Self| container.image.ends_with(&format!("/sig-storage/{}", sidecar.image()));
        Self::ALL
            .into_iter()
            .find(is)
            .unwrap_or_else(|| panic!("{} is not known here, or in another release", container.image))
    }

    /// Whether a driver has work for it.
    pub fn serves(self, features: &Features) -> bool {
        features.controller.contains(&match self {
            Self::Provisioner => ControllerRpc::CreateDeleteVolume,
            Self::Resizer => ControllerRpc::ExpandVolume,
            Self::Snapshotter => ControllerRpc::CreateDeleteSnapshot,
        })
    }

    /// What it asks for, with these arguments and for such a driver.
    pub fn needs(self, arguments: &[String], features: &Features) -> Needs {
        let has = |argument: &str| arguments.iter().any(|held| held == argument);
        let snapshots = features.controller.contains(&ControllerRpc::CreateDeleteSnapshot);
        let modifies = features.controller.contains(&ControllerRpc::ModifyVolume);
        let mut cluster = vec![("", "events", "list watch create update patch")];
        let mut own = Vec::new();
        match self {
            Self::Provisioner => {
                cluster.extend([
                    ("", "persistentvolumes", "get list watch create patch delete"),
                    ("", "persistentvolumeclaims", "get list watch update"),
                    ("", "nodes", "get list watch"),
                    ("storage.k8s.io", "storageclasses", "get list watch"),
                    ("storage.k8s.io", "csinodes", "get list watch"),
                ]);
                if snapshots {
                    cluster.push(("snapshot.storage.k8s.io", "volumesnapshots", "get list watch update"));
                    cluster.push(("snapshot.storage.k8s.io", "volumesnapshotcontents", "get list"));
                }
                if modifies {
                    // Not in upstream's file; pkg/controller/controller.go gets the claim's class.
                    cluster.push(("storage.k8s.io", "volumeattributesclasses", "get"));
                }
                if has("--enable-capacity=true") {
                    own.push((
                        "storage.k8s.io",
                        "csistoragecapacities",
                        "get list watch create update patch delete",
                    ));
                    // Its owner, one level up, is told by the pod.
                    assert!(has("--capacity-ownerref-level=1"));
                    own.push(("", "pods", "get"));
                }
            }
            Self::Resizer => {
                cluster.extend([
                    ("", "persistentvolumes", "get list watch patch"),
                    ("", "persistentvolumeclaims", "get list watch"),
                    ("", "persistentvolumeclaims/status", "patch"),
                ]);
                if !has("--handle-volume-inuse-error=false") {
                    cluster.push(("", "pods", "get list watch"));
                }
                if modifies {
                    cluster.push(("storage.k8s.io", "volumeattributesclasses", "get list watch"));
                }
            }
            Self::Snapshotter => {
                const SNAPSHOTS: &str = "snapshot.storage.k8s.io";
                const GROUPS: &str = "groupsnapshot.storage.k8s.io";
                cluster.extend([
                    (SNAPSHOTS, "volumesnapshotclasses", "get list watch"),
                    (SNAPSHOTS, "volumesnapshotcontents", "get list watch update patch"),
                    (SNAPSHOTS, "volumesnapshotcontents/status", "update patch"),
                ]);
                if has(GROUP_SNAPSHOTS) {
                    cluster.extend([
                        (GROUPS, "volumegroupsnapshotclasses", "get list watch"),
                        (GROUPS, "volumegroupsnapshotcontents", "get list watch update patch"),
                        (GROUPS, "volumegroupsnapshotcontents/status", "update patch"),
                    ]);
                }
            }
        }
        if has("--leader-election=true") {
            own.push(("coordination.k8s.io", "leases", "get list watch create update delete"));
        }
        Needs { cluster: grants(&cluster), own: grants(&own) }
    }

    /// Whether it makes groups of snapshots: off by default up to v8.6.0.
    pub fn makes_groups(arguments: &[String]) -> bool {
        arguments.iter().any(|held| held == GROUP_SNAPSHOTS)
    }
}

fn grants(table: &[(&str, &str, &str)]) -> BTreeSet<Grant> {
    let entry = |&(group, resource, verbs): &(&str, &str, &str)| {
        let verbs: Vec<String> = verbs.split(' ').map(str::to_owned).collect();
        let (group, resource) = (group.to_owned(), resource.to_owned());
        verbs.into_iter().map(move |verb| (group.clone(), resource.clone(), verb))
    };
    table.iter().flat_map(entry).collect()
}

/// What rules give.
pub fn given(rules: &[Rule]) -> BTreeSet<Grant> {
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                all.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
            }
        }
    }
    all
}
