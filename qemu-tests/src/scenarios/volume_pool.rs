//! Local volumes on a disk of their own, which the machine config names.

use super::volume_snapshot::{InUse, USER, look};
use crate::{
    guest::{
        host::Host,
        volume::{Claim, Source, refused},
    },
    node::{SECOND_DISK, Setup},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use cairn_contract::{
    machine::Storage,
    storage::{BackendKind, Pool, Quota},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-pool",
    title: "a blank disk becomes a pool with XFS, whose volumes are snapshotted and cloned in use and outlive a power cut; a missing one keeps nobody from booting",
    requirements: &["ra2.stg.004", "ra2.stg.006"],
    needs: Needs::Own,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

const DISK_SIZE: u64 = 2 << 30;
const SIZE: i64 = 64 << 20;
const METRICS: &str = "127.0.0.1:10098";
/// What an idle driver may have resident.
const IDLE_BYTES: u64 = 10_000_000;

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Local)?;
    let probe = &context.lab().probe;
    let pool = |name: &str, device: &str| Pool {
        name: name.to_owned(),
        path: format!("/var/lib/cairn/pools/{name}").into(),
        device: Some(device.into()),
        quota: Quota::Enforced,
        limit_bytes: None,
    };
    let storage = Storage {
        pools: vec![pool("disk", SECOND_DISK), pool("absent", "/dev/disk/by-id/virtio-absent")],
        metrics_address: METRICS.parse().ok(),
    };

    context.step("boot with two pools, of which one has its disk");
    let setup = Setup { second_disk: Some(DISK_SIZE), storage, ..Setup::default() };
    let mut node = context.boot(setup).await?;
    node.ready().await?;
    let guest = node.guest().clone();
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Local);
    driver.ready().await?;

    context.step("the idle driver's memory");
    let (resident, of_it) = resident(&host).await?;
    context.figure("csi_idle_resident_bytes", resident as f64);
    check(resident <= IDLE_BYTES, || {
        format!("{resident} bytes are resident, and {IDLE_BYTES} is the most:\n{of_it}")
    })?;

    context.step("the blank disk has XFS, with project quotas");
    let origin = Claim::files("origin", SIZE).parameter("type", "image").parameter("pool", "disk");
    let volume = driver.provision(origin.clone()).await?;
    let mounts = host.read("/proc/1/mountinfo").await?;
    let mounted = mounts.lines().find(|line| line.contains(" /var/lib/cairn/pools/disk "));
    check(mounted.is_some_and(|line| line.contains(" - xfs ") && line.contains("prjquota")), || {
        format!("the pool's mount is {mounted:?}")
    })?;

    context.step("the missing disk is named to whoever asks for it");
    let claim = Claim::files("nowhere", SIZE).parameter("pool", "absent");
    refused("a volume on a missing disk", driver.provision(claim).await, "virtio-absent")?;

    context.step("write, keep and clone while a pod has it");
    let used = InUse::by_a_pod(&guest, probe, &host, &volume).await?;
    let before = used.write("before", "2M").await?;
    let snapshot = volume.snapshot("kept").await?;
    let after = used.write("after", "1M").await?;
    let source = Source::Volume(volume.id.clone());
    let cloned = driver.provision(Claim { name: "cloned".into(), ..origin.clone() }.from(source)).await?;
    let last = used.write("last", "1M").await?;

    context.step("its metrics");
    let metrics = host.run(&["http", "get", &format!("http://{METRICS}/metrics")]).await?.success()?;
    for line in [
        "cairn_csi_staged_volumes{driver=\"local.csi.cairn\"} 1",
        "cairn_csi_published_volumes{driver=\"local.csi.cairn\"} 1",
        "cairn_csi_pool_volumes{pool=\"disk\"} 2",
        "cairn_csi_pool_snapshots{pool=\"disk\"} 1",
    ] {
        check(metrics.lines().any(|found| found == line), || format!("no `{line}` in:\n{metrics}"))?;
    }

    context.step("press the reset button");
    node.reset().await?;
    let guest = node.guest().clone();
    guest.runtime_ready().await?;
    guest.sweep().await?;
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Local);
    driver.ready().await?;

    context.step("restore, and compare all three");
    let source = Source::Snapshot(snapshot.snapshot_id.clone());
    let restored = driver.provision(Claim { name: "restored".into(), ..origin }.from(source)).await?;
    let (volume, cloned) = (volume.of(&driver), cloned.of(&driver));
    volume.unpublish(USER).await?;
    for (volume, state, sum) in
        [(&volume, "last", last), (&cloned, "after", after), (&restored, "before", before)]
    {
        let found = look(&guest, probe, &host, volume).await?;
        check_equal("what is in it", &found, &(state.to_owned(), sum))?;
    }
    Ok(())
}

/// Bytes that the driver has resident, and what of.
async fn resident(host: &Host) -> Result<(u64, String), Stop> {
    let processes = host.read("/sys/fs/cgroup/system.slice/cairn-csi.service/cgroup.procs").await?;
    let [process] = processes.lines().collect::<Vec<_>>()[..] else {
        return Err(Stop::failed(format!("an idle driver is one process, not {processes:?}")));
    };
    let held = host.read(&format!("/proc/{process}/smaps_rollup")).await?;
    let line = held.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let kib = kib.ok_or_else(|| Stop::failed(format!("no Rss in:\n{held}")))?;
    Ok((kib * 1024, held))
}
