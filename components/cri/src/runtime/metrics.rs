//! Metrics by CRI: what the kubelet shows at `/metrics/cadvisor` when it takes statistics from the runtime.
//!
//! Names, kinds and labels are cAdvisor's, so that dashboards and alerts go on working. CRI carries whole numbers only, so
//! seconds lose their fraction here; the statistics calls have nanoseconds.

use super::{
    Runtime, RuntimeError, now,
    state::{Container, PodRecord},
};
use crate::cgroup::{Cgroup, Detail, DeviceIo, Stats};
use cairn_contract::cri::{self, MetricType};
use std::{fs, sync::Arc};

/// Labels of every metric. They are empty where they do not apply: a pod has no image.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

const NS: u64 = 1_000_000_000;
const USEC: u64 = 1_000_000;

/// A metric's name, what it says, its kind and the labels it has besides [`LABELS`].
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
}

macro_rules! families {
    ($($id:ident $name:literal $kind:ident [$($label:literal)*] $help:literal)*) => {
        $(const $id: Family =
            Family { name: $name, help: $help, kind: MetricType::$kind, labels: &[$($label),*] };)*
        /// All of them.
        const FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

families! {
    CPU "container_cpu_usage_seconds_total" Counter ["cpu"] "CPU time used, in seconds."
    CPU_USER "container_cpu_user_seconds_total" Counter [] "CPU time used in user mode, in seconds."
    CPU_SYSTEM "container_cpu_system_seconds_total" Counter [] "CPU time used in the kernel, in seconds."
    PERIODS "container_cpu_cfs_periods_total" Counter [] "Enforcement periods of the CPU quota that have passed."
    THROTTLED_PERIODS "container_cpu_cfs_throttled_periods_total" Counter [] "Enforcement periods with throttling."
    THROTTLED "container_cpu_cfs_throttled_seconds_total" Counter [] "Time spent throttled, in seconds."
    MEMORY "container_memory_usage_bytes" Gauge [] "Memory in use, page cache included, in bytes."
    WORKING_SET "container_memory_working_set_bytes" Gauge [] "Memory in use without inactive page cache, in bytes."
    RSS "container_memory_rss" Gauge [] "Anonymous memory, in bytes."
    CACHE "container_memory_cache" Gauge [] "Page cache, in bytes."
    MAPPED "container_memory_mapped_file" Gauge [] "Files mapped into memory, in bytes."
    KERNEL "container_memory_kernel_usage" Gauge [] "Memory of the kernel, in bytes."
    SWAP "container_memory_swap" Gauge [] "Swap in use, in bytes."
    PEAK "container_memory_max_usage_bytes" Gauge [] "Most memory ever in use, in bytes."
    FAILCNT "container_memory_failcnt" Counter [] "How often the memory limit was hit."
    FAILURES "container_memory_failures_total" Counter ["failure_type" "scope"] "Page faults."
    ACTIVE_FILE "container_memory_total_active_file_bytes" Gauge [] "Active page cache, in bytes."
    INACTIVE_FILE "container_memory_total_inactive_file_bytes" Gauge [] "Inactive page cache, in bytes."
    OOM "container_oom_events_total" Counter [] "Processes killed for want of memory."
    READ_BYTES "container_fs_reads_bytes_total" Counter ["device"] "Bytes read."
    WRITTEN_BYTES "container_fs_writes_bytes_total" Counter ["device"] "Bytes written."
    READS "container_fs_reads_total" Counter ["device"] "Read operations."
    WRITES "container_fs_writes_total" Counter ["device"] "Write operations."
    BLKIO "container_blkio_device_usage_total" Counter ["device" "major" "minor" "operation"] "Bytes by device and operation."
    FS_USAGE "container_fs_usage_bytes" Gauge ["device"] "Bytes the writable layer takes."
    FS_LIMIT "container_fs_limit_bytes" Gauge ["device"] "Size of the file system with the writable layer, in bytes."
    INODES "container_fs_inodes_total" Gauge ["device"] "Inodes of that file system."
    INODES_FREE "container_fs_inodes_free" Gauge ["device"] "Free inodes of that file system."
    PROCESSES "container_processes" Gauge [] "Processes."
    THREADS "container_threads" Gauge [] "Processes and threads."
    THREADS_MAX "container_threads_max" Gauge [] "Limit of processes and threads; the largest number when there is none."
    DESCRIPTORS "container_file_descriptors" Gauge [] "Open file descriptors."
    SOCKETS "container_sockets" Gauge [] "Open sockets."
    START "container_start_time_seconds" Gauge [] "When it started, in seconds since 1970."
    SEEN "container_last_seen" Gauge [] "When it was measured last, in seconds since 1970."
    SPEC_PERIOD "container_spec_cpu_period" Gauge [] "CPU quota period, in microseconds."
    SPEC_QUOTA "container_spec_cpu_quota" Gauge [] "CPU quota, in microseconds a period."
    SPEC_SHARES "container_spec_cpu_shares" Gauge [] "CPU shares."
    SPEC_MEMORY "container_spec_memory_limit_bytes" Gauge [] "Memory limit, in bytes; 0 when there is none."
    SPEC_SWAP "container_spec_memory_swap_limit_bytes" Gauge [] "Limit of memory and swap, in bytes; 0 when there is none."
    CPU_WAITING "container_pressure_cpu_waiting_seconds_total" Counter [] "Time in which some task waited for a CPU, in seconds."
    CPU_STALLED "container_pressure_cpu_stalled_seconds_total" Counter [] "Time in which all tasks waited for a CPU, in seconds."
    MEMORY_WAITING "container_pressure_memory_waiting_seconds_total" Counter [] "Time in which some task waited for memory, in seconds."
    MEMORY_STALLED "container_pressure_memory_stalled_seconds_total" Counter [] "Time in which all tasks waited for memory, in seconds."
    IO_WAITING "container_pressure_io_waiting_seconds_total" Counter [] "Time in which some task waited for I/O, in seconds."
    IO_STALLED "container_pressure_io_stalled_seconds_total" Counter [] "Time in which all tasks waited for I/O, in seconds."
    RX_BYTES "container_network_receive_bytes_total" Counter ["interface"] "Bytes received."
    RX_PACKETS "container_network_receive_packets_total" Counter ["interface"] "Packets received."
    RX_ERRORS "container_network_receive_errors_total" Counter ["interface"] "Errors on receiving."
    RX_DROPPED "container_network_receive_packets_dropped_total" Counter ["interface"] "Packets dropped on receiving."
    TX_BYTES "container_network_transmit_bytes_total" Counter ["interface"] "Bytes sent."
    TX_PACKETS "container_network_transmit_packets_total" Counter ["interface"] "Packets sent."
    TX_ERRORS "container_network_transmit_errors_total" Counter ["interface"] "Errors on sending."
    TX_DROPPED "container_network_transmit_packets_dropped_total" Counter ["interface"] "Packets dropped on sending."
}

/// What each metric is called, means, and is labelled with.
pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let describe = |family: &&Family| cri::MetricDescriptor {
        name: family.name.to_owned(),
        help: family.help.to_owned(),
        label_keys: LABELS.iter().chain(family.labels).map(|&label| label.to_owned()).collect(),
    };
    FAMILIES.iter().map(describe).collect()
}

/// Collects the metrics of one pod or container.
#[derive(Debug)]
struct Samples {
    labels: [String; 6],
    at: i64,
    metrics: Vec<cri::Metric>,
}

impl Samples {
    fn new(labels: [String; 6]) -> Self {
        Self { labels, at: now(), metrics: Vec::new() }
    }

    /// Adds a value, if it is known.
    fn add(&mut self, family: &Family, labels: &[&str], value: impl Into<Option<u64>>) {
        let Some(value) = value.into() else { return };
        let own = labels.iter().map(|&label| label.to_owned());
        self.metrics.push(cri::Metric {
            name: family.name.to_owned(),
            timestamp: self.at,
            metric_type: family.kind.into(),
            label_values: self.labels.iter().cloned().chain(own).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    fn usage(&mut self, stats: &Stats, detail: &Detail, oom_kills: u64) {
        let seconds = |ns: Option<u64>| ns.map(|ns| ns / NS);
        self.add(&CPU, &["total"], seconds(stats.cpu_ns));
        for (family, value) in [
            (&CPU_USER, seconds(detail.cpu_user_ns)),
            (&CPU_SYSTEM, seconds(detail.cpu_system_ns)),
            (&PERIODS, detail.periods),
            (&THROTTLED_PERIODS, detail.throttled_periods),
            (&THROTTLED, seconds(detail.throttled_ns)),
            (&MEMORY, stats.memory),
            (&WORKING_SET, stats.working_set),
            (&RSS, stats.rss),
            (&CACHE, detail.cache),
            (&MAPPED, detail.mapped_files),
            (&KERNEL, detail.kernel),
            // Without an account of swap none is used.
            (&SWAP, Some(stats.swap.unwrap_or(0))),
            (&PEAK, detail.memory_peak),
            (&FAILCNT, detail.limit_hits),
            (&ACTIVE_FILE, detail.active_file),
            (&INACTIVE_FILE, detail.inactive_file),
            (&OOM, Some(oom_kills)),
            (&THREADS, stats.pids),
            (&THREADS_MAX, Some(detail.pids_limit.unwrap_or(u64::MAX))),
            (&SEEN, u64::try_from(self.at).ok().map(|ns| ns / NS)),
        ] {
            self.add(family, &[], value);
        }
        self.add(&FAILURES, &["pgfault", "hierarchy"], stats.page_faults);
        self.add(&FAILURES, &["pgmajfault", "hierarchy"], stats.major_page_faults);
        let pairs =
            [(&CPU_WAITING, &CPU_STALLED), (&MEMORY_WAITING, &MEMORY_STALLED), (&IO_WAITING, &IO_STALLED)];
        for ((waiting, stalled), pressure) in pairs.into_iter().zip(stats.pressure) {
            self.add(waiting, &[], pressure.map(|pressure| pressure.some.0 / USEC));
            self.add(stalled, &[], pressure.map(|pressure| pressure.full.0 / USEC));
        }
        self.devices(&detail.io);
    }

    fn devices(&mut self, devices: &[DeviceIo]) {
        for device in devices {
            let name = device_name(device);
            let (major, minor) = (device.major.to_string(), device.minor.to_string());
            for (family, value) in [
                (&READ_BYTES, device.read_bytes),
                (&WRITTEN_BYTES, device.written_bytes),
                (&READS, device.reads),
                (&WRITES, device.writes),
            ] {
                self.add(family, &[&name], value);
            }
            self.add(&BLKIO, &[&name, &major, &minor, "Read"], device.read_bytes);
            self.add(&BLKIO, &[&name, &major, &minor, "Write"], device.written_bytes);
        }
        if devices.is_empty() {
            // A series that begins at nought, rather than at the first read.
            for family in [&READ_BYTES, &WRITTEN_BYTES, &READS, &WRITES] {
                self.add(family, &[""], 0);
            }
        }
    }

    /// `/proc/<pid>/net/dev`: after the name, eight columns received and eight sent.
    fn network(&mut self, text: &str) {
        for line in text.lines() {
            let Some((name, columns)) = line.split_once(':') else { continue };
            let columns: Vec<u64> = columns.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            if name.trim() == "lo" {
                continue;
            }
            let families = [
                (&RX_BYTES, 0),
                (&RX_PACKETS, 1),
                (&RX_ERRORS, 2),
                (&RX_DROPPED, 3),
                (&TX_BYTES, 8),
                (&TX_PACKETS, 9),
                (&TX_ERRORS, 10),
                (&TX_DROPPED, 11),
            ];
            for (family, column) in families {
                self.add(family, &[name.trim()], columns.get(column).copied());
            }
        }
    }
}

/// `/dev/sda`; without a name in sysfs, its numbers.
fn device_name(device: &DeviceIo) -> String {
    let numbers = format!("{}:{}", device.major, device.minor);
    let event = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or(numbers, |name| format!("/dev/{name}"))
}

/// Open descriptors of processes, and how many of them are sockets.
fn descriptors_of(processes: &[i32]) -> (u64, u64) {
    let entries = processes.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok()).flatten();
    let (mut all, mut sockets) = (0, 0);
    for entry in entries.flatten() {
        all += 1;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    }
    (all, sockets)
}

fn positive(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Runtime {
    /// The metrics of all pods that are ready, with their running containers.
    pub(super) async fn pod_metrics(&self) -> Result<Vec<cri::PodSandboxMetrics>, RuntimeError> {
        let runtime = self.clone();
        let measure = move || {
            let pods = runtime.all_pods();
            let records = pods.iter().map(|pod| pod.record().clone());
            let ready = records.filter(|record| record.phase == super::state::PodPhase::Ready);
            ready.map(|record| runtime.metrics_of_pod(&record)).collect()
        };
        tokio::task::spawn_blocking(measure).await.map_err(|error| RuntimeError::Fault(error.to_string()))
    }

    fn metrics_of_pod(&self, record: &PodRecord) -> cri::PodSandboxMetrics {
        let metadata = record.config.metadata.clone().unwrap_or_default();
        let labels = |container: String, cgroup: String, image: String, name: String| {
            [container, cgroup, image, name, metadata.namespace.clone(), metadata.name.clone()]
        };
        let path = record.cgroup.display().to_string();
        let mut samples = Samples::new(labels(String::new(), path, String::new(), String::new()));
        let cgroup = Cgroup::new(&record.cgroup);
        samples.usage(&cgroup.stats().unwrap_or_default(), &cgroup.detail(), cgroup.oom_kills());
        let containers: Vec<Arc<Container>> = self
            .containers_of(&record.id)
            .into_iter()
            .filter(|container| container.record().state() == cri::ContainerState::ContainerRunning)
            .collect();
        // Any process of the pod sees its network.
        let pid = containers.first().map(|container| container.record().pid);
        if let Some(pid) = pid.filter(|_| !record.node_network()) {
            samples.network(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default());
        }
        let container_metrics = containers
            .iter()
            .map(|container| {
                let held = container.record().clone();
                let metadata = held.config.metadata.clone().unwrap_or_default();
                let image = held.config.image.as_ref().map_or("", |image| {
                    match image.user_specified_image.as_str() {
                        "" => image.image.as_str(),
                        given => given,
                    }
                });
                let cgroup = held.cgroup.display().to_string();
                let labels = labels(metadata.name, cgroup, image.to_owned(), held.id.clone());
                cri::ContainerMetrics {
                    container_id: held.id.clone(),
                    metrics: self.metrics_of(container, labels),
                }
            })
            .collect();
        cri::PodSandboxMetrics {
            pod_sandbox_id: record.id.clone(),
            metrics: samples.metrics,
            container_metrics,
        }
    }

    fn metrics_of(&self, container: &Container, labels: [String; 6]) -> Vec<cri::Metric> {
        let record = container.record().clone();
        let cgroup = Cgroup::new(&record.cgroup);
        let mut samples = Samples::new(labels);
        samples.usage(&cgroup.stats().unwrap_or_default(), &cgroup.detail(), cgroup.oom_kills());
        let processes = cgroup.processes();
        let (descriptors, sockets) = descriptors_of(&processes);
        let limits = &record.resources;
        for (family, value) in [
            (&PROCESSES, u64::try_from(processes.len()).unwrap_or(u64::MAX)),
            (&DESCRIPTORS, descriptors),
            (&SOCKETS, sockets),
            (&START, positive(record.started_at) / NS),
            (&SPEC_PERIOD, if limits.cpu_period > 0 { positive(limits.cpu_period) } else { 100_000 }),
            (&SPEC_SHARES, positive(limits.cpu_shares)),
            (&SPEC_MEMORY, positive(limits.memory_limit)),
            (&SPEC_SWAP, positive(limits.memory_swap_limit)),
        ] {
            samples.add(family, &[], value);
        }
        samples.add(&SPEC_QUOTA, &[], (limits.cpu_quota > 0).then(|| positive(limits.cpu_quota)));
        let (bytes, _) = self.files_of(container);
        samples.add(&FS_USAGE, &[""], bytes);
        if let Ok(disk) = rustix::fs::statvfs(self.container_state(&record.id)) {
            samples.add(&FS_LIMIT, &[""], disk.f_blocks * disk.f_frsize);
            samples.add(&INODES, &[""], disk.f_files);
            samples.add(&INODES_FREE, &[""], disk.f_ffree);
        }
        samples.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn every_sample_has_a_descriptor_with_its_labels() {
        let mut samples = Samples::new(LABELS.map(str::to_owned));
        let io = vec![DeviceIo { major: 999, minor: 1, read_bytes: 5, ..DeviceIo::default() }];
        let detail = Detail { io, ..Detail::default() };
        let stats = Stats { cpu_ns: Some(3 * NS + 1), page_faults: Some(1), ..Stats::default() };
        samples.usage(&stats, &detail, 2);
        samples.network("face |bytes\n lo: 1 1\n eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0\n");
        let labels: HashMap<_, _> =
            descriptors().into_iter().map(|family| (family.name, family.label_keys.len())).collect();
        assert_eq!(labels.len(), FAMILIES.len(), "a name twice");
        for metric in &samples.metrics {
            assert_eq!(labels.get(&metric.name), Some(&metric.label_values.len()), "{}", metric.name);
        }
        let value = |family: &Family| {
            samples
                .metrics
                .iter()
                .find(|metric| metric.name == family.name)?
                .value
                .as_ref()
                .map(|held| held.value)
        };
        assert_eq!((value(&CPU), value(&OOM), value(&READ_BYTES)), (Some(3), Some(2), Some(5)));
        assert_eq!((value(&RX_DROPPED), value(&TX_BYTES), value(&CPU_USER)), (Some(4), Some(200), None));
        assert_eq!(value(&THREADS_MAX), Some(u64::MAX));
    }
}
