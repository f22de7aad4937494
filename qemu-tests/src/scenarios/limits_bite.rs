//! CPU and process limits, felt.

use crate::scenario::{Context, Needs, Scenario, Stop, check};
use cairn_contract::cri::LinuxContainerResources;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "limits-bite",
    title: "a container that wants more CPU is throttled, and one that forks too much is refused",
    requirements: &["ra2.crt.001", "ra2.k8s.008"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    const PROCESSES: usize = 12;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let pod = guest.pod("bites").run().await?;
    let container = pod.container("main", &probe.reference).args(["pause"]);
    let container = container
        .resources(LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            unified: [("pids.max".to_owned(), PROCESSES.to_string())].into(),
            ..Default::default()
        })
        .start()
        .await?;

    context.step("burn CPU");
    container.exec(&[&program, "spin", "2"]).await?.success()?;
    let text = container.exec(&[&program, "cat", "/sys/fs/cgroup/cpu.stat"]).await?.success()?;
    let throttled = text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u64>().ok());
    check(throttled.is_some_and(|times| times > 0), || format!("cpu.stat says {text}"))?;

    context.step("fork more than is allowed");
    let forked = container.exec(&[&program, "forks", "100"]).await?;
    let mut words = forked.stdout.split_whitespace();
    let count = words.next().and_then(|count| count.parse::<usize>().ok());
    let refused = count.is_some_and(|count| count < PROCESSES) && words.next() == Some("EAGAIN");
    check(refused, || format!("it made {}", forked.stdout.trim()))?;
    pod.remove().await
}
