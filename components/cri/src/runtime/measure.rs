//! Statistics of containers and pods.

use super::{
    Runtime, RuntimeError,
    convert::labels_match,
    lock, now,
    state::{Container, Pod},
};
use crate::cgroup::{Cgroup, Pressure, Stats};
use cairn_contract::cri;
use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a walk through a container's files is good for.
const FILES_FRESH: Duration = Duration::from_secs(10);
/// The least time between two samples for a CPU rate.
const RATE_WINDOW: Duration = Duration::from_millis(500);

fn value(number: Option<u64>) -> Option<cri::UInt64Value> {
    number.map(|value| cri::UInt64Value { value })
}

fn psi(pressure: Option<Pressure>) -> Option<cri::PsiStats> {
    let data =
        |(total, [avg10, avg60, avg300]): (u64, [f64; 3])| cri::PsiData { total, avg10, avg60, avg300 };
    pressure.map(|held| cri::PsiStats { full: Some(data(held.full)), some: Some(data(held.some)) })
}

fn cpu(stats: &Stats, rate: Option<u64>) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: now(),
        usage_core_nano_seconds: value(stats.cpu_ns),
        usage_nano_cores: value(rate),
        psi: psi(stats.pressure[0]),
    }
}

fn memory(stats: &Stats) -> cri::MemoryUsage {
    let available = stats.memory_limit.zip(stats.working_set).map(|(limit, used)| limit.saturating_sub(used));
    cri::MemoryUsage {
        timestamp: now(),
        working_set_bytes: value(stats.working_set),
        available_bytes: value(available),
        usage_bytes: value(stats.memory),
        rss_bytes: value(stats.rss),
        page_faults: value(stats.page_faults),
        major_page_faults: value(stats.major_page_faults),
        psi: psi(stats.pressure[1]),
    }
}

fn io(stats: &Stats) -> cri::IoUsage {
    cri::IoUsage { timestamp: now(), psi: psi(stats.pressure[2]) }
}

impl Runtime {
    /// One container's statistics.
    pub(super) async fn container_stats(&self, id: &str) -> Result<cri::ContainerStats, RuntimeError> {
        let container = self.container(id)?;
        self.measure_off_thread(vec![container])
            .await?
            .pop()
            .ok_or_else(|| RuntimeError::Fault("the container could not be measured".to_owned()))
    }

    /// The statistics of all containers that fit; those that are not running are left out.
    pub(super) async fn list_container_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>, RuntimeError> {
        let filter = filter.unwrap_or_default();
        let fits = |container: &Arc<Container>| {
            let record = container.record();
            record.state() == cri::ContainerState::ContainerRunning
                && record.id.starts_with(&filter.id)
                && record.sandbox.starts_with(&filter.pod_sandbox_id)
                && labels_match(&record.config.labels, &filter.label_selector)
        };
        self.measure_off_thread(self.all_containers().into_iter().filter(fits).collect()).await
    }

    /// Measuring reads many files and may walk through a container's: not on the threads that serve requests.
    async fn measure_off_thread(
        &self,
        containers: Vec<Arc<Container>>,
    ) -> Result<Vec<cri::ContainerStats>, RuntimeError> {
        let runtime = self.clone();
        let measured = tokio::task::spawn_blocking(move || {
            containers.iter().map(|container| runtime.measure(container)).collect()
        });
        measured.await.map_err(|error| RuntimeError::Fault(error.to_string()))
    }

    fn measure(&self, container: &Container) -> cri::ContainerStats {
        let record = container.record().clone();
        let stats = Cgroup::new(&record.cgroup).stats().unwrap_or_default();
        let rate = stats.cpu_ns.and_then(|used| rate(&mut lock(&container.samples).cpu, used));
        let (bytes, inodes) = self.files_of(container);
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
            }),
            cpu: Some(cpu(&stats, rate)),
            memory: Some(memory(&stats)),
            writable_layer: Some(cri::FilesystemUsage {
                timestamp: now(),
                fs_id: Some(cri::FilesystemIdentifier {
                    mountpoint: self.inner.config.state.join("containers").display().to_string(),
                }),
                used_bytes: value(Some(bytes)),
                inodes_used: value(Some(inodes)),
            }),
            swap: Some(cri::SwapUsage {
                timestamp: now(),
                swap_available_bytes: value(
                    stats.swap_limit.map(|limit| limit.saturating_sub(stats.swap.unwrap_or_default())),
                ),
                swap_usage_bytes: value(stats.swap),
            }),
            io: Some(io(&stats)),
        }
    }

    /// Bytes and inodes of a container's writable layer; not newer than [`FILES_FRESH`].
    pub(super) fn files_of(&self, container: &Container) -> (u64, u64) {
        let snapshot = self.snapshot(&container.record().id);
        let mut samples = lock(&container.samples);
        match samples.files {
            Some((at, bytes, inodes)) if at.elapsed() < FILES_FRESH => (bytes, inodes),
            _ => {
                let (bytes, inodes) = snapshot.usage();
                samples.files = Some((Instant::now(), bytes, inodes));
                (bytes, inodes)
            }
        }
    }

    /// One pod's statistics.
    pub(super) async fn pod_stats(&self, id: &str) -> Result<cri::PodSandboxStats, RuntimeError> {
        let pod = self.pod(id)?;
        self.measure_pod(&pod).await
    }

    /// The statistics of all pods that fit.
    pub(super) async fn list_pod_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Vec<cri::PodSandboxStats>, RuntimeError> {
        let filter = filter.unwrap_or_default();
        let mut all = Vec::new();
        for pod in self.all_pods() {
            let fits = {
                let record = pod.record();
                record.phase == super::state::PodPhase::Ready
                    && record.id.starts_with(&filter.id)
                    && labels_match(&record.config.labels, &filter.label_selector)
            };
            if fits {
                all.push(self.measure_pod(&pod).await?);
            }
        }
        Ok(all)
    }

    async fn measure_pod(&self, pod: &Pod) -> Result<cri::PodSandboxStats, RuntimeError> {
        let record = pod.record().clone();
        let stats = Cgroup::new(&record.cgroup).stats().unwrap_or_default();
        let filter = cri::ContainerStatsFilter { pod_sandbox_id: record.id.clone(), ..Default::default() };
        let containers = self.list_container_stats(Some(filter)).await?;
        let rates =
            containers.iter().filter_map(|held| Some(held.cpu.as_ref()?.usage_nano_cores.as_ref()?.value));
        let rate = rates.reduce(|all, one| all + one);
        // Any process of the pod sees its network.
        let pid = self.containers_of(&record.id).iter().find_map(|container| {
            let record = container.record();
            (record.state() == cri::ContainerState::ContainerRunning).then_some(record.pid)
        });
        let network = pid
            .filter(|_| !record.node_network())
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/net/dev")).ok())
            .map(|text| network_usage(&text));
        Ok(cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(cpu(&stats, rate)),
                memory: Some(memory(&stats)),
                network,
                process: Some(cri::ProcessUsage { timestamp: now(), process_count: value(stats.pids) }),
                containers,
                io: Some(io(&stats)),
            }),
            windows: None,
        })
    }
}

/// CPU nanoseconds per second since the sample before, which this one replaces if it is old enough.
fn rate(last: &mut Option<(Instant, u64, u64)>, used: u64) -> Option<u64> {
    let (at, before, rate) = *last.get_or_insert((Instant::now(), used, 0));
    let elapsed = at.elapsed();
    if elapsed < RATE_WINDOW {
        return Some(rate);
    }
    let rate = u128::from(used.saturating_sub(before)) * 1_000_000_000 / elapsed.as_nanos().max(1);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    *last = Some((Instant::now(), used, rate));
    Some(rate)
}

/// `/proc/<pid>/net/dev`: after the name, eight columns received and eight sent.
fn network_usage(text: &str) -> cri::NetworkUsage {
    let interfaces = text.lines().filter_map(|line| {
        let (name, columns) = line.split_once(':')?;
        let columns: Vec<u64> = columns.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let column = |at: usize| value(columns.get(at).copied());
        Some(cri::NetworkInterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: column(0),
            rx_errors: column(2),
            tx_bytes: column(8),
            tx_errors: column(10),
        })
    });
    let interfaces: Vec<_> = interfaces.filter(|interface| interface.name != "lo").collect();
    let default_interface =
        interfaces.iter().find(|interface| interface.name == "eth0").or(interfaces.first()).cloned();
    cri::NetworkUsage { timestamp: now(), default_interface, interfaces }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_counters_are_read_by_column() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n";
        let usage = network_usage(text);
        assert_eq!(usage.interfaces.len(), 1);
        let eth0 = usage.default_interface.unwrap();
        let numbers = [&eth0.rx_bytes, &eth0.rx_errors, &eth0.tx_bytes, &eth0.tx_errors];
        assert_eq!(numbers.map(|held| held.as_ref().unwrap().value), [100, 3, 200, 5]);
    }
}
