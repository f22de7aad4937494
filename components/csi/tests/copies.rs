//! Snapshots, clones and groups, where blocks can be shared and where they cannot.

#![allow(clippy::unwrap_used)]

mod lab;

use cairn_contract::csi::{self, volume_content_source as source};
use lab::{Clients, Lab, MIB, Mode, Pools, block, has_program, mount, obstacle, wanted};
use std::{fs, os::unix::fs::FileExt, path::Path};
use tonic::{Code, Status};

fn from_snapshot(id: &str) -> Option<csi::VolumeContentSource> {
    let source = source::SnapshotSource { snapshot_id: id.into() };
    Some(csi::VolumeContentSource { r#type: Some(source::Type::Snapshot(source)) })
}

fn from_volume(id: &str) -> Option<csi::VolumeContentSource> {
    let source = source::VolumeSource { volume_id: id.into() };
    Some(csi::VolumeContentSource { r#type: Some(source::Type::Volume(source)) })
}

async fn snapshot(clients: &mut Clients, volume: &str, name: &str) -> Result<csi::Snapshot, Status> {
    let request = csi::CreateSnapshotRequest {
        source_volume_id: volume.into(),
        name: name.into(),
        ..Default::default()
    };
    Ok(clients.controller.create_snapshot(request).await?.into_inner().snapshot.unwrap())
}

async fn delete_snapshot(clients: &mut Clients, id: &str) -> Result<(), Status> {
    let request = csi::DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    clients.controller.delete_snapshot(request).await.map(drop)
}

#[tokio::test]
async fn a_volume_in_use_is_copied_consistently_where_blocks_are_shared() {
    if let Some(reason) = obstacle().or((!has_program("mkfs.xfs")).then_some("needs mkfs.xfs")) {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::with_pools(Pools::Xfs, "");
    let mut clients = lab.clients().await;
    let capability = mount("", Mode::SingleNodeWriter);
    // Growing ext4 in use is not allowed everywhere; and a clone of XFS has its origin's identifier.
    let parameters = [("type", "image"), ("fsType", "xfs")];
    let volume = clients.create(wanted("origin", 320 * MIB, &capability, &parameters)).await.unwrap();
    let (staging, target) = (lab.target("origin"), lab.target("pods/1/origin"));
    clients.stage(&volume, &staging, &capability).await.unwrap();
    clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
    // Not flushed: freezing has to do that.
    fs::write(Path::new(&target).join("file"), "before").unwrap();
    let made = snapshot(&mut clients, &volume.volume_id, "s").await.unwrap();
    assert!(made.ready_to_use && made.size_bytes == 320 * MIB && made.creation_time.is_some());
    assert_eq!(snapshot(&mut clients, &volume.volume_id, "s").await.unwrap(), made);
    fs::write(Path::new(&target).join("file"), "after").unwrap();

    let clone = csi::CreateVolumeRequest {
        volume_content_source: from_volume(&volume.volume_id),
        ..wanted("clone", 320 * MIB, &capability, &parameters)
    };
    let clone = clients.create(clone).await.unwrap();
    // Larger than what it is made from: the file system has to grow.
    let restored = csi::CreateVolumeRequest {
        volume_content_source: from_snapshot(&made.snapshot_id),
        ..wanted("restored", 640 * MIB, &capability, &parameters)
    };
    let restored = clients.create(restored).await.unwrap();
    assert_eq!(restored.content_source, from_snapshot(&made.snapshot_id));
    for (volume, expected, bytes) in [(&clone, "after", 200 << 20), (&restored, "before", 500 << 20)] {
        let (staging, target) = (lab.target("copy"), lab.target("pods/2/copy"));
        clients.stage(volume, &staging, &capability).await.unwrap();
        clients.publish(volume, &staging, &target, &capability, false).await.unwrap();
        assert_eq!(fs::read_to_string(Path::new(&target).join("file")).unwrap(), expected);
        let size = rustix::fs::statvfs(target.as_str()).unwrap();
        assert!(size.f_blocks * size.f_frsize > bytes, "{expected}: {} bytes", size.f_blocks * size.f_frsize);
        clients.unpublish(&volume.volume_id, &target).await.unwrap();
        clients.unstage(&volume.volume_id, &staging).await.unwrap();
        clients.delete(&volume.volume_id).await.unwrap();
    }
    // The snapshot does not need its volume.
    clients.unpublish(&volume.volume_id, &target).await.unwrap();
    clients.unstage(&volume.volume_id, &staging).await.unwrap();
    clients.delete(&volume.volume_id).await.unwrap();
    let request =
        csi::ListSnapshotsRequest { source_volume_id: volume.volume_id.clone(), ..Default::default() };
    let listed = clients.controller.list_snapshots(request).await.unwrap().into_inner().entries;
    assert_eq!(listed[0].snapshot.as_ref(), Some(&made));
    for _ in 0..2 {
        delete_snapshot(&mut clients, &made.snapshot_id).await.unwrap();
    }
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn a_volume_in_use_is_not_copied_where_that_would_take_long() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let shares =
        lab.root().metadata().is_ok_and(|_| rustix::fs::statfs(lab.root()).unwrap().f_type == 0x5846_5342);
    let mut clients = lab.clients().await;
    for (name, parameters) in [("d", [("type", "directory")]), ("i", [("type", "image")])] {
        let capability = mount("", Mode::SingleNodeWriter);
        let volume = clients.create(wanted(name, 16 * MIB, &capability, &parameters)).await.unwrap();
        let (staging, target) = (lab.target("staging"), lab.target("pods/1/target"));
        clients.stage(&volume, &staging, &capability).await.unwrap();
        clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
        fs::write(Path::new(&target).join("file"), "contents").unwrap();
        if name == "d" || !shares {
            let refused = snapshot(&mut clients, &volume.volume_id, name).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        }
        clients.unpublish(&volume.volume_id, &target).await.unwrap();
        clients.unstage(&volume.volume_id, &staging).await.unwrap();
        let made = snapshot(&mut clients, &volume.volume_id, name).await.unwrap();
        let request = csi::CreateVolumeRequest {
            volume_content_source: from_snapshot(&made.snapshot_id),
            ..wanted(&format!("{name}2"), 16 * MIB, &capability, &parameters)
        };
        let restored = clients.create(request).await.unwrap();
        clients.stage(&restored, &staging, &capability).await.unwrap();
        clients.publish(&restored, &staging, &target, &capability, true).await.unwrap();
        assert_eq!(fs::read_to_string(Path::new(&target).join("file")).unwrap(), "contents");
        clients.unpublish(&restored.volume_id, &target).await.unwrap();
        clients.unstage(&restored.volume_id, &staging).await.unwrap();
        // What does not fit its source is refused.
        let smaller = csi::CreateVolumeRequest {
            capacity_range: Some(csi::CapacityRange { required_bytes: MIB, limit_bytes: 0 }),
            volume_content_source: from_snapshot(&made.snapshot_id),
            ..wanted("smaller", 0, &capability, &parameters)
        };
        assert_eq!(clients.create(smaller).await.unwrap_err().code(), Code::OutOfRange);
        let other = if name == "d" { "image" } else { "directory" };
        let different = csi::CreateVolumeRequest {
            volume_content_source: from_snapshot(&made.snapshot_id),
            ..wanted("different", 16 * MIB, &capability, &[("type", other)])
        };
        assert_eq!(clients.create(different).await.unwrap_err().code(), Code::InvalidArgument);
        delete_snapshot(&mut clients, &made.snapshot_id).await.unwrap();
        for id in [&volume.volume_id, &restored.volume_id] {
            clients.delete(id).await.unwrap();
        }
    }
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn a_group_is_one_moment_and_goes_as_one() {
    if let Some(reason) = obstacle().or((!has_program("mkfs.xfs")).then_some("needs mkfs.xfs")) {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::with_pools(Pools::Xfs, "");
    let mut clients = lab.clients().await;
    let capability = block(Mode::SingleNodeWriter);
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let volume = clients.create(wanted(name, 4 * MIB, &capability, &[])).await.unwrap();
        let (staging, target) = (lab.target(&format!("s-{name}")), lab.target(&format!("t-{name}")));
        clients.stage(&volume, &staging, &capability).await.unwrap();
        clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
        let device = fs::OpenOptions::new().write(true).open(target).unwrap();
        device.write_all_at(name.as_bytes(), 0).unwrap();
        ids.push(volume.volume_id);
    }
    let request = csi::CreateVolumeGroupSnapshotRequest {
        name: "g".into(),
        source_volume_ids: ids.clone(),
        ..Default::default()
    };
    let group = clients.group.create_volume_group_snapshot(request.clone()).await.unwrap().into_inner();
    let group = group.group_snapshot.unwrap();
    assert_eq!(group.snapshots.len(), 2);
    let again = clients.group.create_volume_group_snapshot(request.clone()).await.unwrap().into_inner();
    assert_eq!(again.group_snapshot.unwrap().group_snapshot_id, group.group_snapshot_id);
    let other = csi::CreateVolumeGroupSnapshotRequest { source_volume_ids: vec![ids[0].clone()], ..request };
    let refused = clients.group.create_volume_group_snapshot(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    for made in &group.snapshots {
        assert_eq!(made.group_snapshot_id, group.group_snapshot_id);
        let refused = delete_snapshot(&mut clients, &made.snapshot_id).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let image = lab.pool().join("snapshots").join(&made.snapshot_id).join("image");
        let mut first = [0];
        fs::File::open(image).unwrap().read_exact_at(&mut first, 0).unwrap();
        let expected = if made.source_volume_id == ids[0] { b"a" } else { b"b" };
        assert_eq!(&first, expected, "what was written before is in it");
    }

    // A crash in the middle of removing it: what is left of it goes at the next start.
    lab.kill();
    let one = lab.pool().join("snapshots").join(&group.snapshots[0].snapshot_id);
    fs::remove_dir_all(one).unwrap();
    let mut clients = lab.clients().await;
    let listed = clients.controller.list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap();
    assert!(listed.into_inner().entries.is_empty());
    let request = csi::DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: group.group_snapshot_id.clone(),
        ..Default::default()
    };
    clients.group.delete_volume_group_snapshot(request).await.unwrap();
}

#[tokio::test]
async fn capacity_is_what_can_still_be_promised() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::with_pools(Pools::Plain, "limit_bytes = 104857600");
    let mut clients = lab.clients().await;
    let capability = block(Mode::SingleNodeWriter);
    let available = async |clients: &mut Clients| {
        let answer = clients.controller.get_capacity(csi::GetCapacityRequest::default()).await.unwrap();
        answer.into_inner().available_capacity
    };
    assert_eq!(available(&mut clients).await, 100 * MIB);
    let first = clients.create(wanted("first", 60 * MIB, &capability, &[])).await.unwrap();
    assert_eq!(available(&mut clients).await, 40 * MIB, "a promise counts, used or not");
    let refused = clients.create(wanted("second", 41 * MIB, &capability, &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("41943040"), "it says how much there is: {refused:?}");
    let expand = |bytes| csi::ControllerExpandVolumeRequest {
        volume_id: first.volume_id.clone(),
        capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
        ..Default::default()
    };
    let refused = clients.controller.controller_expand_volume(expand(101 * MIB)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    clients.controller.controller_expand_volume(expand(100 * MIB)).await.unwrap();
    assert_eq!(available(&mut clients).await, 0);
    lab.kill();
    let mut clients = lab.clients().await;
    assert_eq!(available(&mut clients).await, 0, "also after a restart");
    clients.delete(&first.volume_id).await.unwrap();
    assert_eq!(available(&mut clients).await, 100 * MIB);

    // Another node's volumes are not promised here.
    let topology = csi::Topology { segments: lab::texts(&[("topology.local.csi.cairn/node", "node-2")]) };
    let request =
        csi::GetCapacityRequest { accessible_topology: Some(topology.clone()), ..Default::default() };
    assert_eq!(clients.controller.get_capacity(request).await.unwrap().into_inner().available_capacity, 0);
    let elsewhere = csi::CreateVolumeRequest {
        accessibility_requirements: Some(csi::TopologyRequirement {
            requisite: vec![topology],
            preferred: Vec::new(),
        }),
        ..wanted("elsewhere", MIB, &capability, &[])
    };
    assert_eq!(clients.create(elsewhere).await.unwrap_err().code(), Code::ResourceExhausted);
}

/// Copies of an encrypted volume have its header, and so its key. Nothing is opened here, as that needs the device mapper.
#[tokio::test]
async fn copies_of_an_encrypted_volume_open_with_its_passphrase() {
    if let Some(reason) = obstacle().or((!has_program("cryptsetup")).then_some("needs cryptsetup")) {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let capability = mount("", Mode::SingleNodeWriter);
    let parameters = [("encryption", "luks2")];
    let volume = clients.create(wanted("secret", 40 * MIB, &capability, &parameters)).await.unwrap();
    assert_eq!(volume.volume_context["encryption"], "luks2");
    let image = |of: &csi::Volume| {
        let held = lab.root().join("pool/volumes").join(&of.volume_id);
        held.join("image")
    };
    let cryptsetup = |arguments: &[&str], image: &Path, passphrase: &str| {
        use std::{io::Write, process};
        let mut command = process::Command::new("cryptsetup");
        command.args(["--batch-mode", "--key-file", "-"]).args(arguments).arg(image);
        let mut running = command.stdin(process::Stdio::piped()).spawn().unwrap();
        running.stdin.take().unwrap().write_all(passphrase.as_bytes()).unwrap();
        running.wait().unwrap().success()
    };
    let quick = ["luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    assert!(cryptsetup(&quick, &image(&volume), "a passphrase"));
    let made = snapshot(&mut clients, &volume.volume_id, "s").await.unwrap();
    let copy = |name: &str, from, parameters: &[(&str, &str)]| csi::CreateVolumeRequest {
        volume_content_source: from,
        ..wanted(name, 40 * MIB, &capability, parameters)
    };
    let plain = copy("plain", from_volume(&volume.volume_id), &[("type", "image")]);
    let refused = clients.create(plain).await.unwrap_err();
    assert!(
        refused.code() == Code::InvalidArgument && refused.message().contains("encryption"),
        "{refused:?}"
    );
    let clone = copy("clone", from_volume(&volume.volume_id), &parameters);
    let restored = copy("restored", from_snapshot(&made.snapshot_id), &parameters);
    for request in [clone, restored] {
        let copied = clients.create(request).await.unwrap();
        assert_eq!(copied.volume_context["encryption"], "luks2");
        let tried = ["open", "--test-passphrase"];
        assert!(cryptsetup(&tried, &image(&copied), "a passphrase"));
        assert!(!cryptsetup(&tried, &image(&copied), "another"));
        clients.delete(&copied.volume_id).await.unwrap();
    }
    delete_snapshot(&mut clients, &made.snapshot_id).await.unwrap();
    clients.delete(&volume.volume_id).await.unwrap();
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}
