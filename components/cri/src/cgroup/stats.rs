//! What a cgroup has used.

use super::{Cgroup, Layout, field, layout};

/// One sample. A field is `None` when the kernel does not account for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time, nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory, bytes, page cache included.
    pub memory: Option<u64>,
    /// Memory that cannot be reclaimed at once, bytes: usage without inactive page cache.
    pub working_set: Option<u64>,
    /// Anonymous memory, bytes.
    pub rss: Option<u64>,
    /// Limit, bytes; `None` when there is none.
    pub memory_limit: Option<u64>,
    /// Swap used, bytes.
    pub swap: Option<u64>,
    /// Swap limit, bytes.
    pub swap_limit: Option<u64>,
    /// Page faults since it was made.
    pub page_faults: Option<u64>,
    /// Page faults that read from disk.
    pub major_page_faults: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Pressure on CPU, memory and I/O (cgroup v2 with PSI only).
    pub pressure: [Option<Pressure>; 3],
}

/// One PSI file, `some` and `full`: total in microseconds and the averages over 10, 60 and 300 s in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Time in which some task waited.
    pub some: (u64, [f64; 3]),
    /// Time in which all tasks waited.
    pub full: (u64, [f64; 3]),
}

impl Pressure {
    /// Parses `cpu.pressure` and its like.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let value = |key: &str| {
                line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            };
            let average = |key| value(key)?.parse::<f64>().ok();
            Some((value("total")?.parse().ok()?, [average("avg10")?, average("avg60")?, average("avg300")?]))
        };
        Some(Self { some: line("some")?, full: line("full").unwrap_or_default() })
    }
}

impl Cgroup {
    /// Samples it; `None` when it does not exist.
    pub fn stats(&self) -> Option<Stats> {
        self.directory("memory").exists().then(|| match layout() {
            Layout::Unified => self.unified_stats(),
            Layout::PerController => self.per_controller_stats(),
        })
    }

    fn number(&self, controller: &str, file: &str) -> Option<u64> {
        self.read(controller, file)?.trim().parse().ok()
    }

    fn unified_stats(&self) -> Stats {
        let memory = self.number("", "memory.current");
        let detail = self.read("", "memory.stat").unwrap_or_default();
        let cpu = self.read("", "cpu.stat").unwrap_or_default();
        let pressure =
            ["cpu", "memory", "io"].map(|kind| Pressure::parse(&self.read("", &format!("{kind}.pressure"))?));
        Stats {
            cpu_ns: field(&cpu, "usage_usec").map(|usec| usec * 1000),
            memory,
            working_set: memory.map(|all| all.saturating_sub(field(&detail, "inactive_file").unwrap_or(0))),
            rss: field(&detail, "anon"),
            memory_limit: self.number("", "memory.max"),
            swap: self.number("", "memory.swap.current"),
            swap_limit: self.number("", "memory.swap.max"),
            page_faults: field(&detail, "pgfault"),
            major_page_faults: field(&detail, "pgmajfault"),
            pids: self.number("", "pids.current"),
            pressure,
        }
    }

    fn per_controller_stats(&self) -> Stats {
        /// v1 says "no limit" with the largest page-aligned number.
        const NO_LIMIT: u64 = 1 << 62;
        let memory = self.number("memory", "memory.usage_in_bytes");
        let detail = self.read("memory", "memory.stat").unwrap_or_default();
        Stats {
            cpu_ns: self.number("cpuacct", "cpuacct.usage"),
            memory,
            working_set: memory
                .map(|all| all.saturating_sub(field(&detail, "total_inactive_file").unwrap_or(0))),
            rss: field(&detail, "total_rss"),
            memory_limit: self.number("memory", "memory.limit_in_bytes").filter(|&limit| limit < NO_LIMIT),
            swap: field(&detail, "total_swap"),
            swap_limit: None,
            page_faults: field(&detail, "total_pgfault"),
            major_page_faults: field(&detail, "total_pgmajfault"),
            pids: self.number("pids", "pids.current"),
            pressure: [None; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = Pressure::parse(text).unwrap();
        assert_eq!(pressure.some, (1234, [1.5, 0.25, 0.0]));
        assert_eq!(pressure.full.0, 7);
        assert_eq!(Pressure::parse(""), None);
    }
}
