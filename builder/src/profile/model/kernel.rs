//! `[kernel]`

use super::constant;
use crate::profile::value::{
    CpuList, KernelArgument, ModuleName, ModulePattern, PackageName, PathPattern, Scalar, Size, SysctlKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The kernel, its modules and its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// Debian package of the kernel; a metapackage stands for the image it depends on.
    pub package: PackageName,
    /// Modules loaded at boot, whatever the hardware (`modules-load.d`).
    pub modules: Vec<ModuleName>,
    /// Modules the initrd carries besides those that verity, squashfs and overlay need: drivers of the disks it
    /// may boot from. Dependencies come along. A pattern that fits nothing is fine, drivers may be built in.
    pub initrd_modules: Vec<ModulePattern>,
    /// Modules left out of the root: paths below `kernel/` in the module directory, folders with all in them.
    pub drop_modules: Vec<PathPattern>,
    /// Arguments on the kernel command line. The builder adds `roothash=` and what `hugepages`, `isolated_cpus`
    /// and `security.console` ask for.
    pub cmdline: Vec<KernelArgument>,
    /// Kernel parameters set at boot (`sysctl.d`).
    pub sysctl: BTreeMap<SysctlKey, Scalar>,
    /// Huge pages reserved at boot.
    pub hugepages: Vec<HugePages>,
    /// CPUs kept free of the scheduler, of timer ticks and of RCU callbacks, for pods that pin theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolated_cpus: Option<CpuList>,
    /// The node is for real-time work: wants a PREEMPT_RT kernel and turns off power states that cost latency.
    pub realtime: bool,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HugePages {
    /// Page size: `2 MiB` or `1 GiB`.
    pub size: Size,
    /// How many.
    pub count: u32,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            package: constant("linux-image-amd64"),
            modules: Vec::new(),
            initrd_modules: Vec::new(),
            drop_modules: Vec::new(),
            cmdline: Vec::new(),
            sysctl: BTreeMap::new(),
            hugepages: Vec::new(),
            isolated_cpus: None,
            realtime: false,
        }
    }
}
