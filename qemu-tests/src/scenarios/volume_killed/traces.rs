//! What volumes leave on a node: mounts, disks, sessions, files, processes.

use crate::{
    guest::host::{Host, MOUNT},
    scenario::Stop,
};
use cairn_contract::paths::{CSI_RUN, CSI_STATE, KUBELET_STATE};
use futures::future::try_join_all;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::{Instant, sleep};

/// A line for each thing.
pub(super) type Traces = BTreeSet<String>;

/// Directories of the driver and of the programs that it uses. What multipathd keeps is looked at by its lines.
const TREES: [&str; 4] = [CSI_RUN, CSI_STATE, "/run/cairn/iscsi", "/run/lock/iscsi"];
/// Are there since the first iSCSI volume of a boot.
const STAY: [&str; 2] = ["file /run/cairn/iscsi/nodes", "file /run/lock/iscsi/lock"];
const WWIDS: &str = "/etc/multipath/wwids";
/// The kernel takes some of it away a moment after it said so.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is there now.
pub(super) async fn look(host: &Host) -> Result<Traces, Stop> {
    let mut found = Traces::new();
    let mounts = host.read("/proc/1/mountinfo").await?;
    found.extend(mounts.lines().filter_map(|line| Some(format!("mount {}", line.split(' ').nth(4)?))));
    for (what, directory) in [("disk", "/sys/block"), ("session", "/sys/class/iscsi_session")] {
        // Without its module there is no such class.
        let names = host.list(directory).await.unwrap_or_default();
        // Links: `sda -> ../devices/…`.
        found.extend(names.iter().map(|name| format!("{what} {}", name.split(' ').next().unwrap_or(name))));
    }
    let pods = format!("{KUBELET_STATE}/pods");
    let mut trees: Vec<String> = TREES.map(str::to_owned).into();
    trees.push(pods.clone());
    while !trees.is_empty() {
        let listed = try_join_all(trees.iter().map(|tree| list(host, tree))).await?;
        trees.clear();
        for (path, is_directory) in listed.into_iter().flatten() {
            // The kubelet's own directories stay; what is published has a directory in them, which goes.
            if !(is_directory && path.starts_with(&pods)) || path.ends_with("/mount") {
                found.insert(format!("file {path}"));
            }
            if is_directory {
                trees.push(path);
            }
        }
    }
    let wwids = host.read(WWIDS).await.unwrap_or_default();
    found.extend(wwids.lines().filter(|line| !line.starts_with('#')).map(|line| format!("multipath {line}")));
    let processes = host.read("/sys/fs/cgroup/system.slice/cairn-csi.service/cgroup.procs").await?;
    // Each time another one; how many they are counts.
    found.extend((1..=processes.lines().count()).map(|number| format!("process {number} of the driver")));
    Ok(found)
}

/// Fails if there is more than `before`.
pub(super) async fn nothing_is_left(host: &Host, before: &Traces) -> Result<(), Stop> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = look(host).await?;
        let mut left: Vec<String> =
            now.difference(before).filter(|line| !STAY.contains(&line.as_str())).cloned().collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            left.truncate(20);
            return Err(Stop::failed(format!("left behind: {}", left.join(", "))));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// What is in a directory, and which of it are directories; nothing if it is not there.
async fn list(host: &Host, directory: &str) -> Result<Vec<(String, bool)>, Stop> {
    let output = host.run(&["ls", &format!("{MOUNT}{directory}")]).await?;
    if output.stderr.contains("ENOENT") {
        return Ok(Vec::new());
    }
    // Mode, owner, group and size come before the name.
    let lines = output.success()?;
    let entries = lines.lines().filter_map(|line| {
        let name = line.splitn(5, ' ').nth(4)?.split(" -> ").next()?;
        Some((format!("{directory}/{name}"), line.starts_with("04")))
    });
    Ok(entries.collect())
}
