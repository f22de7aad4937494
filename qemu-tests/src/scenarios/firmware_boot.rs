//! The way a real machine boots.

use crate::{
    node::Setup,
    scenario::{Context, Needs, Scenario, Stop, check},
};
use std::time::Duration;
use tokio::time::sleep;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "firmware-boot",
    title: "UEFI firmware and systemd-boot start the image from its disk, and the boot is marked as good",
    requirements: &["ra2.os.005"],
    needs: Needs::Own,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.step("power on");
    let mut node = context.boot(Setup { firmware: true, ..Setup::default() }).await?;
    context.step("wait until it is ready");
    let times = node.ready().await?;
    context.figure("firmware_power_on_to_switch_root_seconds", times.switch_root.as_secs_f64());
    context.figure("firmware_power_on_to_runtime_ready_seconds", times.runtime_ready.as_secs_f64());
    context.step("run a pod");
    let probe = &context.lab().probe;
    let pod = node.guest().pod("firmware").run().await?;
    let container = pod.container("main", &probe.reference).args(["pause"]).start().await?;
    container.status().await?;
    pod.remove().await?;
    context.step("see the boot counter taken off");
    let guest = node.guest().clone();
    let deadline = guest.pace().deadline(Duration::from_secs(10));
    loop {
        let entries = guest.journal("cairn-bless.service", 20).await?;
        if entries.iter().any(|entry| entry.message.starts_with("this boot is good: /EFI/Linux/")) {
            break;
        }
        check(deadline.is_open(), || {
            let said: Vec<_> = entries.into_iter().map(|entry| entry.message).collect();
            format!("the boot was not marked as good; cairn-bless.service said {said:?}")
        })?;
        sleep(Duration::from_millis(500)).await;
    }
    context.step("shut down");
    node.shut_down().await;
    Ok(())
}
