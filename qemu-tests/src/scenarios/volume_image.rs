//! Image volumes: a file system of their own, or a device.

use crate::{
    guest::{host::Host, volume::Claim},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use cairn_contract::storage::BackendKind;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-image",
    title: "image volumes with ext4 and XFS grow while mounted, and a block volume is a device in its pod",
    requirements: &["ra2.stg.004", "ra2.stg.006"],
    needs: Needs::Shared,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

const MIB: i64 = 1 << 20;

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Local)?;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Local);
    driver.ready().await?;

    for (file_system, before, after) in [("ext4", 64 * MIB, 128 * MIB), ("xfs", 320 * MIB, 400 * MIB)] {
        context.step(format!("{file_system}: make, write, grow"));
        let claim = Claim::files(file_system, before).on(file_system).parameter("type", "image");
        let volume = driver.provision(claim).await?;
        volume.stage(&host).await?;
        let path = volume.publish(&host, file_system).await?;
        let (pod, container) = guest.pod_with(file_system, probe, &path).await?;
        container.exec(&[&program, "fill", "/volume/kept", "1M"]).await?.success()?;
        let sum = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
        let mounts = container.exec(&[&program, "mounts", "--json"]).await?.success()?;
        let mounts: Vec<serde_json::Value> = serde_json::from_str(&mounts).unwrap_or_default();
        let kind =
            mounts.iter().find(|mount| mount["target"] == "/volume").map(|mount| mount["type"].clone());
        check_equal("the volume's file system", &kind, &Some(file_system.into()))?;
        let total = total(&volume.stats(file_system).await?);
        volume.expand(file_system, after).await?;
        let grown = self::total(&volume.stats(file_system).await?);
        check(grown > total + (after - before) / 2, || {
            format!("the file system had {total} bytes, and now {grown}")
        })?;
        let seen = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
        check_equal("the file's digest", &seen, &sum)?;
        pod.remove().await?;
        volume.unpublish(file_system).await?;
        volume.unstage().await?;
        volume.delete().await?;
    }

    context.step("a device");
    let volume = driver.provision(Claim::files("device", 16 * MIB).device()).await?;
    volume.stage(&host).await?;
    let path = volume.publish(&host, "device").await?;
    let pod = guest.pod("device").run().await?;
    let container =
        pod.container("main", &probe.reference).args(["pause"]).device(&path, "/dev/volume", "rw");
    let container = container.start().await?;
    container.exec(&[&program, "write", "/dev/volume", "straight to the blocks"]).await?.success()?;
    container.exec(&[&program, "sync"]).await?.success()?;
    let read = container.exec(&[&program, "head", "/dev/volume", "22"]).await?.success()?;
    check_equal("what the device holds", &read.as_str(), &"straight to the blocks")?;
    pod.remove().await?;
    volume.unpublish("device").await?;
    volume.unstage().await?;
    volume.delete().await?;

    context.step("no loop device is left");
    for name in host.list("/sys/block").await? {
        let file = host.read(&format!("/sys/block/{name}/loop/backing_file")).await;
        check(file.is_err(), || format!("{name} still has {file:?}"))?;
    }
    host.leave().await
}

/// Bytes in all.
fn total(stats: &cairn_contract::csi::NodeGetVolumeStatsResponse) -> i64 {
    stats.usage.iter().find(|held| held.unit == 1).map_or(0, |held| held.total)
}
