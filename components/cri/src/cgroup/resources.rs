//! Limits, in the terms of CRI, and how each cgroup version spells them.

use super::{Cgroup, Layout, layout};
use cairn_contract::cri;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io};

/// `LinuxContainerResources` of CRI. Zero and empty mean "leave as it is".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period; negative: no limit.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes; negative: no limit.
    pub memory_limit: i64,
    /// Memory and swap together, bytes; negative: no limit.
    pub memory_swap_limit: i64,
    /// Bytes that are taken away last when memory is short; what CRI cannot say.
    pub memory_reservation: i64,
    /// Processes and threads; negative: no limit. What CRI cannot say.
    pub pids_limit: i64,
    /// For the processes, not the cgroup; applied when they start.
    pub oom_score_adj: i64,
    /// CPUs, `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes, `0-1`.
    pub cpuset_mems: String,
    /// Page size (`2MB`) to bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// Files of cgroup v2 to their content.
    pub unified: BTreeMap<String, String>,
}

impl From<&cri::LinuxContainerResources> for Resources {
    fn from(given: &cri::LinuxContainerResources) -> Self {
        Self {
            cpu_period: given.cpu_period,
            cpu_quota: given.cpu_quota,
            cpu_shares: given.cpu_shares,
            memory_limit: given.memory_limit_in_bytes,
            memory_swap_limit: given.memory_swap_limit_in_bytes,
            memory_reservation: 0,
            pids_limit: 0,
            oom_score_adj: given.oom_score_adj,
            cpuset_cpus: given.cpuset_cpus.clone(),
            cpuset_mems: given.cpuset_mems.clone(),
            hugepages: given
                .hugepage_limits
                .iter()
                .map(|limit| (limit.page_size.clone(), limit.limit))
                .collect(),
            unified: given.unified.clone().into_iter().collect(),
        }
    }
}

impl From<&Resources> for cri::LinuxContainerResources {
    fn from(held: &Resources) -> Self {
        Self {
            cpu_period: held.cpu_period,
            cpu_quota: held.cpu_quota,
            cpu_shares: held.cpu_shares,
            memory_limit_in_bytes: held.memory_limit,
            memory_swap_limit_in_bytes: held.memory_swap_limit,
            oom_score_adj: held.oom_score_adj,
            cpuset_cpus: held.cpuset_cpus.clone(),
            cpuset_mems: held.cpuset_mems.clone(),
            hugepage_limits: held
                .hugepages
                .iter()
                .map(|(size, &limit)| cri::HugepageLimit { page_size: size.clone(), limit })
                .collect(),
            unified: held.unified.clone().into_iter().collect(),
        }
    }
}

impl Resources {
    /// Takes over what `update` sets and keeps the rest.
    pub fn merge(&mut self, update: &Resources) {
        let number = |held: &mut i64, new: i64| {
            if new != 0 {
                *held = new;
            }
        };
        number(&mut self.cpu_period, update.cpu_period);
        number(&mut self.cpu_quota, update.cpu_quota);
        number(&mut self.cpu_shares, update.cpu_shares);
        number(&mut self.memory_limit, update.memory_limit);
        number(&mut self.memory_swap_limit, update.memory_swap_limit);
        number(&mut self.memory_reservation, update.memory_reservation);
        number(&mut self.pids_limit, update.pids_limit);
        number(&mut self.oom_score_adj, update.oom_score_adj);
        for (held, new) in
            [(&mut self.cpuset_cpus, &update.cpuset_cpus), (&mut self.cpuset_mems, &update.cpuset_mems)]
        {
            if !new.is_empty() {
                held.clone_from(new);
            }
        }
        self.hugepages.extend(update.hugepages.clone());
        self.unified.extend(update.unified.clone());
    }

    /// This update with those of `held`'s limits that share a kernel file with what it sets: the swap file counts
    /// from the memory limit, and a CPU quota stands beside its period.
    pub fn completed_by(&self, held: &Resources) -> Resources {
        let mut whole = self.clone();
        let both = |first: &mut i64, second: &mut i64, held_first: i64, held_second: i64| {
            if *first != 0 && *second == 0 {
                *second = held_second;
            } else if *second != 0 && *first == 0 {
                *first = held_first;
            }
        };
        both(
            &mut whole.memory_limit,
            &mut whole.memory_swap_limit,
            held.memory_limit,
            held.memory_swap_limit,
        );
        both(&mut whole.cpu_period, &mut whole.cpu_quota, held.cpu_period, held.cpu_quota);
        whole
    }

    /// What is wrong with them, if anything is, in words for the one who asked: `unified` names files of cgroup v2, and
    /// of the container's own cgroup only.
    pub fn check(&self, layout: Layout) -> Result<(), String> {
        if let Some(file) = self.unified.keys().next().filter(|_| layout == Layout::PerController) {
            return Err(format!("unified resource {file} needs cgroup v2, and this node has cgroup v1"));
        }
        for (field, value, least) in [
            ("cpu_period", self.cpu_period, 0),
            ("cpu_quota", self.cpu_quota, -1),
            ("cpu_shares", self.cpu_shares, 0),
            ("memory_limit_in_bytes", self.memory_limit, -1),
            ("memory_swap_limit_in_bytes", self.memory_swap_limit, -1),
            ("oom_score_adj", self.oom_score_adj, -1000),
        ] {
            if value < least {
                return Err(format!("{field} {value} is less than {least}"));
            }
        }
        if self.oom_score_adj > 1000 {
            return Err(format!("oom_score_adj {} is more than 1000", self.oom_score_adj));
        }
        if self.memory_swap_limit > 0 && self.memory_limit > self.memory_swap_limit {
            return Err(format!(
                "memory_swap_limit_in_bytes {} counts memory, too, and is less than memory_limit_in_bytes {}",
                self.memory_swap_limit, self.memory_limit
            ));
        }
        let plain = |name: &str| !name.is_empty() && !name.contains(['/', '\0']);
        if let Some(file) = self.unified.keys().find(|file| !plain(file) || !file.contains('.')) {
            return Err(format!("unified resource `{file}` is not a cgroup file, such as memory.high"));
        }
        if let Some(size) = self.hugepages.keys().find(|size| !plain(size)) {
            return Err(format!("`{size}` is not a huge page size, such as 2MB"));
        }
        Ok(())
    }

    /// Files to write, in order: controller, file, value.
    fn writes(&self, layout: Layout) -> Vec<(&'static str, String, String)> {
        match layout {
            Layout::Unified => self.unified_writes(),
            Layout::PerController => self.per_controller_writes(),
        }
    }

    fn unified_writes(&self) -> Vec<(&'static str, String, String)> {
        let mut writes = Vec::new();
        let mut set = |file: &str, value: String| writes.push(("", file.to_owned(), value));
        if self.cpu_shares > 0 {
            set("cpu.weight", weight(self.cpu_shares).to_string());
        }
        if self.cpu_quota != 0 || self.cpu_period > 0 {
            let period = if self.cpu_period > 0 { self.cpu_period } else { 100_000 };
            let quota = if self.cpu_quota > 0 { self.cpu_quota.to_string() } else { "max".to_owned() };
            set("cpu.max", format!("{quota} {period}"));
        }
        if !self.cpuset_cpus.is_empty() {
            set("cpuset.cpus", self.cpuset_cpus.clone());
        }
        if !self.cpuset_mems.is_empty() {
            set("cpuset.mems", self.cpuset_mems.clone());
        }
        if self.memory_limit != 0 {
            set("memory.max", or_max(self.memory_limit));
        }
        match self.memory_swap_limit {
            0 => {}
            limit if limit < 0 => set("memory.swap.max", "max".to_owned()),
            limit => set("memory.swap.max", (limit - self.memory_limit.max(0)).max(0).to_string()),
        }
        if self.memory_reservation != 0 {
            set("memory.low", or_max(self.memory_reservation));
        }
        if self.pids_limit != 0 {
            set("pids.max", or_max(self.pids_limit));
        }
        for (size, limit) in &self.hugepages {
            set(&format!("hugetlb.{size}.max"), limit.to_string());
        }
        for (file, value) in &self.unified {
            set(file, value.clone());
        }
        writes
    }

    fn per_controller_writes(&self) -> Vec<(&'static str, String, String)> {
        let mut writes = Vec::new();
        let mut set = |controller: &'static str, file: &str, value: String| {
            writes.push((controller, file.to_owned(), value))
        };
        if self.cpu_shares > 0 {
            set("cpu", "cpu.shares", self.cpu_shares.to_string());
        }
        if self.cpu_period > 0 {
            set("cpu", "cpu.cfs_period_us", self.cpu_period.to_string());
        }
        if self.cpu_quota != 0 {
            set("cpu", "cpu.cfs_quota_us", self.cpu_quota.max(-1).to_string());
        }
        if !self.cpuset_cpus.is_empty() {
            set("cpuset", "cpuset.cpus", self.cpuset_cpus.clone());
        }
        if !self.cpuset_mems.is_empty() {
            set("cpuset", "cpuset.mems", self.cpuset_mems.clone());
        }
        if self.memory_limit != 0 {
            set("memory", "memory.limit_in_bytes", self.memory_limit.max(-1).to_string());
        }
        if self.memory_swap_limit != 0 {
            set("memory", "memory.memsw.limit_in_bytes", self.memory_swap_limit.max(-1).to_string());
        }
        if self.memory_reservation != 0 {
            set("memory", "memory.soft_limit_in_bytes", self.memory_reservation.max(-1).to_string());
        }
        if self.pids_limit != 0 {
            set("pids", "pids.max", or_max(self.pids_limit));
        }
        for (size, limit) in &self.hugepages {
            set("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), limit.to_string());
        }
        writes
    }

    /// Applies the limits to a cgroup.
    ///
    /// # Errors
    /// The first limit that could not be set. Swap and huge page limits are skipped where the kernel does not
    /// account for them: there is nothing to limit.
    pub fn apply(&self, cgroup: &Cgroup) -> io::Result<()> {
        let mut writes = self.writes(layout());
        // v1 refuses a memory limit above that of memory and swap, in whichever order the two are raised or lowered.
        let raised = |file: &str, value: i64| {
            let now = fs::read_to_string(cgroup.directory("memory").join(file)).ok();
            now.and_then(|text| text.trim().parse::<i64>().ok()).is_some_and(|now| value < 0 || value > now)
        };
        if raised("memory.memsw.limit_in_bytes", self.memory_swap_limit) {
            writes.sort_by_key(|(_, file, _)| file != "memory.memsw.limit_in_bytes");
        }
        for (controller, file, value) in writes {
            let optional = file.contains("swap") || file.contains("memsw") || file.starts_with("hugetlb.");
            if optional && !cgroup.directory(controller).join(&file).exists() {
                continue;
            }
            cgroup.write(controller, &file, &value)?;
        }
        Ok(())
    }
}

/// cgroup v2's weight (1 to 10000) of v1's shares (2 to 262144), the mapping Kubernetes defined in KEP-2254.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_say_the_same_limits() {
        let resources = Resources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1024,
            memory_limit: 64 << 20,
            memory_swap_limit: 96 << 20,
            ..Resources::default()
        };
        let text = |layout| {
            let lines =
                resources.writes(layout).into_iter().map(|(_, file, value)| format!("{file}={value}"));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(
            text(Layout::Unified),
            ["cpu.weight=39", "cpu.max=50000 100000", "memory.max=67108864", "memory.swap.max=33554432"]
        );
        assert_eq!(
            text(Layout::PerController),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=100663296"
            ]
        );
    }

    #[test]
    fn an_update_keeps_what_shares_a_file_with_it() {
        let held = Resources {
            memory_limit: 64 << 20,
            memory_swap_limit: 64 << 20,
            cpu_quota: 20_000,
            ..Resources::default()
        };
        let update = Resources { memory_swap_limit: 96 << 20, cpu_period: 50_000, ..Resources::default() };
        let writes = update.completed_by(&held).unified_writes();
        let lines: Vec<String> =
            writes.into_iter().map(|(_, file, value)| format!("{file}={value}")).collect();
        assert_eq!(lines, ["cpu.max=20000 50000", "memory.max=67108864", "memory.swap.max=33554432"]);
        let shares = Resources { cpu_shares: 512, ..Resources::default() };
        assert_eq!(shares.completed_by(&held), shares);
    }

    #[test]
    fn files_outside_the_cgroup_are_refused() {
        let unified = |file: &str| Resources {
            unified: BTreeMap::from([(file.to_owned(), "1".to_owned())]),
            ..Resources::default()
        };
        assert!(unified("memory.high").check(Layout::Unified).is_ok());
        assert!(unified("memory.high").check(Layout::PerController).unwrap_err().contains("cgroup v1"));
        for file in ["../memory.max", "/etc/x.y", "", "nodot"] {
            assert!(unified(file).check(Layout::Unified).is_err(), "{file}");
        }
        let pages = Resources { hugepages: BTreeMap::from([("../x".to_owned(), 0)]), ..Resources::default() };
        assert!(pages.check(Layout::Unified).is_err());
    }

    #[test]
    fn limits_that_mean_nothing_are_refused() {
        let none = Resources::default;
        for (resources, word) in [
            (Resources { cpu_period: -1, ..none() }, "cpu_period"),
            (Resources { cpu_quota: -2, ..none() }, "cpu_quota"),
            (Resources { cpu_shares: -1, ..none() }, "cpu_shares"),
            (Resources { memory_limit: -5, ..none() }, "memory_limit"),
            (Resources { oom_score_adj: 1001, ..none() }, "more than 1000"),
            (Resources { oom_score_adj: -1001, ..none() }, "less than -1000"),
            (Resources { memory_limit: 2 << 20, memory_swap_limit: 1 << 20, ..none() }, "counts memory"),
        ] {
            let said = resources.check(Layout::Unified).unwrap_err();
            assert!(said.contains(word), "{word}: {said}");
        }
        let unlimited = Resources {
            cpu_quota: -1,
            memory_limit: -1,
            memory_swap_limit: -1,
            oom_score_adj: -1000,
            ..none()
        };
        assert!(unlimited.check(Layout::Unified).is_ok());
    }

    #[test]
    fn weights_span_the_whole_range() {
        assert_eq!((weight(2), weight(262_144), weight(0)), (1, 10_000, 1));
    }

    #[test]
    fn an_update_changes_only_what_it_names() {
        let mut held = Resources { cpu_shares: 2, memory_limit: 9, ..Resources::default() };
        held.merge(&Resources { cpu_shares: 5, cpuset_cpus: "0".into(), ..Resources::default() });
        assert_eq!((held.cpu_shares, held.memory_limit, held.cpuset_cpus.as_str()), (5, 9, "0"));
    }
}
