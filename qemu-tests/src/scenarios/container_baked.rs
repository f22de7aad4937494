//! A container's whole life, from an image that is part of the node image.

use crate::scenario::{Context, Needs, Scenario, Stop, check, check_equal};
use cairn_contract::cri::{ContainerState, PodSandboxState};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "container-baked",
    title: "a container from a baked-in image lives its whole life, with no pull",
    requirements: &["ra2.crt.001", "ra2.crt.002", "ra2.ntw.002"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let lab = context.lab();
    let pulls = lab.registry.requests().len();

    context.step("the image is there");
    let image = guest.image(&lab.probe.reference).await?;
    let image =
        image.ok_or_else(|| Stop::failed(format!("the runtime does not know {}", lab.probe.reference)))?;
    check_equal("the image id", &image.id, &lab.probe.id.to_string())?;

    context.step("run a pod");
    let pod = guest.pod("baked").run().await?;
    check_equal("the pod's state", &pod.status().await?.state(), &PodSandboxState::SandboxReady)?;

    context.step("create a container");
    let container = pod.container("main", &lab.probe.reference).args(["pause"]).create().await?;
    check_equal("the state", &container.status().await?.state(), &ContainerState::ContainerCreated)?;

    context.step("start it");
    container.start().await?;
    let status = container.status().await?;
    check_equal("the state", &status.state(), &ContainerState::ContainerRunning)?;
    check(status.started_at >= status.created_at && status.created_at > 0, || {
        format!("created at {}, started at {}", status.created_at, status.started_at)
    })?;
    let listed = guest.containers().await?;
    check(listed.iter().any(|c| c.id == container.id), || "ListContainers does not have it".to_owned())?;

    context.step("stop it");
    container.stop(10).await?;
    let status = container.exited().await?;
    check(status.finished_at >= status.started_at, || "it ended before it started".to_owned())?;

    context.step("remove it and the pod");
    container.remove().await?;
    check(container.status().await.is_err(), || "a removed container still has a status".to_owned())?;
    pod.remove().await?;
    let pods = guest.pods().await?;
    check(pods.iter().all(|other| other.id != pod.id), || "a removed pod is still listed".to_owned())?;
    check_equal("the number of requests to the registry", &lab.registry.requests().len(), &pulls)
}
