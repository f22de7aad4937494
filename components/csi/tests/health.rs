//! What happens to a volume's file system while a pod has it: it is found out and told, and what others do to it is theirs.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use cairn_contract::csi;
use cairn_csi::filesystem::Frozen;
use lab::{Clients, Lab, MIB, Mode, has_program, mount, obstacle, wanted};
use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

/// An ext4 image, staged and published.
struct Used {
    volume: csi::Volume,
    staging: String,
    target: String,
    capability: csi::VolumeCapability,
}

impl Used {
    async fn new(lab: &Lab, clients: &mut Clients, fs_type: &str) -> Self {
        let capability = mount(fs_type, Mode::SingleNodeWriter);
        let (staging, target) = (lab.target("staging"), lab.target("pods/1/volume"));
        let bytes = if fs_type == "xfs" { 320 * MIB } else { 32 * MIB };
        let request = wanted(fs_type, bytes, &capability, &[("type", "image")]);
        let volume = clients.create(request).await.unwrap();
        clients.stage(&volume, &staging, &capability).await.unwrap();
        clients.publish(&volume, &staging, &target, &capability, false).await.unwrap();
        Self { volume, staging, target, capability }
    }

    async fn condition(&self, clients: &mut Clients) -> csi::VolumeCondition {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: self.volume.volume_id.clone(),
            volume_path: self.target.clone(),
            ..Default::default()
        };
        let stats = clients.node.node_get_volume_stats(request).await.unwrap().into_inner();
        stats.volume_condition.unwrap()
    }

    /// The kernel's name of its device.
    fn device(&self) -> String {
        let number = fs::metadata(&self.target).unwrap().dev();
        let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        let entry = fs::canonicalize(format!("/sys/dev/block/{number}")).unwrap();
        entry.file_name().unwrap().to_str().unwrap().to_owned()
    }

    async fn unuse(&self, clients: &mut Clients) {
        clients.unpublish(&self.volume.volume_id, &self.target).await.unwrap();
        clients.unstage(&self.volume.volume_id, &self.staging).await.unwrap();
    }

    async fn end(self, clients: &mut Clients) {
        self.unuse(clients).await;
        clients.delete(&self.volume.volume_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_system_that_somebody_froze_stays_so_and_ours_does_not() {
    if let Some(reason) = obstacle().or((!has_program("fsfreeze")).then_some("needs fsfreeze")) {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let used = Used::new(&lab, &mut clients, "ext4").await;
    let place = Path::new(&used.target);
    let frozen = || match Frozen::freeze(place) {
        Ok(frozen) => {
            drop(frozen);
            false
        }
        Err(_) => true,
    };
    let freeze = || Command::new("fsfreeze").arg("-f").arg(place).status().unwrap();
    assert!(freeze().success());
    lab.kill();
    lab.clients().await;
    assert!(frozen(), "a start thawed what it had not frozen");
    // As the driver leaves it when it is killed while it copies.
    lab.kill();
    let marks = lab.root().join("run/local/frozen");
    let mark = marks.join(format!("{}.json", used.volume.volume_id));
    fs::write(&mark, format!("{:?}", used.volume.volume_id)).unwrap();
    let mut clients = lab.clients().await;
    assert!(!frozen(), "{}", lab.log());
    assert!(!mark.exists());
    used.end(&mut clients).await;
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn errors_of_a_file_system_are_told_and_corrected_before_it_is_mounted_again() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let used = Used::new(&lab, &mut clients, "ext4").await;
    assert!(!used.condition(&mut clients).await.abnormal);
    // Somebody, or an error, makes it read-only.
    let remount = |flags| rustix::mount::mount_remount(used.staging.as_str(), flags, c"").unwrap();
    remount(rustix::mount::MountFlags::RDONLY);
    let seen = used.condition(&mut clients).await;
    assert!(seen.abnormal && seen.message.contains("read-only"), "{seen:?}");
    remount(rustix::mount::MountFlags::empty());
    assert!(!used.condition(&mut clients).await.abnormal);
    // An error as the kernel counts them (ext4's `trigger_fs_error`, for tests).
    if fs::write(format!("/sys/fs/ext4/{}/trigger_fs_error", used.device()), "a test").is_err() {
        println!("skipped: this kernel does not make errors of ext4");
    } else {
        let seen = used.condition(&mut clients).await;
        assert!(seen.abnormal && seen.message.contains("errors"), "{seen:?}");
        if has_program("e2fsck") {
            // It is corrected by being staged again.
            used.unuse(&mut clients).await;
            clients.stage(&used.volume, &used.staging, &used.capability).await.unwrap();
            clients
                .publish(&used.volume, &used.staging, &used.target, &used.capability, false)
                .await
                .unwrap();
            let seen = used.condition(&mut clients).await;
            assert!(!seen.abnormal, "{seen:?}\n{}", lab.log());
        }
    }
    used.end(&mut clients).await;
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}

#[tokio::test]
async fn a_file_system_that_cannot_be_read_is_told() {
    let missing = ["mkfs.xfs", "xfs_io"].into_iter().find(|program| !has_program(program));
    if let Some(reason) = obstacle().or(missing) {
        println!("skipped: {reason}");
        return;
    }
    let mut lab = Lab::new();
    let mut clients = lab.clients().await;
    let used = Used::new(&lab, &mut clients, "xfs").await;
    assert!(!used.condition(&mut clients).await.abnormal);
    // What XFS does to itself when its disk fails.
    let done = Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&used.staging).status().unwrap();
    assert!(done.success());
    let seen = used.condition(&mut clients).await;
    assert!(seen.abnormal && seen.message.contains("error"), "{seen:?}");
    // Nor can it be looked at, but it is unpublished and unstaged all the same.
    used.end(&mut clients).await;
    assert_eq!(lab.leaks(), Vec::<String>::new(), "{}", lab.log());
}
