//! A directory volume's life: from the claim to the pod, through restarts, to nothing.

use crate::{
    guest::{host::Host, volume::Claim},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use cairn_contract::{paths, storage::BackendKind};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-local",
    title: "a local volume is provisioned, used, limited, grown, kept over restarts of driver and pod, and removed",
    requirements: &["ra2.stg.004", "ra2.stg.006", "ra2.stg.007", "ra2.stg.010"],
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

    context.step("the driver registers");
    driver.register(&host).await?;
    driver.ready().await?;
    let node = driver.node().await?;
    let here = node.accessible_topology.unwrap_or_default().segments;
    check(here.values().any(|value| *value == node.node_id), || {
        format!("the topology {here:?} does not name the node {}", node.node_id)
    })?;

    context.step("provision, stage, publish into a pod");
    let volume = driver.provision(Claim::files("data", 32 * MIB)).await?;
    check(volume.size >= 32 * MIB, || format!("it has {} bytes", volume.size))?;
    volume.stage(&host).await?;
    let path = volume.publish(&host, "first").await?;
    let (pod, container) = guest.pod_with("first", probe, &path).await?;
    container.exec(&[&program, "fill", "/volume/kept", "1M"]).await?.success()?;
    let sum = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;

    context.step("the quota refuses the byte too many");
    let refused = container.exec(&[&program, "fill", "/volume/large", "64M"]).await?;
    let is_full = refused.stderr.contains("EDQUOT") || refused.stderr.contains("ENOSPC");
    check(refused.code == 1 && is_full, || format!("64 MiB went into a volume of 32: {refused:?}"))?;
    let usage = volume.stats("first").await?;
    check(
        usage.usage.iter().any(|held| held.unit == 1 && held.total >= 32 * MIB && held.total < 40 * MIB),
        || format!("its figures are {:?}", usage.usage),
    )?;

    context.step("grow it while it is mounted");
    let size = volume.expand("first", 96 * MIB).await?;
    check(size >= 96 * MIB, || format!("it has {size} bytes"))?;
    container.exec(&[&program, "fill", "/volume/large", "64M"]).await?.success()?;
    container.exec(&[&program, "write", "/volume/large", ""]).await?.success()?;

    context.step("kill the driver");
    let _ = host.run(&["kill", "KILL", "cairn-csi"]).await;
    driver.ready().await?;
    driver.register(&host).await?;
    let seen = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
    check_equal("the file's digest in the same pod", &seen, &sum)?;
    check(!volume.stats("first").await?.volume_condition.unwrap_or_default().abnormal, || {
        "the driver calls it abnormal".to_owned()
    })?;

    context.step("another pod");
    pod.remove().await?;
    volume.unpublish("first").await?;
    let path = volume.publish_read_only(&host, "second").await?;
    let (pod, container) = guest.pod_with("second", probe, &path).await?;
    let seen = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
    check_equal("the file's digest in the next pod", &seen, &sum)?;
    let refused = container.exec(&[&program, "write", "/volume/other", "x"]).await?;
    check(refused.stderr.contains("EROFS"), || format!("a read-only pod wrote: {refused:?}"))?;

    context.step("nothing is left");
    pod.remove().await?;
    volume.unpublish("second").await?;
    volume.unpublish("second").await?;
    volume.unstage().await?;
    volume.delete().await?;
    volume.delete().await?;
    check(!driver.volumes().await?.contains(&volume.id), || "it is still listed".to_owned())?;
    let mounts = host.read("/proc/1/mountinfo").await?;
    let left = mounts.lines().find(|line| line.contains(&format!("{}/", paths::KUBELET_STATE)));
    check(left.is_none(), || format!("still mounted: {left:?}"))?;
    host.leave().await
}
