//! Command line, modules and parameters of the kernel.

use super::File;
use crate::profile::model::{Console, Profile};

/// The kernel's arguments but for `roothash=`: what the profile lists, and what other keys ask for.
pub fn kernel_command_line(profile: &Profile) -> Vec<String> {
    let kernel = &profile.kernel;
    let mut arguments: Vec<String> = kernel.cmdline.iter().map(ToString::to_string).collect();
    for pages in &kernel.hugepages {
        arguments.push(format!("hugepagesz={}M", pages.size.get() >> 20));
        arguments.push(format!("hugepages={}", pages.count));
    }
    if let Some(cpus) = &kernel.isolated_cpus {
        arguments.push(format!("isolcpus=managed_irq,domain,{cpus}"));
        arguments.push(format!("nohz_full={cpus}"));
        arguments.push(format!("rcu_nocbs={cpus}"));
    }
    if kernel.realtime {
        // Deep idle states and the watchdogs' ticks are the largest sources of latency that software can turn off.
        arguments
            .extend(["processor.max_cstate=1", "intel_idle.max_cstate=0", "nowatchdog"].map(str::to_owned));
    }
    if profile.security.console == Console::None {
        arguments.extend(["console=null", "quiet", "systemd.show_status=no"].map(str::to_owned));
    }
    arguments
}

/// `modules-load.d` and `sysctl.d`; each only where there is something to say.
pub(super) fn files(profile: &Profile) -> Vec<File> {
    let mut files = Vec::new();
    let lines = |lines: Vec<String>| lines.into_iter().map(|line| line + "\n").collect::<String>();
    if !profile.kernel.modules.is_empty() {
        let modules = profile.kernel.modules.iter().map(ToString::to_string).collect();
        files.push(File::text("/usr/lib/modules-load.d/cairn.conf", lines(modules)));
    }
    let mut sysctl: std::collections::BTreeMap<&str, &str> =
        profile.kernel.sysctl.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    if profile.kubelet.hardening {
        // With protectKernelDefaults the kubelet checks these and exits where they differ.
        for (key, value) in super::KUBELET_SYSCTLS {
            sysctl.insert(key, value);
        }
    }
    if !sysctl.is_empty() {
        let settings = sysctl.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
        files.push(File::text("/usr/lib/sysctl.d/60-cairn.conf", lines(settings)));
    }
    files
}
