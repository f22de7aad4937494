//! What a cgroup has used in the detail that metrics want: CPU by mode, throttling, kinds of memory, devices.
//!
//! Reading is apart from parsing: [`Detail::unified`] and [`Detail::per_controller`] take a function that gives the text of
//! a file.

use super::{Cgroup, Layout, field, layout};

/// One sample. A field is `None` when the kernel does not account for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// CPU time in user mode, nanoseconds.
    pub cpu_user_ns: Option<u64>,
    /// CPU time in the kernel, nanoseconds.
    pub cpu_system_ns: Option<u64>,
    /// Enforcement periods that have passed while it could run.
    pub periods: Option<u64>,
    /// Those in which it was throttled.
    pub throttled_periods: Option<u64>,
    /// How long it was throttled, nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Page cache, bytes.
    pub cache: Option<u64>,
    /// Files mapped into memory, bytes.
    pub mapped_files: Option<u64>,
    /// The kernel's memory on its behalf, bytes.
    pub kernel: Option<u64>,
    /// Most memory ever used, bytes.
    pub memory_peak: Option<u64>,
    /// How often the memory limit was hit.
    pub limit_hits: Option<u64>,
    /// Page cache in active use, bytes.
    pub active_file: Option<u64>,
    /// Page cache that can go, bytes.
    pub inactive_file: Option<u64>,
    /// Limit of processes and threads; `None` when there is none.
    pub pids_limit: Option<u64>,
    /// I/O by device.
    pub io: Vec<DeviceIo>,
}

/// What was read from and written to one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// `cpuacct.stat` of cgroup v1 counts in ticks of 1/100 s, on every architecture Linux has (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

impl Detail {
    /// From cgroup v2's files.
    pub fn unified(read: impl Fn(&str) -> Option<String>) -> Self {
        let text = |file: &str| read(file).unwrap_or_default();
        let number = |file: &str| text(file).trim().parse().ok();
        let (cpu, memory) = (text("cpu.stat"), text("memory.stat"));
        let usec = |name: &str| field(&cpu, name).map(|usec| usec * 1000);
        Self {
            cpu_user_ns: usec("user_usec"),
            cpu_system_ns: usec("system_usec"),
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
            throttled_ns: usec("throttled_usec"),
            cache: field(&memory, "file"),
            mapped_files: field(&memory, "file_mapped"),
            kernel: field(&memory, "kernel"),
            memory_peak: number("memory.peak"),
            limit_hits: field(&text("memory.events"), "max"),
            active_file: field(&memory, "active_file"),
            inactive_file: field(&memory, "inactive_file"),
            pids_limit: number("pids.max"),
            io: unified_io(&text("io.stat")),
        }
    }

    /// From cgroup v1's files: controller and name.
    pub fn per_controller(read: impl Fn(&str, &str) -> Option<String>) -> Self {
        let text = |controller: &str, file: &str| read(controller, file).unwrap_or_default();
        let number = |controller: &str, file: &str| text(controller, file).trim().parse().ok();
        let (cpu, ticks) = (text("cpu", "cpu.stat"), text("cpuacct", "cpuacct.stat"));
        let memory = text("memory", "memory.stat");
        let mode = |name: &str| field(&ticks, name).map(|ticks| ticks * TICK_NS);
        let mut io = Vec::new();
        // The recursive files count what is below too, as everything else here does.
        for (file, set) in [("io_service_bytes_recursive", true), ("io_serviced_recursive", false)] {
            per_controller_io(&mut io, &text("blkio", &format!("blkio.throttle.{file}")), set);
        }
        Self {
            cpu_user_ns: mode("user"),
            cpu_system_ns: mode("system"),
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
            throttled_ns: field(&cpu, "throttled_time"),
            cache: field(&memory, "total_cache"),
            mapped_files: field(&memory, "total_mapped_file"),
            kernel: number("memory", "memory.kmem.usage_in_bytes"),
            memory_peak: number("memory", "memory.max_usage_in_bytes"),
            limit_hits: number("memory", "memory.failcnt"),
            active_file: field(&memory, "total_active_file"),
            inactive_file: field(&memory, "total_inactive_file"),
            pids_limit: number("pids", "pids.max"),
            io,
        }
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn unified_io(text: &str) -> Vec<DeviceIo> {
    let device = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (major, minor) = name.split_once(':')?;
        let value = |key: &str| {
            let word = rest.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            word.and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        Some(DeviceIo {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            read_bytes: value("rbytes"),
            written_bytes: value("wbytes"),
            reads: value("rios"),
            writes: value("wios"),
        })
    };
    text.lines().filter_map(device).collect()
}

/// `8:0 Read 4096`, a line per device and operation, and a total without a device.
fn per_controller_io(devices: &mut Vec<DeviceIo>, text: &str, bytes: bool) {
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[name, operation, amount] = words.as_slice() else { continue };
        let Some((major, minor)) = name.split_once(':') else { continue };
        let (Ok(major), Ok(minor), Ok(amount)) = (major.parse(), minor.parse(), amount.parse()) else {
            continue;
        };
        let known = devices.iter().position(|device| (device.major, device.minor) == (major, minor));
        let at = known.unwrap_or_else(|| {
            devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
            devices.len() - 1
        });
        let device = &mut devices[at];
        match (operation, bytes) {
            ("Read", true) => device.read_bytes = amount,
            ("Write", true) => device.written_bytes = amount,
            ("Read", false) => device.reads = amount,
            ("Write", false) => device.writes = amount,
            _ => {}
        }
    }
}

impl Cgroup {
    /// Samples it; what cannot be read is `None`.
    pub fn detail(&self) -> Detail {
        match layout() {
            Layout::Unified => Detail::unified(|file| self.read("", file)),
            Layout::PerController => Detail::per_controller(|controller, file| self.read(controller, file)),
        }
    }

    /// The processes in it, not those of cgroups below it.
    pub fn processes(&self) -> Vec<i32> {
        let text = self.read("memory", "cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceIo =
        DeviceIo { major: 8, minor: 16, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 };

    #[test]
    fn version_two_is_read() {
        let detail = Detail::unified(|file| {
            let text = match file {
                "cpu.stat" => {
                    "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 7\nnr_throttled 3\nthrottled_usec 5\n"
                }
                "memory.stat" => {
                    "anon 1\nfile 50\nkernel 6\nfile_mapped 40\ninactive_file 30\nactive_file 20\n"
                }
                "memory.peak" => "99\n",
                "memory.events" => "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n",
                "pids.max" => "max\n",
                "io.stat" => "8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!((detail.cpu_user_ns, detail.cpu_system_ns), (Some(20_000), Some(10_000)));
        assert_eq!(
            (detail.periods, detail.throttled_periods, detail.throttled_ns),
            (Some(7), Some(3), Some(5000))
        );
        assert_eq!((detail.cache, detail.mapped_files, detail.kernel), (Some(50), Some(40), Some(6)));
        assert_eq!((detail.memory_peak, detail.limit_hits, detail.pids_limit), (Some(99), Some(4), None));
        assert_eq!((detail.active_file, detail.inactive_file), (Some(20), Some(30)));
        assert_eq!(detail.io, [DEVICE]);
    }

    #[test]
    fn version_one_is_read() {
        let detail = Detail::per_controller(|controller, file| {
            let text = match (controller, file) {
                ("cpu", "cpu.stat") => "nr_periods 7\nnr_throttled 3\nthrottled_time 5000\n",
                ("cpuacct", "cpuacct.stat") => "user 2\nsystem 1\n",
                ("memory", "memory.stat") => "cache 1\ntotal_cache 50\ntotal_mapped_file 40\n",
                ("memory", "memory.failcnt") => "4\n",
                ("pids", "pids.max") => "100\n",
                ("blkio", "blkio.throttle.io_service_bytes_recursive") => {
                    "8:16 Read 4096\n8:16 Write 8192\n8:16 Sync 0\n8:16 Total 12288\nTotal 12288\n"
                }
                ("blkio", "blkio.throttle.io_serviced_recursive") => "8:16 Read 1\n8:16 Write 2\nTotal 3\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        assert_eq!((detail.cpu_user_ns, detail.cpu_system_ns), (Some(20_000_000), Some(10_000_000)));
        assert_eq!(detail.throttled_ns, Some(5000));
        assert_eq!((detail.cache, detail.mapped_files, detail.kernel), (Some(50), Some(40), None));
        assert_eq!((detail.limit_hits, detail.pids_limit), (Some(4), Some(100)));
        assert_eq!(detail.io, [DEVICE]);
    }

    #[test]
    fn nothing_readable_is_nothing_known() {
        assert_eq!(Detail::unified(|_| None), Detail::default());
        assert_eq!(Detail::per_controller(|_, _| Some("junk junk\n\n".to_owned())), Detail::default());
    }
}
