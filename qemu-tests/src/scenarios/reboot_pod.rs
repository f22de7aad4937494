//! A reboot with a pod on record.

use crate::scenario::{Context, Needs, Scenario, Stop, check, check_equal};
use cairn_contract::cri::{ContainerState, PodSandboxState};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "reboot-pod",
    title: "after a power cut, pods are on record as ended, can be removed, and new ones run",
    requirements: &["ra2.crt.002", "ra2.ch.017"],
    needs: Needs::SharedReboot,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let pod = guest.pod("recorded").run().await?;
    let container = pod.container("main", &probe.reference).args(["pause"]).start().await?;

    context.step("press the reset button");
    context.node()?.reset().await?;
    let guest = context.guest()?;
    guest.runtime_ready().await?;

    context.step("the pod is on record as ended");
    let status = guest.pod_status(&pod.id).await?;
    check_equal("the pod's state", &status.state(), &PodSandboxState::SandboxNotready)?;
    let listed = guest.containers().await?;
    let state = listed.iter().find(|c| c.id == container.id).map(cairn_contract::cri::Container::state);
    check_equal("the container's state", &state, &Some(ContainerState::ContainerExited))?;

    context.step("it can be removed");
    guest.stop_pod(&pod.id).await?;
    guest.remove_pod(&pod.id).await?;
    check(guest.pods().await?.iter().all(|other| other.id != pod.id), || "it is still listed".to_owned())?;

    context.step("a new one runs");
    let pod = guest.pod("recorded").run().await?;
    let container = pod.container("main", &probe.reference).args(["exit", "0"]).start().await?;
    let status = container.exited().await?;
    check_equal("the exit code", &status.exit_code, &0)?;
    check_equal("the reason", &status.reason.as_str(), &"Completed")?;
    pod.remove().await
}
