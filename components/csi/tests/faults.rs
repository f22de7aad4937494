//! What is damaged or missing costs what it is of, and nothing else: the driver starts and serves the rest.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use cairn_contract::csi;
use lab::{Clients, Lab, MIB, Mode, mount, obstacle, wanted};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tonic::{Code, Status};

async fn listed(clients: &mut Clients) -> Result<Vec<String>, Status> {
    let listed = clients.controller.list_volumes(csi::ListVolumesRequest::default()).await?.into_inner();
    Ok(listed.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect())
}

async fn snapshots(clients: &mut Clients) -> Vec<String> {
    let listed = clients.controller.list_snapshots(csi::ListSnapshotsRequest::default()).await;
    let entries = listed.unwrap().into_inner().entries;
    entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect()
}

async fn is_ready(clients: &mut Clients) -> bool {
    clients.identity.probe(csi::ProbeRequest::default()).await.unwrap().into_inner().ready.unwrap()
}

#[tokio::test]
async fn one_damaged_record_is_one_volumes_end() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let files = mount("", Mode::SingleNodeWriter);
    let mut volumes = Vec::new();
    for name in ["torn", "lost", "whole"] {
        volumes.push(clients.create(wanted(name, MIB, &files, &[])).await.unwrap());
    }
    lab.kill();
    let held = lab.pool().join("volumes");
    let record = |of: &csi::Volume| held.join(&of.volume_id).join("volume.json");
    let kept = fs::read(record(&volumes[0])).unwrap();
    fs::write(record(&volumes[0]), &kept[..kept.len() / 2]).unwrap();
    fs::remove_file(record(&volumes[1])).unwrap();
    let mut clients = lab.clients().await;
    assert!(is_ready(&mut clients).await);
    let whole = &volumes[2];
    assert_eq!(listed(&mut clients).await.unwrap(), std::slice::from_ref(&whole.volume_id));
    let staging = lab.target("staging");
    clients.stage(whole, &staging, &files).await.unwrap();
    clients.unstage(&whole.volume_id, &staging).await.unwrap();
    for (damaged, name) in volumes.iter().zip(["torn", "lost"]) {
        let refusals = [
            clients.delete(&damaged.volume_id).await,
            clients.create(wanted(name, MIB, &files, &[])).await.map(drop),
            clients.stage(damaged, &staging, &files).await,
        ];
        for refused in refusals.map(Result::unwrap_err) {
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
            assert!(refused.message().contains("damaged"), "{refused:?}");
        }
        assert!(lab.log().contains(&damaged.volume_id), "the log names it: {}", lab.log());
    }
    // With its record it is back, as it was.
    lab.kill();
    fs::write(record(&volumes[0]), kept).unwrap();
    let mut clients = lab.clients().await;
    clients.stage(&volumes[0], &staging, &files).await.unwrap();
    clients.unstage(&volumes[0].volume_id, &staging).await.unwrap();
    for volume in [&volumes[0], whole] {
        clients.delete(&volume.volume_id).await.unwrap();
    }
    fs::remove_dir_all(held.join(&volumes[1].volume_id)).unwrap();
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn a_groups_lost_record_costs_the_others_nothing() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let files = mount("", Mode::SingleNodeWriter);
    let mut volumes = Vec::new();
    for name in ["a", "b"] {
        volumes.push(clients.create(wanted(name, MIB, &files, &[])).await.unwrap().volume_id);
    }
    let request = csi::CreateVolumeGroupSnapshotRequest {
        name: "g".into(),
        source_volume_ids: volumes.clone(),
        ..Default::default()
    };
    let made = clients.group.create_volume_group_snapshot(request).await.unwrap().into_inner();
    let made = made.group_snapshot.unwrap();
    let ids: Vec<String> = made.snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect();
    lab.kill();
    fs::remove_file(lab.pool().join("snapshots").join(&ids[0]).join("snapshot.json")).unwrap();
    let mut clients = lab.clients().await;
    assert_eq!(snapshots(&mut clients).await, [ids[1].clone()], "{}", lab.log());
    // The caller still knows both.
    let request = csi::DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: made.group_snapshot_id,
        snapshot_ids: ids,
        ..Default::default()
    };
    for _ in 0..2 {
        clients.group.delete_volume_group_snapshot(request.clone()).await.unwrap();
    }
    for volume in &volumes {
        clients.delete(volume).await.unwrap();
    }
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

/// Waits for what the driver tries again.
async fn until(lab: &Lab, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + lab::PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "{}", lab.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Goes with the test.
struct Link(String);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_missing_disk_is_its_pools_end_until_it_is_there() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    // By a link, as udev's for disks.
    let link = Link(format!("/dev/cairn-late-{}", std::process::id()));
    let mut lab = Lab::new();
    let root = lab.root().to_path_buf();
    let config = fs::read_to_string(root.join("csi.toml")).unwrap();
    let late = format!(
        "[[pools]]\nname = 'late'\nquota = 'off'\npath = '{}/late'\ndevice = '{}'\n",
        root.display(),
        link.0
    );
    fs::write(root.join("csi.toml"), format!("{config}\n{late}")).unwrap();
    let mut clients = lab.clients().await;
    let files = mount("", Mode::SingleNodeWriter);
    let here = clients.create(wanted("here", MIB, &files, &[])).await.unwrap();
    assert!(is_ready(&mut clients).await, "one pool can be used");
    let there = wanted("there", MIB, &files, &[("pool", "late")]);
    for refused in [
        clients.create(there.clone()).await.map(drop).unwrap_err(),
        clients.delete("vol-of-which-pool").await.unwrap_err(),
        listed(&mut clients).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.message().contains("pool late cannot be used now"), "{refused:?}");
    }
    // A disk on which mkfs.xfs did not come to its end is refused, and left alone.
    let image = root.join("late.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(512 << 20).unwrap();
    let mut half = [0; 512];
    half[..4].copy_from_slice(b"XFSB");
    half[126] = 1;
    std::os::unix::fs::FileExt::write_all_at(&file, &half, 0).unwrap();
    let device = cairn_csi::loopback::attach(&image, false).unwrap();
    std::os::unix::fs::symlink(&device, &link.0).unwrap();
    until(&lab, async || {
        let refused = clients.clone().create(there.clone()).await.map(drop).unwrap_err();
        refused.message().contains("mkfs.xfs did not finish")
    })
    .await;
    // Wiped it is made, and the pool is there, without a restart.
    fs::write(&device, [0; 4096]).unwrap();
    let made = std::cell::OnceCell::new();
    until(&lab, async || {
        clients.clone().create(there.clone()).await.is_ok_and(|volume| made.set(volume).is_ok())
    })
    .await;
    let made = made.into_inner().unwrap();
    assert!(Path::new(&root).join("late/volumes").join(&made.volume_id).exists());
    assert_eq!(listed(&mut clients).await.unwrap().len(), 2);
    for volume in [&here, &made] {
        clients.delete(&volume.volume_id).await.unwrap();
    }
    lab.kill();
    let unmount = || rustix::mount::unmount(root.join("late"), rustix::mount::UnmountFlags::empty()).unwrap();
    unmount();
    // Killed in mkfs.xfs, in this boot: the mark of that says that nothing was on this disk.
    fs::write(&device, half).unwrap();
    let name = device.file_name().unwrap().to_str().unwrap();
    let sequence = fs::read_to_string(format!("/sys/block/{name}/diskseq")).unwrap();
    let mark = format!("{{\"device\":{:?},\"sequence\":{}}}", link.0, sequence.trim());
    fs::write(root.join("run/local/pools/late.json"), mark).unwrap();
    let mut clients = lab.clients().await;
    let made = clients.create(there).await.unwrap();
    clients.delete(&made.volume_id).await.unwrap();
    assert!(!root.join("run/local/pools/late.json").exists());
    lab.kill();
    unmount();
    cairn_csi::loopback::detach(&image).unwrap();
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn a_driver_that_cannot_be_served_is_not_the_others_end() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let root = lab.root().to_path_buf();
    let config = fs::read_to_string(root.join("csi.toml")).unwrap();
    let alone = config.replace("[[pools]]", "backends = ['nfs', 'local']\n[[pools]]");
    // The local driver's one pool has a disk that is not there; the other driver's directory is none.
    let alone = alone.replace("quota = 'off'", "quota = 'off'\ndevice = '/dev/none'");
    fs::write(root.join("csi.toml"), alone).unwrap();
    fs::create_dir_all(root.join("run")).unwrap();
    fs::write(root.join("run/nfs"), "in the way").unwrap();
    let mut clients = lab.clients().await;
    assert!(!is_ready(&mut clients).await);
    let refused =
        clients.create(wanted("v", MIB, &mount("", Mode::SingleNodeWriter), &[])).await.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("/dev/none"), "{refused:?}");
    assert!(!root.join("run/nfs.sock").exists());
    fs::remove_file(root.join("run/nfs")).unwrap();
    let mut other = lab.clients_of("nfs").await;
    assert!(is_ready(&mut other).await);
}

#[tokio::test]
async fn what_cannot_be_cleaned_up_is_in_nobodys_way() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    lab.clients().await;
    lab.kill();
    let stuck = lab.pool().join("trash/vol-old/data");
    fs::create_dir_all(&stuck).unwrap();
    rustix::mount::mount_bind(lab.root().join("kubelet"), &stuck).unwrap();
    fs::write(lab.root().join("kubelet/file"), "untouched").unwrap();
    let mut clients = lab.clients().await;
    let made = clients.create(wanted("v", MIB, &mount("", Mode::SingleNodeWriter), &[])).await.unwrap();
    clients.delete(&made.volume_id).await.unwrap();
    assert!(lab.log().contains("trash/vol-old"), "{}", lab.log());
    assert_eq!(fs::read_to_string(stuck.join("file")).unwrap(), "untouched");
    rustix::mount::unmount(&stuck, rustix::mount::UnmountFlags::empty()).unwrap();
    lab.kill();
    lab.clients().await;
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}
