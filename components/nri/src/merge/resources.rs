//! Limits laid over limits: what is set replaces, what is not set leaves.

use crate::api::{Field, LinuxResources};

/// Single values: where they are, and the field that stands for them. Gives the two functions below their lists.
macro_rules! single_values {
    ($visit:ident) => {
        $visit!(memory, limit, MemLimit);
        $visit!(memory, reservation, MemReservation);
        $visit!(memory, swap, MemSwapLimit);
        $visit!(memory, kernel, MemKernelLimit);
        $visit!(memory, kernel_tcp, MemTcpLimit);
        $visit!(memory, swappiness, MemSwappiness);
        $visit!(memory, disable_oom_killer, MemDisableOomKiller);
        $visit!(memory, use_hierarchy, MemUseHierarchy);
        $visit!(cpu, shares, CpuShares);
        $visit!(cpu, quota, CpuQuota);
        $visit!(cpu, period, CpuPeriod);
        $visit!(cpu, realtime_runtime, CpuRealtimeRuntime);
        $visit!(cpu, realtime_period, CpuRealtimePeriod);
    };
}

/// What is set: fields, and of those with several entries the keys.
pub(super) fn set(resources: &LinuxResources) -> Vec<(Field, &str)> {
    let mut all = Vec::new();
    macro_rules! note {
        ($part:ident, $value:ident, $field:ident) => {
            if resources.$part.as_ref().is_some_and(|part| part.$value.is_some()) {
                all.push((Field::$field, ""));
            }
        };
    }
    single_values!(note);
    if let Some(cpu) = &resources.cpu {
        let sets = [(Field::CpuSetCpUs, &cpu.cpus), (Field::CpuSetMems, &cpu.mems)];
        all.extend(sets.into_iter().filter(|(_, value)| !value.is_empty()).map(|(field, _)| (field, "")));
    }
    for (field, given) in [
        (Field::BlockioClass, resources.blockio_class.is_some()),
        (Field::RdtClass, resources.rdt_class.is_some()),
        (Field::PidsLimit, resources.pids.is_some()),
    ] {
        all.extend(given.then_some((field, "")));
    }
    all.extend(
        resources.hugepage_limits.iter().map(|limit| (Field::HugepageLimits, limit.page_size.as_str())),
    );
    all.extend(resources.unified.keys().map(|file| (Field::CgroupsUnified, file.as_str())));
    all
}

/// Lays `over` over `under`.
pub(super) fn overlay(under: &mut LinuxResources, over: &LinuxResources) {
    macro_rules! take {
        ($part:ident, $value:ident, $field:ident) => {
            if let Some(value) = over.$part.as_ref().and_then(|part| part.$value.clone()) {
                under.$part.get_or_insert_default().$value = Some(value);
            }
        };
    }
    single_values!(take);
    if let Some(cpu) = &over.cpu {
        let held = under.cpu.get_or_insert_default();
        for (held, new) in [(&mut held.cpus, &cpu.cpus), (&mut held.mems, &cpu.mems)] {
            if !new.is_empty() {
                held.clone_from(new);
            }
        }
    }
    if over.blockio_class.is_some() {
        under.blockio_class.clone_from(&over.blockio_class);
    }
    if over.rdt_class.is_some() {
        under.rdt_class.clone_from(&over.rdt_class);
    }
    if over.pids.is_some() {
        under.pids = over.pids;
    }
    for limit in &over.hugepage_limits {
        under.hugepage_limits.retain(|held| held.page_size != limit.page_size);
        under.hugepage_limits.push(limit.clone());
    }
    under.unified.extend(over.unified.clone());
    under.devices.extend_from_slice(&over.devices);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{HugepageLimit, LinuxCpu, LinuxMemory, OptionalInt64, OptionalUInt64};

    #[test]
    fn what_is_set_replaces_even_by_nothing() {
        let mut under = LinuxResources {
            memory: Some(LinuxMemory { limit: Some(OptionalInt64 { value: 5 }), ..Default::default() }),
            cpu: Some(LinuxCpu { cpus: "0-3".into(), mems: "0".into(), ..Default::default() }),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 1 }],
            ..Default::default()
        };
        let over = LinuxResources {
            memory: Some(LinuxMemory { limit: Some(OptionalInt64 { value: 0 }), ..Default::default() }),
            cpu: Some(LinuxCpu {
                shares: Some(OptionalUInt64 { value: 7 }),
                cpus: "1".into(),
                ..Default::default()
            }),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 2 }],
            unified: [("memory.high".to_owned(), "9".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(
            set(&over),
            [
                (Field::MemLimit, ""),
                (Field::CpuShares, ""),
                (Field::CpuSetCpUs, ""),
                (Field::HugepageLimits, "2MB"),
                (Field::CgroupsUnified, "memory.high"),
            ]
        );
        overlay(&mut under, &over);
        let cpu = under.cpu.unwrap();
        assert_eq!(under.memory.unwrap().limit, Some(OptionalInt64 { value: 0 }));
        assert_eq!((cpu.cpus.as_str(), cpu.mems.as_str(), cpu.shares.unwrap().value), ("1", "0", 7));
        assert_eq!(under.hugepage_limits, over.hugepage_limits);
    }
}
