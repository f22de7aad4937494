//! Snapshots of local volumes.

use crate::{
    guest::{
        Guest,
        host::Host,
        pod::{Container, Pod},
        volume::{Claim, Source, Volume, refused},
    },
    image::root::Probe,
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
        let used = InUse::by_a_pod(&guest, probe, &host, &volume).await?;
        let sum = used.write("before", "2M").await?;
        // The state partition is ext4, which shares no blocks: a copy takes its time, in which nothing may change.
        let refusal = volume.snapshot(&kept).await;
        refused("a snapshot while a pod has the volume", refusal, "FailedPrecondition")?;
        used.leave().await?;
        let snapshot = volume.snapshot(&kept).await?;
        let used = InUse::by_a_pod(&guest, probe, &host, &volume).await?;
        let now = used.write("after", "1M").await?;
        used.leave().await?;

        context.step(format!("{kind}: restore, and compare"));
        let source = Source::Snapshot(snapshot.snapshot_id.clone());
        let restored = driver.provision(claim("restored").from(source)).await?;
        let found = look(&guest, probe, &host, &restored).await?;
        check_equal("the restored data", &found, &("before".to_owned(), sum))?;

        context.step(format!("{kind}: clone, and compare"));
        let cloned = driver.provision(claim("cloned").from(Source::Volume(volume.id.clone()))).await?;
        let found = look(&guest, probe, &host, &cloned).await?;
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
pub(super) struct InUse<'a> {
    volume: &'a Volume,
    pod: Pod,
    container: Container,
    program: String,
}

impl<'a> InUse<'a> {
    pub(super) async fn by_a_pod(
        guest: &Guest,
        probe: &Probe,
        host: &Host,
        volume: &'a Volume,
    ) -> Result<Self, Stop> {
        volume.stage(host).await?;
        let path = volume.publish(host, USER).await?;
        let (pod, container) = guest.pod_with(USER, probe, &path).await?;
        Ok(Self { volume, pod, container, program: probe.program() })
    }

    /// Writes a state and so much data to the disk, and returns the data's digest.
    pub(super) async fn write(&self, state: &str, size: &str) -> Result<String, Stop> {
        for words in [&["fill", "/volume/data", size][..], &["write", "/volume/state", state], &["sync"]] {
            self.run(words).await?;
        }
        self.run(&["sha256", "/volume/data"]).await
    }

    /// Its state, and its data's digest.
    pub(super) async fn read(&self) -> Result<(String, String), Stop> {
        Ok((self.run(&["cat", "/volume/state"]).await?, self.run(&["sha256", "/volume/data"]).await?))
    }

    async fn run(&self, words: &[&str]) -> Result<String, Stop> {
        let command: Vec<&str> = [self.program.as_str()].into_iter().chain(words.iter().copied()).collect();
        self.container.exec(&command).await?.success()
    }

    pub(super) async fn leave(self) -> Result<(), Stop> {
        self.pod.remove().await?;
        self.volume.unpublish(USER).await?;
        self.volume.unstage().await
    }
}

/// The pod's name, and how the kubelet tells it from others.
pub(super) const USER: &str = "user";

/// What a pod finds in a volume: its state, and its data's digest.
pub(super) async fn look(
    guest: &Guest,
    probe: &Probe,
    host: &Host,
    volume: &Volume,
) -> Result<(String, String), Stop> {
    let used = InUse::by_a_pod(guest, probe, host, volume).await?;
    let found = used.read().await?;
    used.leave().await?;
    Ok(found)
}
