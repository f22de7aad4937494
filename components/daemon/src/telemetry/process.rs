//! The daemon's own process, under the names Prometheus' client libraries give.

use std::{fmt::Write, fs};

/// Writes what `/proc/self` says, in Prometheus' text format.
pub(super) fn render(text: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let page = rustix::param::page_size() as f64;
    let Some(held) = Stat::parse(&stat) else { return };
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    for (name, kind, value) in [
        ("process_cpu_seconds_total", "counter", held.cpu_ticks / ticks),
        ("process_start_time_seconds", "gauge", boot.unwrap_or(0.0) + held.started_ticks / ticks),
        ("process_virtual_memory_bytes", "gauge", held.virtual_bytes),
        ("process_resident_memory_bytes", "gauge", held.resident_pages * page),
        ("process_threads", "gauge", held.threads),
        ("process_open_fds", "gauge", descriptors as f64),
        ("process_max_fds", "gauge", limit.map_or(f64::INFINITY, |limit| limit as f64)),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
    }
}

/// The fields of `/proc/<pid>/stat` that are shown.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    started_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    /// The name in parentheses may hold anything, so fields are counted from behind it: there begins the third.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            started_ticks: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_fields() {
        let text = "9 (a) 1 2) S 1 9 9 0 -1 0 0 0 0 0 70 30 0 0 20 0 4 0 500 8192 33 0";
        let expected = Stat {
            cpu_ticks: 100.0,
            threads: 4.0,
            started_ticks: 500.0,
            virtual_bytes: 8192.0,
            resident_pages: 33.0,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("nothing"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let mut text = String::new();
        render(&mut text);
        let line = text.lines().find(|line| line.starts_with("process_resident_memory_bytes ")).unwrap();
        assert!(line.split(' ').next_back().unwrap().parse::<f64>().unwrap() > 4096.0);
    }
}
