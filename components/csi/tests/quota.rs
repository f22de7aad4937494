//! Directory volumes are held to their size, where the kernel can do that: not on every machine that builds Cairn. In the
//! booted image `cairn test` shows the same.

#![allow(clippy::unwrap_used)]

mod lab;

use cairn_contract::csi;
use lab::{Clients, Lab, MIB, Mode, Pools, has_program, mount, obstacle, texts, wanted};
use std::{
    fs,
    io::{ErrorKind, Write},
    path::Path,
};

/// Whether this kernel has project quotas on a file system: tried, since it may be a matter of a module.
fn kernel_has(pools: Pools) -> bool {
    let (fs_type, make): (_, &[&str]) = match pools {
        Pools::Ext4Quota => ("ext4", &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"]),
        _ => ("xfs", &["-q"]),
    };
    let base = tempfile::tempdir().unwrap();
    let image = base.path().join("image");
    fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let run = |command: &mut std::process::Command| {
        command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let made = run(std::process::Command::new(format!("mkfs.{fs_type}")).args(make).arg(&image));
    let place = base.path().join("place");
    fs::create_dir(&place).unwrap();
    let mounted = made
        && run(std::process::Command::new("mount").args(["-o", "loop,prjquota"]).arg(&image).arg(&place));
    if mounted {
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::empty()).unwrap();
    }
    mounted
}

/// Writes until that is refused; bytes written, and why it ended.
fn fill(path: &Path) -> (u64, ErrorKind) {
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    let mut written = 0;
    loop {
        match file.write(&[1; 64 << 10]).and_then(|count| file.sync_data().map(|()| count)) {
            Ok(count) => written += count as u64,
            Err(error) => return (written, error.kind()),
        }
    }
}

#[tokio::test]
async fn the_byte_too_many_is_refused() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    for (pools, program) in [(Pools::XfsQuota, "mkfs.xfs"), (Pools::Ext4Quota, "mkfs.ext4")] {
        if !has_program(program) || !kernel_has(pools) {
            println!("skipped: {pools:?}: needs {program} and a kernel with project quotas for it");
            continue;
        }
        let mut lab = Lab::with_pools(pools, "");
        let mut clients = lab.clients().await;
        let capability = mount("", Mode::SingleNodeMultiWriter);
        let volume = clients.create(wanted("v", 8 * MIB, &capability, &[])).await.unwrap();
        let other = clients.create(wanted("other", 8 * MIB, &capability, &[])).await.unwrap();
        let (staging, target) = (lab.target("staging"), lab.target("pods/1/target"));
        clients.stage(&volume, &staging, &capability).await.unwrap();
        clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
        let usage = async |clients: &mut Clients| {
            let request = csi::NodeGetVolumeStatsRequest {
                volume_id: volume.volume_id.clone(),
                volume_path: target.clone(),
                ..Default::default()
            };
            clients.node.node_get_volume_stats(request).await.unwrap().into_inner().usage
        };
        assert_eq!(usage(&mut clients).await[0].total, 8 * MIB, "{pools:?}: its size is its own");
        let (written, why) = fill(&Path::new(&target).join("file"));
        assert_eq!(why, ErrorKind::QuotaExceeded, "{pools:?}");
        assert!((7 << 20..=8 << 20).contains(&written), "{pools:?}: {written}");
        assert!(usage(&mut clients).await[0].available < MIB / 2);

        // Still held after a restart; and larger while it is in use.
        lab.kill();
        let mut clients = lab.clients().await;
        assert!(fill(&Path::new(&target).join("file")).0 < 1 << 19);
        let range = Some(csi::CapacityRange { required_bytes: 16 * MIB, limit_bytes: 0 });
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume.volume_id.clone(),
            capacity_range: range,
            ..Default::default()
        };
        let expanded = clients.controller.controller_expand_volume(request).await.unwrap().into_inner();
        assert!(!expanded.node_expansion_required);
        let (more, _) = fill(&Path::new(&target).join("file"));
        assert!((7 << 20..=9 << 20).contains(&more), "{pools:?}: {more}");
        assert_eq!(usage(&mut clients).await[0].total, 16 * MIB);

        // Files are counted, too, and how many there may be can change.
        let request = csi::ControllerModifyVolumeRequest {
            volume_id: volume.volume_id.clone(),
            mutable_parameters: texts(&[("files", "10")]),
            ..Default::default()
        };
        clients.controller.controller_modify_volume(request).await.unwrap();
        fs::remove_file(Path::new(&target).join("file")).unwrap();
        let made =
            (0..20).take_while(|number| fs::write(Path::new(&target).join(number.to_string()), "").is_ok());
        let made = made.count();
        assert!((7..=10).contains(&made), "{pools:?}: {made} files");

        // A copy may have as many as its origin: more than its size would give it.
        let request = csi::ControllerModifyVolumeRequest {
            volume_id: volume.volume_id.clone(),
            mutable_parameters: texts(&[("files", "3000")]),
            ..Default::default()
        };
        clients.controller.controller_modify_volume(request).await.unwrap();
        for number in 0..1500 {
            fs::write(Path::new(&target).join(format!("more-{number}")), "").unwrap();
        }
        clients.unpublish(&volume.volume_id, &target).await.unwrap();
        clients.unstage(&volume.volume_id, &staging).await.unwrap();
        let origin = csi::volume_content_source::VolumeSource { volume_id: volume.volume_id.clone() };
        let request = csi::CreateVolumeRequest {
            volume_content_source: Some(csi::VolumeContentSource {
                r#type: Some(csi::volume_content_source::Type::Volume(origin)),
            }),
            ..wanted("clone", 16 * MIB, &capability, &[])
        };
        let clone = clients.create(request).await.unwrap();
        clients.delete(&clone.volume_id).await.unwrap();

        // Nothing of that is the other volume's business.
        clients.stage(&other, &staging, &capability).await.unwrap();
        clients.publish(&other, &staging, &target, &capability, false).await.unwrap();
        assert!(fill(&Path::new(&target).join("file")).0 >= 7 << 20);
        clients.unpublish(&other.volume_id, &target).await.unwrap();
        clients.unstage(&other.volume_id, &staging).await.unwrap();
        for id in [&volume.volume_id, &other.volume_id] {
            clients.delete(id).await.unwrap();
        }
        assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
    }
}
