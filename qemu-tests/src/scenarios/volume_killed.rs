//! `kill -9` of the storage driver at random moments of a random workload on NFS and iSCSI volumes: nothing is lost, nothing
//! is left.
//!
//! The same is done to local volumes natively (`components/csi/tests/killing.rs`); what a server and a session are needed for
//! is done here. A round lets all volumes go their random ways side by side and kills the driver meanwhile. A call that failed
//! is repeated when the driver is back, or taken back, as a kubelet does whose pod is gone. Every few rounds all volumes
//! are wound down, and what is on the node and on the servers is compared with what was there at the beginning.
//! `CAIRN_VOLUME_KILLS` and `CAIRN_VOLUME_KILLS_SEED` repeat a run; the seed repeats the workload, not the machine's timing.

mod held;
mod traces;

use super::volume_iscsi::{OURS, attributes_by};
use crate::{
    error::Fault,
    guest::{identity::HOST_FROM_GUEST, volume::Claim},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
    storage::{
        iscsi::IscsiTarget,
        nfs::{EXPORT, NfsServer},
    },
};
use cairn_contract::{csi::volume_capability::access_mode::Mode, storage::BackendKind};
use futures::future::{join_all, try_join_all};
use held::{Held, Kubelet, Random};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::sleep;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-killed",
    title: "a driver killed at random moments loses no NFS or iSCSI volume, and leaves no mount, session, disk or file",
    requirements: &["ra2.stg.003", "ra2.stg.006"],
    needs: Needs::Shared,
    budget: BUDGET,
    run: |context| Box::pin(run(context)),
};

/// For [`ROUNDS`].
const BUDGET: u32 = 5;
const ROUNDS: u64 = 12;
/// After so many rounds everything is wound down.
const CHAPTER: u64 = 12;
const MIB: i64 = 1 << 20;
const SIZE: i64 = 64 * MIB;
/// What a unit grows by.
const MORE: i64 = 8 * MIB;
/// A kill comes within this time; a login takes about as long.
const KILL_WITHIN: u64 = 2000;
/// Units, and the ways to each. All but the first way are the third's alone, so that its sessions differ in who needs them.
const UNITS: [(&str, u32, &[usize]); 3] = [("unit-1", 1, &[0]), ("unit-2", 2, &[0]), ("unit-3", 3, &[0, 1])];
const EXPORTS: [&str; 2] = ["export-1", "export-2"];

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Nfs)?;
    context.lab().has_volumes(BackendKind::Iscsi)?;
    let rounds = number("CAIRN_VOLUME_KILLS")?.unwrap_or(ROUNDS);
    let seed = number("CAIRN_VOLUME_KILLS_SEED")?.unwrap_or(u64::from(std::process::id()));
    let times = u32::try_from(rounds.div_ceil(ROUNDS)).unwrap_or(u32::MAX);
    context.allow(times.max(1).saturating_mul(BUDGET));
    let work = context.lab().work.join("killed");
    let server = NfsServer::start(&work.join("nfs")).await?;
    let target = IscsiTarget::start(&work.join("iscsi"), 2).await?;
    target.require(OURS).await?;
    let guest = context.guest()?;
    let kubelet = Kubelet::start(&guest, &context.lab().probe).await?;
    let mut random = Random(seed);
    let mut volumes = Vec::new();
    let nfs = guest.driver(BackendKind::Nfs);
    nfs.ready().await?;
    for name in EXPORTS {
        let claim = Claim::files(name, SIZE)
            .used_by(Mode::MultiNodeMultiWriter)
            .parameter("server", format!("{HOST_FROM_GUEST}:{}", server.port))
            .parameter("share", EXPORT)
            .flag("vers=4.1");
        volumes.push(Held::of_a_claim(name, nfs.clone(), claim, random.fork()));
    }
    let iscsi = guest.driver(BackendKind::Iscsi);
    iscsi.ready().await?;
    for (name, unit, ways) in UNITS {
        target.add(unit, u64::try_from(SIZE).unwrap_or_default()).await?;
        let claim = Claim::files(name, SIZE)
            .secret("node.session.auth.username", OURS.user)
            .secret("node.session.auth.password", OURS.secret);
        let ways = ways.iter().map(|&way| &target.gates()[way]);
        let volume = iscsi.existing(name, claim, attributes_by(ways, &unit.to_string()));
        volumes.push(Held::of_a_unit(name, iscsi.clone(), volume, unit, random.fork()));
    }
    let before = traces::look(kubelet.host()).await?;

    let mut kills = 0_u32;
    let result = async {
        for round in 0..rounds {
            if round % CHAPTER == 0 {
                context.step(format!("seed {seed}, from round {round} of {rounds}"));
            }
            let place = || format!("seed {seed}, round {round}");
            kills += work_until_killed(&mut volumes, &kubelet, &mut random)
                .await
                .map_err(|stop| stop.while_trying(&place()))?;
            for driver in [&nfs, &iscsi] {
                driver.ready().await.map_err(|stop| stop.while_trying(&place()))?;
            }
            // Or else what failed is repeated while the next kill is on its way.
            if random.below(3) == 0 {
                let settled = volumes.iter_mut().map(|volume| volume.settle(&kubelet, guest.pace()));
                try_join_all(settled).await.map_err(|stop| stop.while_trying(&place()))?;
            }
            if round % CHAPTER == CHAPTER - 1 || round + 1 == rounds {
                let wound_down = volumes.iter_mut().map(|volume| volume.wind_down(&kubelet, guest.pace()));
                try_join_all(wound_down).await.map_err(|stop| stop.while_trying(&place()))?;
                nothing_is_left(&before, &kubelet, &target, &server)
                    .await
                    .map_err(|stop| stop.while_trying(&place()))?;
                renew(&mut volumes, &target, &mut random)?;
            } else {
                grow_one(context, &mut volumes, &target, &mut random).await?;
            }
        }
        check(kills > 0, || "the driver was never killed".to_owned())
    }
    .await;
    if result.is_err() {
        keep(&context.lab().artefacts, &volumes);
    }
    result?;
    let calls = volumes.iter().map(|volume| volume.calls).sum::<u32>();
    let cut = volumes.iter().map(|volume| volume.cut).sum::<u32>();
    let refused = volumes.iter().map(|volume| volume.refused).sum::<u32>();
    for (name, value) in [("kills", kills), ("calls", calls), ("calls_cut", cut), ("calls_refused", refused)]
    {
        context.figure(format!("volume_killed_{name}_count"), f64::from(value));
    }
    kubelet.leave().await
}

/// A whole number from the environment.
fn number(name: &str) -> Result<Option<u64>, Stop> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    let number = text.parse().map_err(|_| Stop::failed(format!("{name}={text} is not a whole number")))?;
    Ok(Some(number))
}

/// Lets all volumes go their ways until the driver was killed; how often it was.
async fn work_until_killed(
    volumes: &mut [Held],
    kubelet: &Kubelet,
    random: &mut Random,
) -> Result<u32, Stop> {
    let killed = AtomicBool::new(false);
    let delay = Duration::from_millis(random.below(KILL_WITHIN));
    let kill = async {
        sleep(delay).await;
        let output = kubelet.host().run(&["kill", "KILL", "cairn-csi"]).await;
        killed.store(true, Ordering::Relaxed);
        output?.success()
    };
    let work = join_all(volumes.iter_mut().map(|volume| volume.work(kubelet, &killed)));
    let (kill, work) = tokio::join!(kill, work);
    work.into_iter().collect::<Result<Vec<()>, Stop>>()?;
    Ok(u32::from(kill.is_ok()))
}

/// Compares the node and the servers with what was there before there was a volume.
async fn nothing_is_left(
    before: &traces::Traces,
    kubelet: &Kubelet,
    target: &IscsiTarget,
    server: &NfsServer,
) -> Result<(), Stop> {
    traces::nothing_is_left(kubelet.host(), before).await?;
    check_equal("the sessions that the target sees", &target.sessions().await?, &0)?;
    let on_server = files_below(&server.directory).map_err(Fault::io("look at the export"))?;
    check(on_server.is_empty(), || format!("left on the NFS server: {on_server:?}"))
}

/// Files, and directories but the driver's own, which stays.
fn files_below(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        }
        if !path.ends_with(".cairn-csi") {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

/// Makes some units blank again, so that they are formatted anew.
fn renew(volumes: &mut [Held], target: &IscsiTarget, random: &mut Random) -> Result<(), Stop> {
    for volume in volumes {
        if let Some(unit) = volume.unit()
            && random.below(2) == 0
        {
            target.blank(unit)?;
            volume.is_blank();
        }
    }
    Ok(())
}

/// Makes a unit larger that a pod uses, now and then.
async fn grow_one(
    context: &mut Context<'_>,
    volumes: &mut [Held],
    target: &IscsiTarget,
    random: &mut Random,
) -> Result<(), Stop> {
    let published =
        volumes.iter_mut().filter_map(|volume| volume.published_unit().map(|unit| (unit, volume)));
    let Some((unit, volume)) = random.choose(published.collect()).filter(|_| random.below(3) == 0) else {
        return Ok(());
    };
    let size = volume.grows_by(MORE);
    // The target's unit is not there for a moment; a machine that stands still does not see that.
    context.node()?.freeze().await?;
    let grown = target.grow(unit, u64::try_from(size).unwrap_or_default()).await;
    context.node()?.thaw().await?;
    Ok(grown?)
}

/// Writes all calls beside the logs of a failure.
fn keep(artefacts: &Path, volumes: &[Held]) {
    let directory = artefacts.join(SCENARIO.id);
    let text: String = volumes.iter().flat_map(Held::log).collect();
    // A help for people; the failure is reported with or without it.
    let _ =
        std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(directory.join("calls.log"), text));
}
