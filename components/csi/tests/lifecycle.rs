//! A volume's whole life against the real program, for each kind of local volume; restarts in between.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use cairn_contract::csi;
use lab::{Clients, Lab, MIB, Mode, block, has_program, mount, obstacle, wanted};
use std::{
    fs,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};
use tonic::Code;

struct Kind {
    name: &'static str,
    fs_type: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    bytes: i64,
}

const KINDS: &[Kind] = &[
    Kind { name: "directory", fs_type: "", parameters: &[], bytes: 10 * MIB },
    Kind { name: "ext4", fs_type: "ext4", parameters: &[("type", "image")], bytes: 32 * MIB },
    Kind { name: "xfs", fs_type: "xfs", parameters: &[("type", "image")], bytes: 320 * MIB },
];

fn usable(kind: &Kind) -> bool {
    let usable = kind.fs_type.is_empty() || has_program(&format!("mkfs.{}", kind.fs_type));
    if !usable {
        println!("skipped: {}: needs mkfs.{}", kind.name, kind.fs_type);
    }
    usable
}

/// A new volume, staged.
async fn staged(
    clients: &mut Clients,
    name: &str,
    bytes: i64,
    capability: &csi::VolumeCapability,
    staging: &str,
) -> csi::Volume {
    let volume = clients.create(wanted(name, bytes, capability, &[])).await.unwrap();
    clients.stage(&volume, staging, capability).await.unwrap();
    volume
}

/// A new volume that is a device of 5 MiB, staged; where that is, and where it may be published.
async fn raw(lab: &mut Lab) -> (Clients, csi::Volume, csi::VolumeCapability, [String; 2]) {
    let capability = block(Mode::SingleNodeWriter);
    let [staging, target] = ["staging", "publish/pod"].map(|name| lab.target(name));
    let mut clients = lab.clients().await;
    let volume = staged(&mut clients, "raw", 5 * MIB, &capability, &staging).await;
    (clients, volume, capability, [staging, target])
}

#[tokio::test]
async fn files_live_through_restarts() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    for kind in KINDS.iter().filter(|kind| usable(kind)) {
        let capability = mount(kind.fs_type, Mode::SingleNodeMultiWriter);
        let (staging, one, two) =
            (lab.target("staging"), lab.target("pods/1/volume"), lab.target("pods/2/volume"));
        let mut clients = lab.clients().await;
        let request = wanted(kind.name, kind.bytes, &capability, kind.parameters);
        let volume = clients.create(request.clone()).await.unwrap();
        assert_eq!(volume.capacity_bytes, kind.bytes);
        assert_eq!(clients.create(request).await.unwrap(), volume, "the same name is the same volume");
        for _ in 0..2 {
            clients.stage(&volume, &staging, &capability).await.unwrap();
            clients.publish(&volume, &staging, &one, &capability, false).await.unwrap();
            clients.publish(&volume, &staging, &two, &capability, true).await.unwrap();
        }
        fs::write(Path::new(&one).join("hello"), "there").unwrap();
        assert_eq!(fs::read_to_string(Path::new(&two).join("hello")).unwrap(), "there");
        assert!(fs::write(Path::new(&two).join("hello"), "no").is_err(), "published read-only");
        assert_eq!(clients.delete(&volume.volume_id).await.unwrap_err().code(), Code::FailedPrecondition);

        lab.kill();
        let mut clients = lab.clients().await;
        assert_eq!(fs::read_to_string(Path::new(&one).join("hello")).unwrap(), "there", "mounts live on");
        clients.publish(&volume, &staging, &one, &capability, false).await.unwrap();
        let at = |path: &str| csi::NodeGetVolumeStatsRequest {
            volume_id: volume.volume_id.clone(),
            volume_path: path.into(),
            ..Default::default()
        };
        let stats = clients.node.node_get_volume_stats(at(&one)).await.unwrap().into_inner();
        assert_eq!(stats.usage.len(), 2);
        assert!(stats.usage.iter().all(|usage| usage.total > 0 && usage.available > 0), "{stats:?}");
        assert!(!stats.volume_condition.unwrap().abnormal);

        assert_eq!(
            clients.unstage(&volume.volume_id, &staging).await.unwrap_err().code(),
            Code::FailedPrecondition
        );
        for target in [&one, &two] {
            for _ in 0..2 {
                clients.unpublish(&volume.volume_id, target).await.unwrap();
            }
            assert!(!Path::new(target).exists());
        }
        for _ in 0..2 {
            clients.unstage(&volume.volume_id, &staging).await.unwrap();
        }
        // It is all there again.
        clients.stage(&volume, &staging, &capability).await.unwrap();
        clients.publish(&volume, &staging, &one, &capability, false).await.unwrap();
        assert_eq!(fs::read_to_string(Path::new(&one).join("hello")).unwrap(), "there");
        clients.unpublish(&volume.volume_id, &one).await.unwrap();
        clients.unstage(&volume.volume_id, &staging).await.unwrap();
        for _ in 0..2 {
            clients.delete(&volume.volume_id).await.unwrap();
        }
        assert_eq!(lab.leaks(), Vec::<String>::new(), "{}\n{}", kind.name, lab.log());
    }
}

#[tokio::test]
async fn a_block_volume_is_a_device() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let (mut clients, volume, capability, [staging, target]) = raw(&mut lab).await;
    clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
    assert!(fs::metadata(&target).unwrap().file_type().is_block_device());
    let device = fs::OpenOptions::new().read(true).write(true).open(&target).unwrap();
    device.write_all_at(b"raw bytes", 4096).unwrap();
    device.sync_all().unwrap();
    drop(device);
    lab.kill();
    let mut clients = lab.clients().await;

    let range = Some(csi::CapacityRange { required_bytes: 9 * MIB, limit_bytes: 0 });
    let request = csi::ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: range,
        ..Default::default()
    };
    let expanded = clients.controller.controller_expand_volume(request).await.unwrap().into_inner();
    assert!(expanded.node_expansion_required && expanded.capacity_bytes == 9 * MIB);
    let request = csi::NodeExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: target.clone(),
        capacity_range: range,
        ..Default::default()
    };
    let bytes = clients.node.node_expand_volume(request).await.unwrap().into_inner().capacity_bytes;
    assert_eq!(bytes, 9 * MIB);
    assert_eq!(cairn_csi::loopback::size(Path::new(&target)).unwrap(), 9 << 20);

    clients.unpublish(&volume.volume_id, &target).await.unwrap();
    clients.unstage(&volume.volume_id, &staging).await.unwrap();
    let image = lab.pool().join("volumes").join(&volume.volume_id).join("image");
    let mut held = [0; 9];
    fs::File::open(image).unwrap().read_exact_at(&mut held, 4096).unwrap();
    assert_eq!(&held, b"raw bytes");
    clients.delete(&volume.volume_id).await.unwrap();
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

/// Somebody else lets go of a volume's loop device: that is said, and the next stage gives another.
#[tokio::test]
async fn a_device_that_somebody_detached_is_missed() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let (mut clients, volume, capability, [staging, target]) = raw(&mut lab).await;
    clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
    let request = csi::NodeGetVolumeStatsRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: target.clone(),
        ..Default::default()
    };
    let mut asking = clients.clone();
    let mut condition = async || {
        let stats = asking.node.node_get_volume_stats(request.clone()).await.unwrap().into_inner();
        stats.volume_condition.unwrap()
    };
    assert!(!condition().await.abnormal);
    let image = lab.pool().join("volumes").join(&volume.volume_id).join("image");
    cairn_csi::loopback::detach(&image).unwrap();
    let seen = condition().await;
    assert!(seen.abnormal && seen.message.contains("detached"), "{seen:?}");
    clients.unpublish(&volume.volume_id, &target).await.unwrap();
    clients.stage(&volume, &staging, &capability).await.unwrap();
    clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
    assert!(!condition().await.abnormal);
    assert_eq!(cairn_csi::loopback::size(Path::new(&target)).unwrap(), 5 << 20);
    clients.unpublish(&volume.volume_id, &target).await.unwrap();
    clients.unstage(&volume.volume_id, &staging).await.unwrap();
    clients.delete(&volume.volume_id).await.unwrap();
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

/// The device of a volume that is half unstaged is soon nobody's, or another volume's.
#[tokio::test]
async fn a_volume_half_unstaged_is_not_staged() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let (clients, volume, capability, [staging, target]) = raw(&mut lab).await;
    let image = lab.pool().join("volumes").join(&volume.volume_id).join("image");
    let device = cairn_csi::loopback::find(&image).unwrap().unwrap();
    // Who has it open holds up the unstage after it let go of the device, and there the driver is killed.
    let held = fs::File::open(&device).unwrap();
    let mut asking = clients.clone();
    let (id, path) = (volume.volume_id.clone(), staging.clone());
    let unstage = tokio::spawn(async move { asking.unstage(&id, &path).await });
    while !unstage.is_finished() && cairn_csi::loopback::find(&image).unwrap().is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    lab.kill();
    assert!(unstage.await.unwrap().is_err());
    drop(held);

    let mut clients = lab.clients().await;
    // Its device's number goes to another.
    let elsewhere = lab.target("elsewhere");
    let other = staged(&mut clients, "other", 7 * MIB, &capability, &elsewhere).await;
    clients.stage(&volume, &staging, &capability).await.unwrap();
    clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
    assert_eq!(cairn_csi::loopback::size(Path::new(&target)).unwrap(), 5 << 20, "{}", lab.log());
    clients.unpublish(&volume.volume_id, &target).await.unwrap();
    for (volume, staging) in [(&volume, &staging), (&other, &elsewhere)] {
        clients.unstage(&volume.volume_id, staging).await.unwrap();
        clients.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn an_inline_volume_lives_as_long_as_its_pod() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    for parameters in [&[("size", "20Mi"), ("type", "image")][..], &[("size", "1Mi")]] {
        let target = lab.target("pods/1/inline");
        let context = [&[("csi.storage.k8s.io/ephemeral", "true")][..], parameters].concat();
        let request = csi::NodePublishVolumeRequest {
            volume_id: "csi-0123abcd".into(),
            target_path: target.clone(),
            volume_capability: Some(mount("", Mode::SingleNodeWriter)),
            volume_context: lab::texts(&context),
            ..Default::default()
        };
        for _ in 0..2 {
            clients.node.node_publish_volume(request.clone()).await.unwrap();
        }
        fs::write(Path::new(&target).join("scratch"), "x").unwrap();
        lab.kill();
        clients = lab.clients().await;
        assert_eq!(fs::read_to_string(Path::new(&target).join("scratch")).unwrap(), "x");
        for _ in 0..2 {
            clients.unpublish("csi-0123abcd", &target).await.unwrap();
        }
        assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
    }
}

/// `fsGroup`: the kubelet gives it with both calls (VOLUME_MOUNT_GROUP), and what pods had there becomes the group's.
#[tokio::test]
async fn a_volume_is_its_pods_groups() {
    use csi::volume_capability::{AccessType, MountVolume};
    const GROUP: u32 = 4242;
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    for kind in KINDS.iter().filter(|kind| usable(kind)) {
        let of_group = |group: u32| {
            let fs_type = kind.fs_type.into();
            let held = MountVolume { fs_type, volume_mount_group: group.to_string(), ..Default::default() };
            csi::VolumeCapability {
                access_type: Some(AccessType::Mount(held)),
                ..mount("", Mode::SingleNodeMultiWriter)
            }
        };
        let [staging, one, two] = ["staging", "pods/1/volume", "pods/2/volume"].map(|name| lab.target(name));
        let capability = of_group(GROUP);
        let request = wanted(kind.name, kind.bytes, &capability, kind.parameters);
        let volume = clients.create(request).await.unwrap();
        clients.stage(&volume, &staging, &capability).await.unwrap();
        clients.publish(&volume, &staging, &one, &capability, false).await.unwrap();
        let seen = |path: &str| {
            let seen = fs::symlink_metadata(Path::new(&one).join(path)).unwrap();
            (seen.gid(), seen.mode())
        };
        let (group, mode) = seen("");
        assert_eq!((group, mode & 0o2770), (GROUP, 0o2770), "{}", kind.name);
        fs::create_dir(Path::new(&one).join("d")).unwrap();
        fs::write(Path::new(&one).join("d/file"), "").unwrap();
        assert_eq!(seen("d/file").0, GROUP, "what is made there is the group's");
        // A pod of another group: all that is there is changed.
        fs::set_permissions(Path::new(&one).join("d/file"), fs::Permissions::from_mode(0o600)).unwrap();
        clients.publish(&volume, &staging, &two, &of_group(GROUP + 1), false).await.unwrap();
        for (path, bits) in [("", 0o2770), ("d", 0o2770), ("d/file", 0o660)] {
            let (group, mode) = seen(path);
            assert_eq!((group, mode & bits), (GROUP + 1, bits), "{}: {path}", kind.name);
        }
        for target in [&one, &two] {
            clients.unpublish(&volume.volume_id, target).await.unwrap();
        }
        clients.unstage(&volume.volume_id, &staging).await.unwrap();
        clients.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn it_registers_with_the_kubelet() {
    use cairn_contract::pluginregistration::{
        InfoRequest, RegistrationStatus, registration_client::RegistrationClient,
    };
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let socket = lab.root().join("kubelet/plugins_registry/local.csi.cairn-reg.sock");
    let mut registration = RegistrationClient::new(lab::connect(&socket).await.unwrap());
    let info = registration.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "local.csi.cairn"));
    assert_eq!(Path::new(&info.endpoint), lab.root().join("run/local.sock"));
    assert_eq!(info.supported_versions, ["1.0.0"]);
    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    registration.notify_registration_status(status).await.unwrap();
    let name =
        clients.identity.get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap().into_inner().name;
    assert_eq!(name, info.name);
    let node = clients.node.node_get_info(csi::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(node.accessible_topology.unwrap().segments["topology.local.csi.cairn/node"], "node-1");
}
