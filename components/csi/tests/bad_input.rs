//! What callers get wrong, through the real socket: the specification's code, and a message that says what is wrong.

#![allow(clippy::unwrap_used)]

mod lab;

use cairn_contract::csi::{self, volume_capability};
use lab::{Lab, MIB, Mode, block, mount, obstacle, texts, wanted};
use std::fs;
use tonic::{Code, Status};

/// What is wrong, and what came of it.
type Case = (&'static str, Result<(), Status>, Code, &'static str);

fn check(cases: Vec<Case>) {
    for (what, result, code, message) in cases {
        let status = result.err().unwrap_or_else(|| panic!("{what}: accepted"));
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert!(
            status.message().contains(message),
            "{what}: {:?} does not say {message:?}",
            status.message()
        );
    }
}

#[tokio::test]
async fn volumes_that_make_no_sense_are_refused() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let good = mount("", Mode::SingleNodeWriter);
    let request = || wanted("v", MIB, &good, &[]);
    let range = |required_bytes, limit_bytes| Some(csi::CapacityRange { required_bytes, limit_bytes });
    let flags = |flag: &str| {
        let held = volume_capability::MountVolume { mount_flags: vec![flag.into()], ..Default::default() };
        let mut capability = good.clone();
        capability.access_type = Some(volume_capability::AccessType::Mount(held));
        capability
    };
    let source = |kind| Some(csi::VolumeContentSource { r#type: kind });
    let snapshot = |id: &str| {
        let held = csi::volume_content_source::SnapshotSource { snapshot_id: id.into() };
        source(Some(csi::volume_content_source::Type::Snapshot(held)))
    };
    let table = [
        (
            "no name",
            csi::CreateVolumeRequest { name: String::new(), ..request() },
            Code::InvalidArgument,
            "name is missing",
        ),
        (
            "a zero in the name",
            csi::CreateVolumeRequest { name: "a\0b".into(), ..request() },
            Code::InvalidArgument,
            "control",
        ),
        (
            "a long name",
            csi::CreateVolumeRequest { name: "x".repeat(600), ..request() },
            Code::InvalidArgument,
            "600 bytes",
        ),
        (
            "no capability",
            csi::CreateVolumeRequest { volume_capabilities: vec![], ..request() },
            Code::InvalidArgument,
            "volume_capabilities",
        ),
        (
            "many nodes",
            wanted("v", MIB, &mount("", Mode::MultiNodeMultiWriter), &[]),
            Code::InvalidArgument,
            "SINGLE_NODE",
        ),
        ("no mode", wanted("v", MIB, &mount("", Mode::Unknown), &[]), Code::InvalidArgument, "access_mode"),
        (
            "an unknown file system",
            wanted("v", MIB, &mount("zfs", Mode::SingleNodeWriter), &[]),
            Code::InvalidArgument,
            "ext4 and xfs",
        ),
        (
            "a flag that names a device",
            wanted("v", MIB, &flags("logdev=/dev/vda"), &[]),
            Code::InvalidArgument,
            "logdev",
        ),
        (
            "an unknown parameter",
            wanted("v", MIB, &good, &[("tpye", "image")]),
            Code::InvalidArgument,
            "\"tpye\"",
        ),
        (
            "an unknown type",
            wanted("v", MIB, &good, &[("type", "tape")]),
            Code::InvalidArgument,
            "directory and image",
        ),
        (
            "an unknown pool",
            wanted("v", MIB, &good, &[("pool", "../other")]),
            Code::InvalidArgument,
            "no pool",
        ),
        (
            "a block directory",
            wanted("v", MIB, &block(Mode::SingleNodeWriter), &[("type", "directory")]),
            Code::InvalidArgument,
            "block device",
        ),
        (
            "a negative size",
            csi::CreateVolumeRequest { capacity_range: range(-1, 0), ..request() },
            Code::InvalidArgument,
            "negative",
        ),
        (
            "more than the limit",
            csi::CreateVolumeRequest { capacity_range: range(2, 1), ..request() },
            Code::OutOfRange,
            "limit_bytes",
        ),
        (
            "a limit too small",
            csi::CreateVolumeRequest { capacity_range: range(0, 10), ..request() },
            Code::OutOfRange,
            "limit_bytes",
        ),
        (
            "larger than numbers",
            csi::CreateVolumeRequest { capacity_range: range(i64::MAX, 0), ..request() },
            Code::OutOfRange,
            "no volume has",
        ),
        (
            "larger than the disk",
            csi::CreateVolumeRequest { capacity_range: range(1 << 60, 0), ..request() },
            Code::ResourceExhausted,
            "can promise",
        ),
        (
            "no such snapshot",
            csi::CreateVolumeRequest { volume_content_source: snapshot("none"), ..request() },
            Code::NotFound,
            "none",
        ),
        (
            "an empty source",
            csi::CreateVolumeRequest { volume_content_source: source(None), ..request() },
            Code::InvalidArgument,
            "type",
        ),
        (
            "files without quota",
            csi::CreateVolumeRequest { mutable_parameters: texts(&[("files", "9")]), ..request() },
            Code::InvalidArgument,
            "files",
        ),
        (
            "no number of files",
            csi::CreateVolumeRequest { mutable_parameters: texts(&[("files", "-9")]), ..request() },
            Code::InvalidArgument,
            "-9",
        ),
    ];
    let mut cases = Vec::new();
    for (what, request, code, message) in table {
        cases.push((what, clients.create(request).await.map(drop), code, message));
    }
    check(cases);
    // The same name for something else.
    let volume = clients.create(request()).await.unwrap();
    let table = [
        ("another size", wanted("v", 9 * MIB, &good, &[]), "size"),
        ("another type", wanted("v", MIB, &block(Mode::SingleNodeWriter), &[]), "type"),
    ];
    let mut cases = Vec::new();
    for (what, request, message) in table {
        cases.push((what, clients.create(request).await.map(drop), Code::AlreadyExists, message));
    }
    check(cases);
    clients.delete(&volume.volume_id).await.unwrap();
    for id in ["", "a\nb"] {
        assert_eq!(clients.delete(id).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // What never was is gone.
    for id in ["../../etc", "vol-1", &"é".repeat(200)] {
        clients.delete(id).await.unwrap();
    }
    let elsewhere = "vol-00000000-000000000000000000000000";
    assert_eq!(
        clients.delete(elsewhere).await.unwrap_err().code(),
        Code::Unavailable,
        "it may be there on its node"
    );
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn paths_and_uses_that_are_not_to_be_are_refused() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let outside = lab.root().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "untouched").unwrap();
    std::os::unix::fs::symlink(&outside, lab.root().join("kubelet/link")).unwrap();
    fs::create_dir(lab.root().join("kubelet/full")).unwrap();
    fs::write(lab.root().join("kubelet/full/file"), "untouched").unwrap();
    let root = lab.root().display().to_string();
    let mut clients = lab.clients().await;
    let good = mount("", Mode::SingleNodeSingleWriter);
    let volume = clients.create(wanted("v", MIB, &good, &[])).await.unwrap();
    let unknown = csi::Volume { volume_id: "vol-unknown".into(), ..volume.clone() };
    let staging = lab.target("staging");
    let target = lab.target("pods/1/target");
    let mut cases: Vec<Case> = vec![
        (
            "no path",
            clients.stage(&volume, "", &good).await,
            Code::InvalidArgument,
            "staging_target_path is missing",
        ),
        (
            "a relative path",
            clients.stage(&volume, "kubelet/x", &good).await,
            Code::InvalidArgument,
            "absolute",
        ),
        (
            "outside",
            clients.stage(&volume, &format!("{root}/outside"), &good).await,
            Code::InvalidArgument,
            "target_roots",
        ),
        (
            "back out",
            clients.stage(&volume, &format!("{root}/kubelet/../outside"), &good).await,
            Code::InvalidArgument,
            "..",
        ),
        (
            "through a link",
            clients.stage(&volume, &format!("{root}/kubelet/link/x"), &good).await,
            Code::InvalidArgument,
            "link",
        ),
        (
            "on a link",
            clients.stage(&volume, &format!("{root}/kubelet/link"), &good).await,
            Code::FailedPrecondition,
            "no directory",
        ),
        ("no such volume", clients.stage(&unknown, &staging, &good).await, Code::NotFound, "vol-unknown"),
        (
            "a directory as a device",
            clients.stage(&volume, &staging, &block(Mode::SingleNodeWriter)).await,
            Code::InvalidArgument,
            "block device",
        ),
        (
            "a directory with options",
            clients.stage(&volume, &staging, &with_flag("discard")).await,
            Code::InvalidArgument,
            "discard",
        ),
        (
            "many nodes",
            clients.stage(&volume, &staging, &mount("", Mode::MultiNodeReaderOnly)).await,
            Code::InvalidArgument,
            "SINGLE_NODE",
        ),
        (
            "not staged",
            clients.publish(&volume, &staging, &target, &good, false).await,
            Code::FailedPrecondition,
            "not staged",
        ),
        (
            "unknown and not staged",
            clients.publish(&unknown, &staging, &target, &good, false).await,
            Code::NotFound,
            "vol-unknown",
        ),
        (
            "no staging path",
            clients.publish(&volume, "", &target, &good, false).await,
            Code::FailedPrecondition,
            "staging_target_path",
        ),
    ];
    clients.stage(&volume, &staging, &good).await.unwrap();
    let other_mode = mount("", Mode::SingleNodeWriter);
    cases.extend([
        (
            "staged otherwise",
            clients.stage(&volume, &staging, &other_mode).await,
            Code::AlreadyExists,
            "another volume_capability",
        ),
        (
            "staged elsewhere",
            clients.stage(&volume, &lab.target("other"), &good).await,
            Code::FailedPrecondition,
            "is staged at",
        ),
        (
            "no target",
            clients.publish(&volume, &staging, "", &good, false).await,
            Code::InvalidArgument,
            "target_path is missing",
        ),
        (
            "outside",
            clients.publish(&volume, &staging, "/etc/x", &good, false).await,
            Code::InvalidArgument,
            "target_roots",
        ),
        (
            "through a link",
            clients.publish(&volume, &staging, &format!("{root}/kubelet/link/x"), &good, false).await,
            Code::InvalidArgument,
            "link",
        ),
        (
            "no parent",
            clients.publish(&volume, &staging, &format!("{root}/kubelet/none/x"), &good, false).await,
            Code::FailedPrecondition,
            "does not exist",
        ),
        (
            "a device of a directory",
            clients.publish(&volume, &staging, &target, &block(Mode::SingleNodeWriter), false).await,
            Code::InvalidArgument,
            "cannot be published",
        ),
    ]);
    clients.publish(&volume, &staging, &target, &good, false).await.unwrap();
    cases.extend([
        (
            "a second path",
            clients.publish(&volume, &staging, &lab.target("pods/2/target"), &good, false).await,
            Code::FailedPrecondition,
            "SINGLE_NODE_SINGLE_WRITER",
        ),
        (
            "published otherwise",
            clients.publish(&volume, &staging, &target, &good, true).await,
            Code::AlreadyExists,
            "in another way",
        ),
        (
            "another volume's path",
            clients.unpublish("vol-unknown", &target).await,
            Code::NotFound,
            "is published at",
        ),
        (
            "unstage in use",
            clients.unstage(&volume.volume_id, &staging).await,
            Code::FailedPrecondition,
            "is published at",
        ),
        ("no id", clients.unpublish("", &target).await, Code::InvalidArgument, "volume_id"),
    ]);
    check(cases);

    let stats = |id: &str, path: &str| csi::NodeGetVolumeStatsRequest {
        volume_id: id.into(),
        volume_path: path.into(),
        ..Default::default()
    };
    for (request, code) in [
        (stats("", "/x"), Code::InvalidArgument),
        (stats(&volume.volume_id, ""), Code::InvalidArgument),
        (stats(&volume.volume_id, "/etc"), Code::NotFound),
        (stats("vol-unknown", &target), Code::NotFound),
    ] {
        assert_eq!(clients.node.node_get_volume_stats(request).await.unwrap_err().code(), code);
    }

    clients.unpublish(&volume.volume_id, &target).await.unwrap();
    // Nothing is mounted by us on what is not ours, and nothing there is unmounted.
    let foreign = lab.target("foreign");
    fs::create_dir(&foreign).unwrap();
    rustix::mount::mount_bind(&outside, foreign.as_str()).unwrap();
    check(vec![
        (
            "a foreign mount",
            clients.publish(&volume, &staging, &foreign, &good, false).await,
            Code::FailedPrecondition,
            "not this volume",
        ),
        (
            "a foreign mount",
            clients.unpublish(&volume.volume_id, &foreign).await,
            Code::FailedPrecondition,
            "not of this driver",
        ),
    ]);
    rustix::mount::unmount(foreign.as_str(), rustix::mount::UnmountFlags::empty()).unwrap();
    fs::remove_dir(&foreign).unwrap();
    clients.unstage(&volume.volume_id, &staging).await.unwrap();
    clients.delete(&volume.volume_id).await.unwrap();
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(lab.root().join("kubelet/full/file")).unwrap(), "untouched");
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

fn with_flag(flag: &str) -> csi::VolumeCapability {
    let held = volume_capability::MountVolume { mount_flags: vec![flag.into()], ..Default::default() };
    csi::VolumeCapability {
        access_type: Some(volume_capability::AccessType::Mount(held)),
        ..mount("", Mode::SingleNodeWriter)
    }
}

#[tokio::test]
async fn a_device_that_holds_data_is_not_formatted() {
    use std::os::unix::fs::FileExt;
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let raw = block(Mode::SingleNodeWriter);
    let volume = clients.create(wanted("raw", 32 * MIB, &raw, &[])).await.unwrap();
    let image = lab.pool().join("volumes").join(&volume.volume_id).join("image");
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(b"somebody's data", 70_000).unwrap();
    let staging = lab.target("staging");
    let files = mount("ext4", Mode::SingleNodeWriter);
    let refused = clients.stage(&volume, &staging, &files).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("neither mounted nor formatted"), "{refused:?}");
    let mut held = [0; 15];
    fs::File::open(&image).unwrap().read_exact_at(&mut held, 70_000).unwrap();
    assert_eq!(&held, b"somebody's data");
    // Blank it is made into what is asked for, and then it is not made into something else.
    file.set_len(0).unwrap();
    file.set_len(32 << 20).unwrap();
    clients.stage(&volume, &staging, &files).await.unwrap();
    clients.unstage(&volume.volume_id, &staging).await.unwrap();
    let refused = clients.stage(&volume, &staging, &mount("xfs", Mode::SingleNodeWriter)).await.unwrap_err();
    assert!(refused.message().contains("holds an ext4 file system"), "{refused:?}");
    clients.delete(&volume.volume_id).await.unwrap();
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}
