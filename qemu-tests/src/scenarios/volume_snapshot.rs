//! Snapshots of local volumes.

use crate::{
    guest::{
        host::Host,
        volume::{Claim, Source, Volume},
    },
    scenario::{Context, Needs, Scenario, Stop, check_equal},
};
use cairn_contract::storage::BackendKind;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-snapshot",
    title: "a snapshot keeps what a volume had, and volumes made from it and from a volume have the same",
    requirements: &["ra2.stg.006"],
    needs: Needs::Shared,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

const SIZE: i64 = 64 << 20;

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Local)?;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Local);
    driver.ready().await?;

    for kind in ["directory", "image"] {
        context.step(format!("{kind}: write, keep, write again"));
        let claim = |name: &str| Claim::files(&format!("{kind}-{name}"), SIZE).parameter("type", kind);
        let volume = driver.provision(claim("origin")).await?;
        volume.stage(&host).await?;
        let path = volume.publish(&host, "origin").await?;
        let (pod, container) = guest.pod_with("origin", probe, &path).await?;
        let program = probe.program();
        container.exec(&[&program, "fill", "/volume/data", "2M"]).await?.success()?;
        container.exec(&[&program, "write", "/volume/state", "before"]).await?.success()?;
        container.exec(&[&program, "sync"]).await?.success()?;
        let sum = container.exec(&[&program, "sha256", "/volume/data"]).await?.success()?;
        let snapshot = volume.snapshot(&format!("{kind}-kept")).await?;
        container.exec(&[&program, "write", "/volume/state", "after"]).await?.success()?;
        container.exec(&[&program, "fill", "/volume/data", "1M"]).await?.success()?;
        container.exec(&[&program, "sync"]).await?.success()?;

        context.step(format!("{kind}: restore, and compare"));
        let source = Source::Snapshot(snapshot.snapshot_id.clone());
        let restored = driver.provision(claim("restored").from(source)).await?;
        check_equal(
            "the restored data",
            &look(context, &host, &restored).await?,
            &("before".to_owned(), sum),
        )?;

        context.step(format!("{kind}: clone, and compare"));
        let now = container.exec(&[&program, "sha256", "/volume/data"]).await?.success()?;
        let cloned = driver.provision(claim("cloned").from(Source::Volume(volume.id.clone()))).await?;
        check_equal("the cloned data", &look(context, &host, &cloned).await?, &("after".to_owned(), now))?;

        context.step(format!("{kind}: remove all"));
        pod.remove().await?;
        volume.unpublish("origin").await?;
        volume.unstage().await?;
        for volume in [&volume, &restored, &cloned] {
            volume.delete().await?;
        }
        driver.remove_snapshot(&snapshot).await?;
        driver.remove_snapshot(&snapshot).await?;
    }
    host.leave().await
}

/// What a pod finds in a volume: its state, and its data's digest.
async fn look(context: &mut Context<'_>, host: &Host, volume: &Volume) -> Result<(String, String), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    volume.stage(host).await?;
    let path = volume.publish(host, "look").await?;
    let (pod, container) = guest.pod_with("look", probe, &path).await?;
    let state = container.exec(&[&program, "cat", "/volume/state"]).await?.success()?;
    let sum = container.exec(&[&program, "sha256", "/volume/data"]).await?.success()?;
    pod.remove().await?;
    volume.unpublish("look").await?;
    volume.unstage().await?;
    Ok((state, sum))
}
