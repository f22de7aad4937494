//! What runs in the cluster: drivers announced as they are, sidecars that find them, and their rights.

use super::{
    Cluster,
    driver::{Drivers, kind_of},
    kinds::{CsiDriver, FsGroupPolicy, Lifecycle, Object, Texts},
    rbac::{Sidecar, given},
    workload::{FieldPath, Template},
};
use cairn_contract::{
    csi::{
        controller_service_capability::rpc::Type as ControllerRpc,
        node_service_capability::rpc::Type as NodeRpc,
    },
    paths,
    storage::BackendKind,
};
use std::collections::BTreeSet;

/// Where controllers, their accounts and their leases are.
const NAMESPACE: &str = "kube-system";

#[test]
fn every_driver_is_announced_as_it_is() {
    let (cluster, drivers) = (Cluster::read(), Drivers::open());
    for kind in BackendKind::ALL {
        let features = drivers.features(kind);
        let announced: Vec<_> = cluster
            .of(kind)
            .filter_map(|object| match object {
                Object::CsiDriver(held) => Some(held),
                _ => None,
            })
            .collect();
        assert_eq!(announced.len(), 1, "{kind:?}");
        assert_eq!(announced[0].metadata.name, kind.driver());
        let spec: &CsiDriver = &announced[0].spec;
        assert_eq!(
            spec.attach_required,
            features.controller.contains(&ControllerRpc::PublishUnpublishVolume),
            "{kind:?}: without an attacher pods would wait for one"
        );
        let capacity = features.topology && features.controller.contains(&ControllerRpc::GetCapacity);
        assert_eq!(spec.storage_capacity, capacity, "{kind:?}");
        // The group is the driver's to give, whatever the volume is.
        assert!(features.node.contains(&NodeRpc::VolumeMountGroup));
        assert_eq!(spec.fs_group_policy, FsGroupPolicy::File, "{kind:?}");
        let inline = spec.volume_lifecycle_modes.contains(&Lifecycle::Ephemeral);
        assert!(spec.volume_lifecycle_modes.contains(&Lifecycle::Persistent));
        assert_eq!(inline, features.ephemeral, "{kind:?}");
        assert_eq!(spec.pod_info_on_mount, features.ephemeral, "{kind:?}: told by it what is inline");
        assert!(!spec.requires_republish && !spec.se_linux_mount, "{kind:?}");
    }
}

/// Template, how many replicas, and whether there is one on every node.
fn workloads(cluster: &Cluster, kind: BackendKind) -> Vec<(&Texts, &Template, u32, bool)> {
    let found = cluster.of(kind).filter_map(|object| match object {
        Object::DaemonSet(held) => Some((&held.spec.selector.match_labels, &held.spec.template, 1, true)),
        Object::Deployment(held) => {
            Some((&held.spec.selector.match_labels, &held.spec.template, held.spec.replicas, false))
        }
        _ => None,
    });
    found.collect()
}

#[test]
fn sidecars_find_the_driver_and_have_their_rights() {
    let (cluster, drivers) = (Cluster::read(), Drivers::open());
    for kind in BackendKind::ALL {
        let features = drivers.features(kind);
        let mut running = BTreeSet::new();
        let (mut cluster_needs, mut own_needs) = (BTreeSet::new(), BTreeSet::new());
        let mut accounts = BTreeSet::new();
        for (selected, template, replicas, everywhere) in workloads(&cluster, kind) {
            assert!(selected.iter().all(|(key, value)| template.metadata.labels.get(key) == Some(value)));
            let pod = &template.spec;
            pod.check().unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            accounts.insert(pod.service_account_name.clone().unwrap());
            // Only where a driver has registered; on other nodes the directory is not there, and the pod would hang.
            let keys = pod.affinity.iter().flat_map(|held| &held.node_affinity.required.node_selector_terms);
            let mut keys = keys.flat_map(|term| &term.match_expressions).map(|term| term.key.as_str());
            assert!(keys.any(|key| key == format!("topology.{}/node", BackendKind::Local.driver())));
            let sockets = pod
                .volumes
                .iter()
                .find(|volume| volume.host_path.as_ref().is_some_and(|host| host.path == paths::CSI_RUN));
            let sockets = sockets.unwrap_or_else(|| panic!("{kind:?}: no volume is {}", paths::CSI_RUN));
            for container in &pod.containers {
                let sidecar = Sidecar::of(container);
                assert!(sidecar.serves(&features), "{kind:?} has nothing for {sidecar:?} to do");
                assert!(running.insert(sidecar), "{kind:?}: {sidecar:?} is there twice");
                let mounted = container.volume_mounts.iter().find(|mount| mount.name == sockets.name);
                let socket = kind.socket(mounted.unwrap().mount_path.as_ref());
                let has = |argument: &str| container.args.iter().any(|held| held == argument);
                assert!(has(&format!("--csi-address={}", socket.display())), "{kind:?} {sidecar:?}");
                let knows = |name: &str, what: FieldPath| {
                    let held = container.env.iter().find(|variable| variable.name == name);
                    held.is_some_and(|variable| variable.value_from.field_ref.field_path == what)
                };
                // The resizer has no such mode.
                let per_node = everywhere && sidecar != Sidecar::Resizer;
                assert_eq!(has("--node-deployment=true"), per_node, "{kind:?} {sidecar:?}");
                assert!(!per_node || knows("NODE_NAME", FieldPath::NodeName));
                assert_eq!(has("--leader-election=true"), replicas > 1, "{kind:?} {sidecar:?}");
                if has("--leader-election=true") {
                    assert!(has("--leader-election-namespace=$(NAMESPACE)"));
                    assert!(knows("NAMESPACE", FieldPath::Namespace));
                    // Who does not get its lease renewed is to be restarted.
                    let probe = container.liveness_probe.as_ref().unwrap();
                    assert_eq!(probe.http_get.path, "/healthz/leader-election");
                    let port = container.ports.iter().find(|port| port.name == probe.http_get.port).unwrap();
                    assert!(has(&format!("--http-endpoint=:{}", port.container_port)));
                }
                if sidecar == Sidecar::Provisioner {
                    assert_eq!(has("--enable-capacity=true"), features.topology, "{kind:?}");
                    assert_eq!(has("--strict-topology=true"), features.topology, "{kind:?}");
                    assert!(!features.topology || knows("NAMESPACE", FieldPath::Namespace));
                    assert!(!features.topology || knows("POD_NAME", FieldPath::Name));
                }
                if sidecar == Sidecar::Snapshotter {
                    assert_eq!(Sidecar::makes_groups(&container.args), features.groups, "{kind:?}");
                }
                let security = container.security_context.as_ref().unwrap();
                assert!(!security.allow_privilege_escalation && security.read_only_root_filesystem);
                assert_eq!((security.run_as_user, security.capabilities.drop.join(" ")), (0, "ALL".into()));
                let needs = sidecar.needs(&container.args, &features);
                cluster_needs.extend(needs.cluster);
                own_needs.extend(needs.own);
            }
        }
        let expected: BTreeSet<Sidecar> =
            Sidecar::ALL.into_iter().filter(|sidecar| sidecar.serves(&features)).collect();
        assert_eq!(running, expected, "{kind:?}");

        let (mut cluster_rights, mut own_rights) = (BTreeSet::new(), BTreeSet::new());
        let (mut bound, mut there) = (BTreeSet::new(), BTreeSet::new());
        for object in cluster.of(kind) {
            assert!(object.metadata().namespace.as_deref().is_none_or(|held| held == NAMESPACE), "{kind:?}");
            match object {
                Object::ClusterRole(role) => cluster_rights.extend(given(&role.rules)),
                Object::Role(role) => own_rights.extend(given(&role.rules)),
                Object::ServiceAccount(account) => {
                    there.insert(account.metadata.name.clone());
                }
                Object::ClusterRoleBinding(binding) | Object::RoleBinding(binding) => {
                    assert_eq!(binding.role_ref.api_group, "rbac.authorization.k8s.io");
                    for subject in &binding.subjects {
                        assert_eq!(subject.kind, "ServiceAccount");
                        assert_eq!(subject.namespace, NAMESPACE);
                        bound.insert((
                            subject.name.clone(),
                            binding.role_ref.kind.clone(),
                            binding.role_ref.name.clone(),
                        ));
                    }
                }
                _ => {}
            }
        }
        // No right is missing, and none is there that nobody needs.
        assert_eq!(cluster_rights, cluster_needs, "{kind:?}");
        assert_eq!(own_rights, own_needs, "{kind:?}");
        assert_eq!(there, accounts, "{kind:?}");
        let each = accounts.iter().flat_map(|account| {
            ["ClusterRole", "Role"].map(|role| (account.clone(), role.to_owned(), account.clone()))
        });
        assert_eq!(bound, each.collect(), "{kind:?}: every account has its role and cluster role");
    }
}

#[test]
fn snapshot_classes_have_a_snapshotter() {
    let (cluster, drivers) = (Cluster::read(), Drivers::open());
    let mut seen = 0;
    for object in cluster.objects() {
        let (driver, groups, labels) = match object {
            Object::VolumeSnapshotClass(class) => (&class.driver, false, &class.metadata.labels),
            Object::VolumeGroupSnapshotClass(class) => (&class.driver, true, &class.metadata.labels),
            _ => continue,
        };
        seen += 1;
        let kind = kind_of(driver).unwrap();
        let snapshotters: Vec<_> = workloads(&cluster, kind)
            .into_iter()
            .flat_map(|(_, template, _, everywhere)| {
                template.spec.containers.iter().map(move |container| (container, everywhere))
            })
            .filter(|(container, _)| Sidecar::of(container) == Sidecar::Snapshotter)
            .collect();
        assert_eq!(snapshotters.len(), 1, "{driver}");
        let (snapshotter, everywhere) = snapshotters[0];
        if groups {
            assert!(drivers.features(kind).groups && Sidecar::makes_groups(&snapshotter.args), "{driver}");
            // A snapshotter with --node-deployment sees no class of groups without it (cmd/csi-snapshotter/main.go, v8.6.0).
            assert_eq!(labels.contains_key("snapshot.storage.kubernetes.io/managed-by"), everywhere);
        }
    }
    assert!(seen > 0);
}
