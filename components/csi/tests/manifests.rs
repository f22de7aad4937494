//! The manifests of docs/deploy and the examples of the documentation: every key is Kubernetes', and what they say is what
//! the drivers and the sidecars understand.

#![allow(clippy::unwrap_used)]

mod cluster;
mod lab;

use cairn_contract::{csi::controller_service_capability::rpc::Type as ControllerRpc, storage::BackendKind};
use cluster::{
    Cluster,
    driver::{Drivers, Use, kind_of},
    kinds::{AccessMode, BindingMode, Claim, Object, StorageClass, Texts, VolumeMode},
    rbac::Sidecar,
};
use lab::{Lab, MIB, Mode, mount, obstacle, wanted};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Below these keys, keys are the user's.
const FREE: [&str; 6] = ["labels", "matchLabels", "parameters", "volumeAttributes", "stringData", "drop"];

/// All documents with one key too many, each in another place.
fn misspelt(value: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    match value {
        Value::Object(entries) => {
            let mut more = entries.clone();
            more.insert("misspelt".into(), "value".into());
            found.push(Value::Object(more));
            for (key, inner) in entries.iter().filter(|(key, _)| !FREE.contains(&key.as_str())) {
                found.extend(misspelt(inner).into_iter().map(|wrong| {
                    let mut whole = entries.clone();
                    whole.insert(key.clone(), wrong);
                    Value::Object(whole)
                }));
            }
        }
        Value::Array(entries) => {
            for (index, inner) in entries.iter().enumerate() {
                found.extend(misspelt(inner).into_iter().map(|wrong| {
                    let mut whole = entries.clone();
                    whole[index] = wrong;
                    Value::Array(whole)
                }));
            }
        }
        _ => {}
    }
    found
}

#[test]
fn a_misspelt_key_is_noticed_wherever_it_is() {
    let cluster = Cluster::read();
    let mut tried = 0;
    for document in &cluster.0 {
        for wrong in misspelt(&document.value) {
            assert!(Object::parse(&wrong).is_err(), "{}: {wrong:#}", document.file);
            tried += 1;
        }
        let mut wrong = document.value.clone();
        wrong["apiVersion"] = "v0".into();
        assert!(Object::parse(&wrong).is_err(), "{}: {wrong:#}", document.file);
    }
    assert!(tried > cluster.0.len());
}

#[test]
fn names_are_there_once() {
    let cluster = Cluster::read();
    let mut seen = BTreeSet::new();
    for document in &cluster.0 {
        let metadata = document.object.metadata();
        let name = (document.value["kind"].to_string(), metadata.namespace.clone(), metadata.name.clone());
        assert!(seen.insert(name.clone()), "{}: {name:?} is there twice", document.file);
    }
}

fn classes(cluster: &Cluster) -> BTreeMap<&str, &StorageClass> {
    let found = cluster.objects().filter_map(|object| match object {
        Object::StorageClass(class) => Some((class.metadata.name.as_str(), class)),
        _ => None,
    });
    found.collect()
}

#[test]
fn classes_are_understood_by_their_drivers() {
    let (cluster, drivers) = (Cluster::read(), Drivers::open());
    let classes = classes(&cluster);
    for (name, class) in &classes {
        let kind = kind_of(&class.provisioner).unwrap();
        let features = drivers.features(kind);
        let made = drivers.makes(class, &[AccessMode::OneNode], VolumeMode::Filesystem);
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            class.volume_binding_mode == BindingMode::WaitForFirstConsumer,
            features.topology,
            "{name}: a volume of one node waits for its pod"
        );
        let expands = features.controller.contains(&ControllerRpc::ExpandVolume);
        assert_eq!(class.allow_volume_expansion, expands, "{name}");
        let key = |what: &str| class.parameters.get(&format!("csi.storage.k8s.io/{what}"));
        for (stage, expand) in [
            ("node-stage-secret-name", "node-expand-secret-name"),
            ("node-stage-secret-namespace", "node-expand-secret-namespace"),
        ] {
            assert_eq!(key(stage), key(expand), "{name}: what is opened is also grown");
        }
        if let (Some(secret), Some(namespace)) =
            (key("node-stage-secret-name"), key("node-stage-secret-namespace"))
        {
            let secret = secret_of(&cluster, namespace, secret);
            let unlocked = drivers.unlocks(&class.provisioner, &class.parameters, secret);
            unlocked.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let mut wrong = (*class).clone();
        wrong.parameters.insert("misspelt".to_owned(), "value".to_owned());
        assert!(drivers.makes(&wrong, &[AccessMode::OneNode], VolumeMode::Filesystem).is_err());
    }
    let mut changing = BTreeSet::new();
    for object in cluster.objects() {
        let Object::VolumeAttributesClass(class) = object else { continue };
        let taken = drivers.modifies(&class.driver_name, &class.parameters);
        taken.unwrap_or_else(|error| panic!("{}: {error}", class.metadata.name));
        let wrong = Texts::from([("misspelt".to_owned(), "1".to_owned())]);
        assert!(drivers.modifies(&class.driver_name, &wrong).is_err());
        changing.insert(class.driver_name.as_str());
    }
    let with_classes: BTreeSet<&str> = classes.values().map(|class| class.provisioner.as_str()).collect();
    for kind in BackendKind::ALL {
        let makes = Sidecar::Provisioner.serves(&drivers.features(kind));
        assert_eq!(with_classes.contains(kind.driver()), makes, "{kind:?}");
        let modifies = drivers.features(kind).controller.contains(&ControllerRpc::ModifyVolume);
        assert_eq!(changing.contains(kind.driver()), modifies, "{kind:?}");
    }
}

fn secret_of<'a>(cluster: &'a Cluster, namespace: &str, name: &str) -> &'a Texts {
    let found = cluster.objects().find_map(|object| match object {
        Object::Secret(secret) => {
            let metadata = &secret.metadata;
            let same = metadata.name == name && metadata.namespace.as_deref() == Some(namespace);
            same.then_some(&secret.string_data)
        }
        _ => None,
    });
    found.unwrap_or_else(|| panic!("there is no secret {namespace}/{name}"))
}

fn claims(cluster: &Cluster) -> BTreeMap<(&str, &str), &Claim> {
    let found = cluster.objects().filter_map(|object| match object {
        Object::PersistentVolumeClaim(claim) => {
            let metadata = &claim.metadata;
            Some(((metadata.namespace.as_deref().unwrap(), metadata.name.as_str()), &claim.spec))
        }
        _ => None,
    });
    found.collect()
}

#[test]
fn volumes_by_hand_are_understood_and_fit_their_claims() {
    let (cluster, drivers) = (Cluster::read(), Drivers::open());
    let claims = claims(&cluster);
    let mut seen = BTreeSet::new();
    for object in cluster.objects() {
        let Object::PersistentVolume(volume) = object else { continue };
        let (name, spec) = (&volume.metadata.name, &volume.spec);
        let wanted = Use {
            modes: &spec.access_modes,
            volume: spec.volume_mode,
            fs_type: &spec.csi.fs_type,
            flags: &spec.mount_options,
        };
        drivers.uses(&spec.csi, wanted).unwrap_or_else(|error| panic!("{name}: {error}"));
        seen.insert(kind_of(&spec.csi.driver).unwrap());
        if let Some(secret) = &spec.csi.node_stage_secret_ref {
            let secret = secret_of(&cluster, &secret.namespace, &secret.name);
            let unlocked = drivers.unlocks(&spec.csi.driver, &spec.csi.volume_attributes, secret);
            unlocked.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let claim = &spec.claim_ref;
        let claim = claims[&(claim.namespace.as_str(), claim.name.as_str())];
        assert_eq!(claim.volume_name.as_ref(), Some(name));
        assert_eq!(claim.storage_class_name, spec.storage_class_name, "{name}");
        assert_eq!(claim.volume_mode, spec.volume_mode, "{name}");
        assert!(claim.access_modes.iter().all(|mode| spec.access_modes.contains(mode)), "{name}");
        assert!(claim.resources.requests.storage <= spec.capacity.storage, "{name}");
    }
    assert_eq!(seen, [BackendKind::Nfs, BackendKind::Iscsi].into());
}

#[test]
fn claims_name_what_there_is() {
    let (cluster, drivers) = (Cluster::read(), Drivers::open());
    let (classes, claims) = (classes(&cluster), claims(&cluster));
    let there = |kind: &str, namespace: Option<&str>, name: &str| {
        cluster.0.iter().any(|held| {
            let metadata = held.object.metadata();
            held.value["kind"] == kind && metadata.namespace.as_deref() == namespace && metadata.name == name
        })
    };
    for ((namespace, name), claim) in &claims {
        if claim.storage_class_name.is_empty() {
            let volume = claim.volume_name.as_deref().unwrap_or_default();
            assert!(there("PersistentVolume", None, volume), "{name}: no class, and no volume {volume:?}");
        } else {
            let class = classes.get(claim.storage_class_name.as_str());
            let class = class.unwrap_or_else(|| panic!("{name}: no class {}", claim.storage_class_name));
            let made = drivers.makes(class, &claim.access_modes, claim.volume_mode);
            made.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        if let Some(class) = &claim.volume_attributes_class_name {
            assert!(there("VolumeAttributesClass", None, class), "{name}: {class}");
        }
        if let Some(source) = &claim.data_source {
            let group = (source.kind == "VolumeSnapshot").then(|| "snapshot.storage.k8s.io".to_owned());
            assert_eq!(source.api_group, group, "{name}");
            assert!(there(&source.kind, Some(namespace), &source.name), "{name}: {}", source.name);
        }
    }
    for object in cluster.objects() {
        let namespace = object.metadata().namespace.as_deref();
        match object {
            Object::VolumeSnapshot(snapshot) => {
                let spec = &snapshot.spec;
                assert!(there("VolumeSnapshotClass", None, &spec.volume_snapshot_class_name));
                let claim = &spec.source.persistent_volume_claim_name;
                assert!(there("PersistentVolumeClaim", namespace, claim), "{claim}");
            }
            Object::VolumeGroupSnapshot(group) => {
                assert!(there(
                    "VolumeGroupSnapshotClass",
                    None,
                    &group.spec.volume_group_snapshot_class_name
                ));
                let selected = &group.spec.source.selector.match_labels;
                let fits = cluster.objects().any(|object| {
                    let labels = &object.metadata().labels;
                    matches!(object, Object::PersistentVolumeClaim(_))
                        && selected.iter().all(|(key, value)| labels.get(key) == Some(value))
                });
                assert!(fits, "{selected:?}");
            }
            Object::Pod(pod) => {
                pod.spec.check().unwrap_or_else(|error| panic!("{}: {error}", pod.metadata.name));
                for volume in &pod.spec.volumes {
                    let uses = |device: bool| {
                        pod.spec.containers.iter().any(|held| match device {
                            true => held.volume_devices.iter().any(|used| used.name == volume.name),
                            false => held.volume_mounts.iter().any(|used| used.name == volume.name),
                        })
                    };
                    if let Some(claim) = &volume.persistent_volume_claim {
                        let claim = claims.get(&(namespace.unwrap(), claim.claim_name.as_str()));
                        let block = claim.unwrap_or_else(|| panic!("{}", volume.name)).volume_mode;
                        assert_eq!(uses(true), block == VolumeMode::Block, "{}", volume.name);
                    }
                    if let Some(inline) = &volume.csi {
                        assert!(uses(false));
                        let made =
                            drivers.inlines(&inline.driver, &inline.volume_attributes, &inline.fs_type);
                        made.unwrap_or_else(|error| panic!("{}: {error}", volume.name));
                    }
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn local_classes_make_volumes() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let cluster = Cluster::read();
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let classes = classes(&cluster);
    let local = classes.iter().filter(|(_, class)| class.provisioner == BackendKind::Local.driver());
    for (name, class) in local {
        let parameters: Vec<(&str, &str)> =
            class.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        // The provisioner hands this one over in the capability.
        let fs_type = class.parameters.get("csi.storage.k8s.io/fstype").map_or("", String::as_str);
        if !fs_type.is_empty() && !lab::has_program(&format!("mkfs.{fs_type}")) {
            println!("skipped: {name}: needs mkfs.{fs_type}");
            continue;
        }
        let capability = mount(fs_type, Mode::SingleNodeWriter);
        let made = clients.create(wanted(name, 320 * MIB, &capability, &parameters)).await;
        let made = made.unwrap_or_else(|status| panic!("{name}: {status:?}"));
        clients.delete(&made.volume_id).await.unwrap();
    }
}
