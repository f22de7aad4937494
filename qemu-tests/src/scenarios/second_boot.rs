//! State outlives a reboot, the rest does not.

use crate::{
    guest::host::Host,
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "second-boot",
    title: "state and identity outlive a reboot, changes to /etc do not",
    requirements: &["ra2.ch.017", "ra2.stg.001"],
    needs: Needs::SharedReboot,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

const STATE: &str = "/var/lib/cairn-test-state";
const ETC: &str = "/etc/cairn-test-etc";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    context.step("leave marks in /var and /etc");
    let before = guest.status().await?;
    let host = Host::look(&guest, probe).await?;
    host.write(STATE, "kept").await?.success()?;
    host.write(ETC, "forgotten").await?.success()?;
    host.leave().await?;

    context.step("reboot");
    let times = context.node()?.reboot().await?;
    context.figure("reboot_to_node_ready_seconds", times.node_ready.as_secs_f64());
    let guest = context.guest()?;
    let after = guest.status().await?;
    check(after.boot_id != before.boot_id, || "the boot id is the same: it did not reboot".to_owned())?;
    check_equal("the machine id", &after.machine_id, &before.machine_id)?;

    context.step("look for the marks");
    let host = Host::look(&guest, probe).await?;
    check_equal(STATE, &host.read(STATE).await?.trim_end(), &"kept")?;
    check(host.read(ETC).await.is_err(), || format!("{ETC} outlived the reboot"))?;
    host.leave().await
}
