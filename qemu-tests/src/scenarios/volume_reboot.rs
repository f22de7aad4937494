//! Volumes and a power cut.

use crate::{
    guest::{host::Host, volume::Claim},
    scenario::{Context, Needs, Scenario, Stop, check_equal},
};
use cairn_contract::storage::BackendKind;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-reboot",
    title: "after a power cut volumes are as they were, and are staged and published again",
    requirements: &["ra2.stg.004", "ra2.stg.006"],
    needs: Needs::SharedReboot,
    budget: 4,
    run: |context| Box::pin(run(context)),
};

const SIZE: i64 = 64 << 20;

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Local)?;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Local);
    driver.ready().await?;

    context.step("write, and wait until it is on the disk");
    let mut volumes = Vec::new();
    for claim in [
        Claim::files("directory", SIZE),
        Claim::files("image", SIZE).parameter("type", "image"),
        Claim::files("encrypted", SIZE)
            .parameter("type", "image")
            .parameter("encryption", "luks2")
            .secret("encryptionPassphrase", "the right passphrase"),
    ] {
        let name = claim.name.clone();
        let volume = driver.provision(claim).await?;
        volume.stage(&host).await?;
        let path = volume.publish(&host, &name).await?;
        let (_, container) = guest.pod_with(&name, probe, &path).await?;
        container.exec(&[&program, "fill", "/volume/kept", "1M"]).await?.success()?;
        let sum = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
        volumes.push((name, volume, sum));
    }
    host.run(&["sync"]).await?.success()?;

    context.step("press the reset button");
    context.node()?.reset().await?;
    let guest = context.guest()?;
    guest.runtime_ready().await?;
    guest.sweep().await?;
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Local);
    driver.ready().await?;
    driver.register(&host).await?;

    for (name, volume, sum) in volumes {
        context.step(format!("{name}: all is there"));
        let volume = volume.of(&driver);
        // The kubelet of the boot before had it published, and takes that back before it goes on.
        volume.unpublish(&name).await?;
        volume.stage(&host).await?;
        let path = volume.publish(&host, "after").await?;
        let (pod, container) = guest.pod_with("after", probe, &path).await?;
        let seen = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
        check_equal("the file's digest", &seen, &sum)?;
        pod.remove().await?;
        volume.unpublish("after").await?;
        volume.unstage().await?;
        volume.delete().await?;
    }
    host.leave().await
}
