//! The manifests of docs/deploy against what the driver has: names, paths, parameters.

#![allow(clippy::unwrap_used)]

mod lab;

use cairn_contract::{paths, storage::BackendKind};
use lab::{Lab, MIB, Mode, mount, obstacle, wanted};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn folder(kind: BackendKind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/deploy").join(kind.name())
}

/// The documents of one driver, by kind and name.
fn documents(kind: BackendKind) -> BTreeMap<(String, String), Value> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder(kind)).into_iter().flatten() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!documents.is_empty(), "{} is empty", path.display());
        for document in documents {
            let text = |pointer: &str| {
                let value = document.pointer(pointer).and_then(Value::as_str);
                value.unwrap_or_else(|| panic!("{}: no {pointer}", path.display())).to_owned()
            };
            let (kind, name) = (text("/kind"), text("/metadata/name"));
            assert!(
                text("/apiVersion").ends_with("v1") || text("/apiVersion").contains("/v1"),
                "{kind} {name}"
            );
            let before = found.insert((kind.clone(), name.clone()), document);
            assert!(before.is_none(), "{kind} {name} is there twice");
        }
    }
    found
}

fn of_kind<'a>(
    documents: &'a BTreeMap<(String, String), Value>,
    kind: &'a str,
) -> impl Iterator<Item = &'a Value> {
    documents.iter().filter(move |((is, _), _)| is == kind).map(|(_, document)| document)
}

#[test]
fn names_and_paths_are_the_drivers() {
    let mut seen = 0;
    for kind in BackendKind::ALL {
        let documents = documents(kind);
        if documents.is_empty() {
            println!("skipped: there are no manifests for {}", kind.name());
            continue;
        }
        seen += 1;
        let drivers: Vec<&Value> = of_kind(&documents, "CSIDriver").collect();
        assert_eq!(drivers.len(), 1);
        assert_eq!(drivers[0]["metadata"]["name"], kind.driver());
        for class in of_kind(&documents, "StorageClass") {
            assert_eq!(class["provisioner"], kind.driver(), "{class}");
        }
        for kinds in ["VolumeSnapshotClass", "VolumeGroupSnapshotClass"] {
            for class in of_kind(&documents, kinds) {
                assert_eq!(
                    (&class["driver"], &class["deletionPolicy"]),
                    (&kind.driver().into(), &"Delete".into())
                );
            }
        }
        for workload in of_kind(&documents, "DaemonSet").chain(of_kind(&documents, "Deployment")) {
            let spec = &workload["spec"]["template"]["spec"];
            let labels = &workload["spec"]["template"]["metadata"]["labels"];
            let selected = workload["spec"]["selector"]["matchLabels"].as_object().unwrap();
            assert!(selected.iter().all(|(key, value)| labels[key] == *value), "the selector fits");
            let account = spec["serviceAccountName"].as_str().unwrap();
            assert!(documents.contains_key(&("ServiceAccount".into(), account.into())), "{account}");
            let volumes = spec["volumes"].as_array().unwrap();
            let sockets = volumes.iter().find(|volume| volume["hostPath"]["path"] == paths::CSI_RUN).unwrap();
            for container in spec["containers"].as_array().unwrap() {
                let mounts = container["volumeMounts"].as_array().unwrap();
                let mount = mounts.iter().find(|mount| mount["name"] == sockets["name"]).unwrap();
                let address =
                    format!("--csi-address={}/{}.sock", mount["mountPath"].as_str().unwrap(), kind.name());
                let arguments = container["args"].as_array().unwrap();
                assert!(arguments.contains(&address.into()), "{}: {arguments:?}", container["name"]);
                let names: Vec<&Value> =
                    container["env"].as_array().into_iter().flatten().map(|entry| &entry["name"]).collect();
                let per_node = arguments.contains(&"--node-deployment=true".into());
                assert!(!per_node || names.contains(&&"NODE_NAME".into()), "a sidecar knows its node");
            }
        }
        for (bound, roles) in [("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")] {
            for binding in of_kind(&documents, bound) {
                let role = binding["roleRef"]["name"].as_str().unwrap();
                assert_eq!(binding["roleRef"]["kind"], roles);
                assert!(documents.contains_key(&(roles.into(), role.into())), "{role}");
                for subject in binding["subjects"].as_array().unwrap() {
                    let account = subject["name"].as_str().unwrap();
                    assert!(documents.contains_key(&("ServiceAccount".into(), account.into())), "{account}");
                }
            }
        }
    }
    assert!(seen > 0, "docs/deploy has manifests");
}

#[tokio::test]
async fn local_storage_classes_make_volumes() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let documents = documents(BackendKind::Local);
    let classes: Vec<&Value> = of_kind(&documents, "StorageClass").collect();
    assert!(!classes.is_empty());
    for class in classes {
        let name = class["metadata"]["name"].as_str().unwrap();
        let parameters = class["parameters"].as_object().unwrap();
        let parameters: Vec<(&str, &str)> =
            parameters.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap())).collect();
        // The provisioner hands this one over in the capability.
        let fs_type = parameters
            .iter()
            .find(|(key, _)| *key == "csi.storage.k8s.io/fstype")
            .map_or("", |(_, value)| value);
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
