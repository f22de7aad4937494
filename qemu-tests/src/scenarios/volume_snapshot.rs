//! Snapshots of local volumes.

use crate::{
    guest::{
        host::Host,
        pod::{Container, Pod},
        volume::{Claim, Source, Volume, refused},
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
        let kept = format!("{kind}-kept");
        let used = InUse::by_a_pod(context, &host, &volume).await?;
        let sum = used.write(context, "before", "2M").await?;
        // The state partition is ext4, which shares no blocks: a copy takes its time, in which nothing may change.
        let refusal = volume.snapshot(&kept).await;
        refused("a snapshot while a pod has the volume", refusal, "FailedPrecondition")?;
        used.leave().await?;
        let snapshot = volume.snapshot(&kept).await?;
        let used = InUse::by_a_pod(context, &host, &volume).await?;
        let now = used.write(context, "after", "1M").await?;
        used.leave().await?;

        context.step(format!("{kind}: restore, and compare"));
        let source = Source::Snapshot(snapshot.snapshot_id.clone());
        let restored = driver.provision(claim("restored").from(source)).await?;
        let found = look(context, &host, &restored).await?;
        check_equal("the restored data", &found, &("before".to_owned(), sum))?;

        context.step(format!("{kind}: clone, and compare"));
        let cloned = driver.provision(claim("cloned").from(Source::Volume(volume.id.clone()))).await?;
        let found = look(context, &host, &cloned).await?;
        check_equal("the cloned data", &found, &("after".to_owned(), now))?;

        context.step(format!("{kind}: remove all"));
        for volume in [&volume, &restored, &cloned] {
            volume.delete().await?;
        }
        driver.remove_snapshot(&snapshot).await?;
        driver.remove_snapshot(&snapshot).await?;
    }
    host.leave().await
}

/// A volume that a pod has.
struct InUse<'a> {
    volume: &'a Volume,
    pod: Pod,
    container: Container,
}

impl<'a> InUse<'a> {
    async fn by_a_pod(context: &mut Context<'_>, host: &Host, volume: &'a Volume) -> Result<Self, Stop> {
        let guest = context.guest()?;
        volume.stage(host).await?;
        let path = volume.publish(host, "user").await?;
        let (pod, container) = guest.pod_with("user", &context.lab().probe, &path).await?;
        Ok(Self { volume, pod, container })
    }

    /// Writes a state and so much data to the disk, and returns the data's digest.
    async fn write(&self, context: &Context<'_>, state: &str, size: &str) -> Result<String, Stop> {
        let program = context.lab().probe.program();
        for words in [&["fill", "/volume/data", size][..], &["write", "/volume/state", state], &["sync"]] {
            let command: Vec<&str> = [program.as_str()].into_iter().chain(words.iter().copied()).collect();
            self.container.exec(&command).await?.success()?;
        }
        self.sum(context).await
    }

    async fn sum(&self, context: &Context<'_>) -> Result<String, Stop> {
        let program = context.lab().probe.program();
        self.container.exec(&[&program, "sha256", "/volume/data"]).await?.success()
    }

    async fn state(&self, context: &Context<'_>) -> Result<String, Stop> {
        let program = context.lab().probe.program();
        self.container.exec(&[&program, "cat", "/volume/state"]).await?.success()
    }

    async fn leave(self) -> Result<(), Stop> {
        self.pod.remove().await?;
        self.volume.unpublish("user").await?;
        self.volume.unstage().await
    }
}

/// What a pod finds in a volume: its state, and its data's digest.
async fn look(context: &mut Context<'_>, host: &Host, volume: &Volume) -> Result<(String, String), Stop> {
    let used = InUse::by_a_pod(context, host, volume).await?;
    let found = (used.state(context).await?, used.sum(context).await?);
    used.leave().await?;
    Ok(found)
}
