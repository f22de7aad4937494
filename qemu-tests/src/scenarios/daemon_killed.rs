//! The runtime dies; the containers do not.

use crate::{
    guest::host::Host,
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use cairn_contract::cri::{ContainerState, PodSandboxState};

/// Process name and, with `.service`, its unit.
const DAEMON: &str = "cairn-cri";

pub(super) static SCENARIO: Scenario = Scenario {
    id: "daemon-killed",
    title: "containers outlive a killed runtime, and the next one takes them up",
    requirements: &["ra2.crt.002"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let pod = guest.pod("survivor").run().await?;
    let steady = pod.container("steady", &probe.reference).args(["pause"]).start().await?;
    let started = steady.status().await?.started_at;
    let host = Host::look(&guest, probe).await?;
    let daemon = daemon_pid(&host).await?;
    // Ends while no daemon is there to see it, or soon after: its exit must not be lost.
    let brief = pod.container("brief", &probe.reference).args(["sleep", "1"]).start().await?;

    context.step("kill the daemon");
    // The answer may be lost with the daemon that gives it.
    let _ = host.run(&["kill", "KILL", DAEMON]).await;
    guest.runtime_ready().await?;
    let next = daemon_pid(&host).await?;
    check(next != daemon, || format!("the daemon still has pid {daemon}"))?;

    context.step("the containers are the same");
    let status = steady.status().await?;
    check_equal("the state", &status.state(), &ContainerState::ContainerRunning)?;
    check_equal("the start time", &status.started_at, &started)?;
    check_equal("the pod's state", &pod.status().await?.state(), &PodSandboxState::SandboxReady)?;

    context.step("exec works in them");
    steady.exec(&[&program, "echo", "alive"]).await?.success()?;

    context.step("their exits are seen");
    check_equal("the exit code", &brief.exited().await?.exit_code, &0)?;
    steady.stop(5).await?;
    steady.exited().await?;

    context.step("new pods can be made");
    let other = guest.pod("newcomer").run().await?;
    let container = other.container("main", &probe.reference).args(["exit", "3"]).start().await?;
    check_equal("the exit code", &container.exited().await?.exit_code, &3)?;
    other.remove().await?;
    host.leave().await?;
    pod.remove().await
}

/// The daemon's process id: the process of that name in the unit's cgroup.
async fn daemon_pid(host: &Host) -> Result<String, Stop> {
    let pids = host.read(&format!("/sys/fs/cgroup/system.slice/{DAEMON}.service/cgroup.procs")).await?;
    for pid in pids.lines() {
        if host.read(&format!("/proc/{pid}/comm")).await.is_ok_and(|name| name.trim_end() == DAEMON) {
            return Ok(pid.to_owned());
        }
    }
    Err(Stop::failed(format!("{DAEMON}.service has no process of that name, only {pids:?}")))
}
