//! A stream of random requests: the driver lives, answers with codes that blame the caller, and leaves alone what is not its
//! own.
//!
//! `CAIRN_FUZZ_CALLS` and `CAIRN_FUZZ_SEED` repeat a run; a longer one is in docs/testing.md. The same for NFS and iSCSI is in
//! `fuzz_remote.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;
mod stream;

use cairn_contract::csi;
use lab::{Lab, MIB, Mode, mount, number, obstacle, wanted};
use std::{fs, path::Path};
use stream::{Sent, Stream, Words, take_back};
use tonic::{Code, Status};

const LOCAL: Words = Words {
    base: &[],
    entries: &[
        ("type", "image"),
        ("type", "directory"),
        ("pool", "disk"),
        ("pool", "../../etc"),
        ("size", "10Mi"),
        ("size", "1Ki"),
        ("encryption", "luks2"),
        ("fsType", "xfs"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("x", "true"),
    ],
    most: 3,
    fs_types: &["", "", "ext4", "xfs", "ntfs"],
    flags: &["ro", "noatime", "discard", "logdev=/dev/vda", "commit=99999999999"],
    calls: &[],
    modes: &[1, 7],
};

#[tokio::test]
async fn random_requests_do_no_harm() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let calls = number("CAIRN_FUZZ_CALLS", 1500);
    let seed = number("CAIRN_FUZZ_SEED", u64::from(std::process::id()));
    println!("seed {seed}, {calls} calls");
    let mut lab = Lab::with_pools(lab::Pools::Xfs, "limit_bytes = 600_000_000");
    let root = lab.root().to_path_buf();
    // What must not be touched: beside the kubelet's directory, behind a link in it, in it, in the pool.
    fs::create_dir_all(root.join("outside/file")).unwrap();
    fs::create_dir_all(root.join("kubelet/full-0")).unwrap();
    std::os::unix::fs::symlink(root.join("outside"), root.join("kubelet/link")).unwrap();
    let untouched = ["outside/untouched", "kubelet/full-0/untouched", "kubelet/full-1"];
    for path in untouched {
        fs::write(root.join(path), path).unwrap();
    }
    let mut clients = lab.clients().await;
    let capability = mount("", Mode::SingleNodeMultiWriter);
    let own = clients.create(wanted("ours", MIB, &capability, &[])).await.unwrap();
    let (staging, target) = (lab.target("ours/staging"), lab.target("ours/pod/target"));
    clients.stage(&own, &staging, &capability).await.unwrap();
    clients.publish(&own, &staging, &target, &capability, false).await.unwrap();
    fs::write(Path::new(&target).join("ours"), "ours").unwrap();
    let pid = lab.pid();

    let channel = lab::connect(&root.join("run/local.sock")).await.unwrap();
    let mut stream = Stream::new(seed, &root, LOCAL, Vec::new());
    let look = |sent: &Sent, refusal: Option<&Status>| {
        let Some(status) = refusal else { return };
        // An identifier that was damaged may be another node's.
        let decoding = ["decode", "is of another node"].iter().any(|text| status.message().contains(text));
        assert!(
            !matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Internal) || decoding,
            "seed {seed}, {sent}: {status:?}\n{}",
            lab.log()
        );
        assert!(!status.message().is_empty(), "{sent}: {status:?}");
    };
    let codes = stream.send(&channel, calls, look).await;
    println!("{codes:?}");
    assert_eq!(lab.pid(), pid);
    assert!(codes.len() >= 6 && codes["Ok"] > calls / 20, "the stream reaches deep enough: {codes:?}");
    for path in untouched {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), path);
    }
    assert_eq!(fs::read_dir(root.join("outside")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(Path::new(&target).join("ours")).unwrap(), "ours", "seed {seed}");

    // The driver can take everything away again.
    take_back(&mut clients, &root.join("run/local")).await;
    let listed =
        clients.controller.list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap().into_inner();
    for snapshot in listed.entries.into_iter().map(|entry| entry.snapshot.unwrap()) {
        if snapshot.group_snapshot_id.is_empty() {
            let request =
                csi::DeleteSnapshotRequest { snapshot_id: snapshot.snapshot_id, ..Default::default() };
            clients.controller.delete_snapshot(request).await.unwrap();
        } else {
            let group_snapshot_id = snapshot.group_snapshot_id;
            let request = csi::DeleteVolumeGroupSnapshotRequest { group_snapshot_id, ..Default::default() };
            clients.group.delete_volume_group_snapshot(request).await.unwrap();
        }
    }
    let listed =
        clients.controller.list_volumes(csi::ListVolumesRequest::default()).await.unwrap().into_inner();
    for volume in listed.entries.into_iter().map(|entry| entry.volume.unwrap()) {
        clients.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(lab.leaks(), Vec::<String>::new(), "seed {seed}\n{}", lab.log());
}
