//! Limits as the kernel has them.

use crate::scenario::{Context, Needs, Scenario, Stop, check_equal};
use cairn_contract::cri::LinuxContainerResources;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "limits",
    title: "CPU, memory and process limits are in cgroup v2",
    requirements: &["ra2.crt.001", "ra2.k8s.008"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    context.step("run a container with limits");
    let pod = guest.pod("limits").run().await?;
    let container = pod
        .container("main", &probe.reference)
        .args(["pause"])
        .resources(LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            unified: [("pids.max".to_owned(), "32".to_owned())].into(),
            ..Default::default()
        })
        .start()
        .await?;

    // A container has a cgroup namespace: its own cgroup is the root it sees.
    for (file, wanted) in [("cpu.max", "50000 100000"), ("memory.max", "67108864"), ("pids.max", "32")] {
        context.step(format!("read {file}"));
        let path = format!("/sys/fs/cgroup/{file}");
        let value = container.exec(&[&program, "cat", &path]).await?.success()?;
        check_equal(file, &value.trim(), &wanted)?;
    }
    context.step("remove the pod");
    pod.remove().await
}
