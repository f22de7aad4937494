//! What pods and containers use.

use crate::scenario::{Context, Needs, Scenario, Stop, check};
use std::time::Duration;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "stats",
    title: "CPU, memory, disk and network use of pods and containers are reported",
    requirements: &["ra2.k8s.023"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    context.step("run a container that computes");
    let pod = guest.pod("stats").run().await?;
    let container = pod.container("main", &probe.reference).args(["spin", "600"]).start().await?;

    context.step("its CPU time grows, and it uses memory");
    let deadline = guest.pace().deadline(Duration::from_secs(15));
    let mut first = None;
    loop {
        let stats = container.stats().await?;
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).unwrap_or_default().value;
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).unwrap_or_default().value;
        let before = *first.get_or_insert(cpu);
        if cpu > before && memory > 0 {
            break;
        }
        check(deadline.is_open(), || format!("CPU {before} ns, then {cpu} ns; memory {memory} bytes"))?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    context.step("the pod's stats have its containers and its interface");
    let stats = pod.stats().await?.linux.unwrap_or_default();
    check(stats.containers.len() == 1, || format!("{} containers", stats.containers.len()))?;
    let network = stats.network.and_then(|network| network.default_interface).unwrap_or_default();
    check(network.name == "eth0", || format!("the default interface is `{}`", network.name))?;
    pod.remove().await
}
