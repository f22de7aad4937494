//! Limits, as NRI has them and as the runtime does.

use crate::cgroup::Resources;
use cairn_nri::api::LinuxResources;

/// NRI's limits as the runtime's: zero and nothing leave what is there.
///
/// # Errors
/// A limit that this runtime does not set.
pub fn limits_of(wanted: &LinuxResources) -> Result<Resources, String> {
    let cannot = |what: &str| Err(format!("this runtime does not set {what}"));
    let memory = wanted.memory.unwrap_or_default();
    let cpu = wanted.cpu.clone().unwrap_or_default();
    for (what, given) in [
        ("memory.kernel", memory.kernel.is_some()),
        ("memory.kernel_tcp", memory.kernel_tcp.is_some()),
        ("memory.swappiness", memory.swappiness.is_some()),
        ("memory.disable_oom_killer", memory.disable_oom_killer.is_some_and(|wanted| wanted.value)),
        ("memory.use_hierarchy", memory.use_hierarchy.is_some_and(|wanted| !wanted.value)),
        ("cpu.realtime_runtime", cpu.realtime_runtime.is_some()),
        ("cpu.realtime_period", cpu.realtime_period.is_some()),
        ("blockio classes", wanted.blockio_class.as_ref().is_some_and(|class| !class.value.is_empty())),
        ("Intel RDT classes", wanted.rdt_class.as_ref().is_some_and(|class| !class.value.is_empty())),
    ] {
        if given {
            return cannot(what);
        }
    }
    let number = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).map_err(|error| error.to_string());
    let limit = memory.limit.map_or(0, |limit| limit.value);
    Ok(Resources {
        cpu_period: number(cpu.period.map(|period| period.value))?,
        cpu_quota: cpu.quota.map_or(0, |quota| quota.value),
        cpu_shares: number(cpu.shares.map(|shares| shares.value))?,
        memory_limit: limit,
        // As other runtimes have it: who raises the one without the other wants no swap.
        memory_swap_limit: memory.swap.map_or(limit, |swap| swap.value),
        memory_reservation: memory.reservation.map_or(0, |reservation| reservation.value),
        // Nothing at all would be no container: it stands for no limit.
        pids_limit: wanted.pids.map_or(0, |pids| if pids.limit > 0 { pids.limit } else { -1 }),
        oom_score_adj: 0,
        cpuset_cpus: cpu.cpus,
        cpuset_mems: cpu.mems,
        hugepages: wanted
            .hugepage_limits
            .iter()
            .map(|limit| (limit.page_size.clone(), limit.limit))
            .collect(),
        unified: wanted.unified.clone(),
    })
}
