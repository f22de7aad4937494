//! From power-on to ready, on a disk that was never booted.

use crate::scenario::{Context, Needs, Scenario, Stop, check, check_equal};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "cold-boot",
    title: "a new disk boots to ready without a person, and makes its state",
    requirements: &["ra2.os.005", "ra2.crt.002"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.step("ask the node for its status");
    let guest = context.guest()?;
    let status = guest.reached().await?;
    let bad: Vec<_> = status.checks.iter().filter(|check| check.required && !check.good).collect();
    check(status.ready && bad.is_empty(), || format!("the node says it is not ready: {bad:?}"))?;

    let manifest = &context.lab().image.manifest;
    check_equal("the root hash the kernel verifies against", &status.root_hash, &manifest.root_hash)?;
    check_equal("the kernel", &status.kernel, &manifest.release.kernel)?;
    check(status.image_version.contains(&manifest.release.version), || {
        format!(
            "the node runs image version {}, the manifest says {}",
            status.image_version, manifest.release.version
        )
    })?;

    context.step("ask the runtime for its version");
    let version = guest.version().await?;
    check_equal("the CRI version", &version.runtime_api_version.as_str(), &"v1")?;

    let times = context.node()?.boot_times();
    let (switch_root, runtime) = (times.switch_root.as_secs_f64(), times.runtime_ready.as_secs_f64());
    context.figure("power_on_to_switch_root_seconds", switch_root);
    context.figure("power_on_to_runtime_ready_seconds", runtime);
    context.figure("power_on_to_node_ready_seconds", times.node_ready.as_secs_f64());
    context.figure("runtime_ready_per_switch_root_ratio", runtime / switch_root.max(f64::EPSILON));
    if let Some(memory) = status.memory {
        let used = memory.total_bytes.saturating_sub(memory.available_bytes);
        context.figure("memory_used_when_idle_mib", used as f64 / f64::from(1 << 20));
    }
    Ok(())
}
