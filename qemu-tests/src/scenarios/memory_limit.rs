//! The memory limit bites.

use crate::scenario::{Context, Needs, Scenario, Stop, check_equal};
use cairn_contract::cri::LinuxContainerResources;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "memory-limit",
    title: "a container above its memory limit is killed, alone, and CRI says why",
    requirements: &["ra2.crt.001", "ra2.k8s.023"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let pod = guest.pod("memory").run().await?;
    let neighbour = pod.container("neighbour", &probe.reference).args(["pause"]).start().await?;

    context.step("take 128 MiB where 32 are allowed");
    let limit = 32 << 20;
    let hog = pod
        .container("hog", &probe.reference)
        .args(["hog", "128M"])
        .resources(LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: limit,
            ..Default::default()
        })
        .start()
        .await?;
    let status = hog.exited().await?;
    check_equal("the reason", &status.reason.as_str(), &"OOMKilled")?;
    check_equal("the exit code", &status.exit_code, &137)?;

    context.step("the neighbour lives");
    use cairn_contract::cri::ContainerState::ContainerRunning;
    check_equal("its state", &neighbour.status().await?.state(), &ContainerRunning)?;
    pod.remove().await
}
