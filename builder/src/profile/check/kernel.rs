//! Checks on `[kernel]`.

use super::{Finding, ProfileCheck, Severity};
use crate::profile::Resolved;
use crate::profile::model::{CpuManager, Kernel};
use crate::profile::render;
use crate::profile::value::PathPattern;
use std::collections::BTreeSet;

pub(super) const CHECKS: &[ProfileCheck] = &[
    ProfileCheck {
        id: "kernel.cmdline-length",
        severity: Severity::Fatal,
        rule: "the kernel command line fits the kernel's 2048 bytes",
        run: cmdline_length,
    },
    ProfileCheck {
        id: "kernel.cmdline-reserved",
        severity: Severity::Fatal,
        rule: "kernel.cmdline leaves the arguments that the builder sets to the builder",
        run: cmdline_reserved,
    },
    ProfileCheck {
        id: "kernel.hugepages",
        severity: Severity::Fatal,
        rule: "huge pages are of a size x86-64 has, each size given once and more than zero",
        run: hugepages,
    },
    ProfileCheck {
        id: "kernel.isolated-cpus",
        severity: Severity::Fatal,
        rule: "CPUs isolated from the scheduler are handed out by the static CPU manager, and CPU 0 stays the system's",
        run: isolated_cpus,
    },
    ProfileCheck {
        id: "kernel.realtime",
        severity: Severity::Fatal,
        rule: "a real-time node has a PREEMPT_RT kernel",
        run: realtime,
    },
    ProfileCheck {
        id: "kernel.dropped-modules",
        severity: Severity::Fatal,
        rule: "no module that is loaded at boot is dropped",
        run: dropped_modules,
    },
    ProfileCheck {
        id: "kernel.initrd-modules",
        severity: Severity::Warning,
        rule: "the initrd carries dm-verity, squashfs, overlay and at least one disk driver",
        run: initrd_modules,
    },
    ProfileCheck {
        id: "kernel.sysctl",
        severity: Severity::Fatal,
        rule: "kernel parameters do not contradict what pods and the kubelet need",
        run: sysctl,
    },
];

/// COMMAND_LINE_SIZE of x86 is 2048 with the terminating zero (arch/x86/include/asm/setup.h).
const CMDLINE_LIMIT: usize = 2047;
/// ` roothash=` and 64 digits.
const CMDLINE_ADDED: usize = 10 + 64;

fn cmdline_length(resolved: &Resolved) -> Vec<Finding> {
    let length = render::kernel_command_line(&resolved.profile).join(" ").len() + CMDLINE_ADDED;
    if length <= CMDLINE_LIMIT {
        return Vec::new();
    }
    vec![Finding::new(
        "kernel.cmdline",
        format!(
            "the command line has {length} bytes with what the builder adds; the kernel reads {CMDLINE_LIMIT}"
        ),
        "shorten it; what is not needed before systemd runs belongs in kernel.sysctl or in a file below rootfs/",
    )]
}

/// Arguments the builder sets, and who is asked to set them instead.
const RESERVED: &[(&str, &str)] = &[
    ("roothash", "the builder adds it"),
    ("root", "the initrd finds the root by roothash="),
    ("rootflags", "the root is always a read-only squashfs"),
    ("rootfstype", "the root is always a read-only squashfs"),
    ("ro", "the root is always read-only"),
    ("rw", "the root is always read-only"),
    ("init", "the initrd always starts systemd"),
    ("rdinit", "the initramfs has one program"),
    ("initrd", "the UKI carries it"),
    ("hugepages", "use kernel.hugepages"),
    ("hugepagesz", "use kernel.hugepages"),
    ("isolcpus", "use kernel.isolated_cpus"),
    ("nohz_full", "use kernel.isolated_cpus"),
    ("rcu_nocbs", "use kernel.isolated_cpus"),
];

fn cmdline_reserved(resolved: &Resolved) -> Vec<Finding> {
    let given = resolved.profile.kernel.cmdline.iter();
    given
        .filter_map(|argument| {
            let (key, reason) = RESERVED.iter().find(|(key, _)| *key == argument.key())?;
            Some(Finding::new(
                "kernel.cmdline",
                format!("`{argument}` sets `{key}`, which is not the profile's to set: {reason}"),
                format!("remove `{argument}`"),
            ))
        })
        .collect()
}

fn hugepages(resolved: &Resolved) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (index, pages) in resolved.profile.kernel.hugepages.iter().enumerate() {
        let key = format!("kernel.hugepages[{index}]");
        if !matches!(pages.size.get(), 0x20_0000 | 0x4000_0000) {
            findings.push(Finding::new(
                format!("{key}.size"),
                format!("x86-64 has no huge pages of {}", pages.size),
                "use \"2 MiB\" or \"1 GiB\"",
            ));
        }
        if pages.count == 0 {
            findings.push(Finding::new(
                format!("{key}.count"),
                "reserves no page",
                "give a count, or remove the entry",
            ));
        }
        if !seen.insert(pages.size) {
            findings.push(Finding::new(
                key,
                format!("{} pages are given twice", pages.size),
                "give each size once",
            ));
        }
    }
    findings
}

fn isolated_cpus(resolved: &Resolved) -> Vec<Finding> {
    let profile = &resolved.profile;
    let Some(cpus) = &profile.kernel.isolated_cpus else { return Vec::new() };
    let mut findings = Vec::new();
    if profile.kubelet.cpu_manager != CpuManager::Static {
        findings.push(Finding::new(
            "kubelet.cpu_manager",
            format!("kernel.isolated_cpus keeps CPUs {cpus} free, but with cpu_manager = \"none\" no pod is ever given one"),
            "set kubelet.cpu_manager = \"static\", or remove kernel.isolated_cpus",
        ));
    }
    let has_zero = cpus.as_str().split(',').any(|part| part == "0" || part.starts_with("0-"));
    if has_zero {
        findings.push(Finding::new(
            "kernel.isolated_cpus",
            "CPU 0 takes the interrupts and timers of the system and cannot be isolated",
            "begin with CPU 1 or higher",
        ));
    }
    findings
}

fn realtime(resolved: &Resolved) -> Vec<Finding> {
    let kernel = &resolved.profile.kernel;
    let is_rt = kernel.package.as_str().split('-').any(|part| part == "rt");
    match (kernel.realtime, is_rt) {
        (true, false) => vec![Finding::new(
            "kernel.package",
            format!("kernel.realtime is set, but {} is no PREEMPT_RT kernel", kernel.package),
            "set kernel.package = \"linux-image-rt-amd64\", or kernel.realtime = false",
        )],
        (false, true) => vec![Finding::new(
            "kernel.realtime",
            format!(
                "{} is a PREEMPT_RT kernel: it costs throughput and brings nothing without kernel.realtime",
                kernel.package
            ),
            "set kernel.realtime = true, or choose linux-image-amd64",
        )],
        _ => Vec::new(),
    }
}

/// Where in the module tree the modules are that profiles commonly load; enough to catch a folder dropped whole.
const HOMES: &[(&str, &str)] = &[
    ("overlay", "fs/overlayfs/overlay.ko"),
    ("squashfs", "fs/squashfs/squashfs.ko"),
    ("ext4", "fs/ext4/ext4.ko"),
    ("xfs", "fs/xfs/xfs.ko"),
    ("quota_v2", "fs/quota/quota_v2.ko"),
    ("nfs", "fs/nfs/nfs.ko"),
    ("nfsv3", "fs/nfs/nfsv3.ko"),
    ("nfsv4", "fs/nfs/nfsv4.ko"),
    ("br_netfilter", "net/bridge/br_netfilter.ko"),
    ("bridge", "net/bridge/bridge.ko"),
    ("nf_tables", "net/netfilter/nf_tables.ko"),
    ("nf_conntrack", "net/netfilter/nf_conntrack.ko"),
    ("ip_vs", "net/netfilter/ipvs/ip_vs.ko"),
    ("veth", "drivers/net/veth.ko"),
    ("vxlan", "drivers/net/vxlan/vxlan.ko"),
    ("macvlan", "drivers/net/macvlan.ko"),
    ("ipvlan", "drivers/net/ipvlan/ipvlan.ko"),
    ("dummy", "drivers/net/dummy.ko"),
    ("vrf", "drivers/net/vrf.ko"),
    ("ifb", "drivers/net/ifb.ko"),
    ("tun", "drivers/net/tun.ko"),
    ("8021q", "net/8021q/8021q.ko"),
    ("sch_tbf", "net/sched/sch_tbf.ko"),
    ("virtio_net", "drivers/net/virtio_net.ko"),
    ("virtio_blk", "drivers/block/virtio_blk.ko"),
    ("virtio_scsi", "drivers/scsi/virtio_scsi.ko"),
    ("virtio_pci", "drivers/virtio/virtio_pci.ko"),
    ("iscsi_tcp", "drivers/scsi/iscsi_tcp.ko"),
    ("sd_mod", "drivers/scsi/sd_mod.ko"),
    ("ahci", "drivers/ata/ahci.ko"),
    ("nvme", "drivers/nvme/host/nvme.ko"),
    ("dm_mod", "drivers/md/dm-mod.ko"),
    ("dm_verity", "drivers/md/dm-verity.ko"),
    ("dm_crypt", "drivers/md/dm-crypt.ko"),
    ("dm_multipath", "drivers/md/dm-multipath.ko"),
    ("dm_service_time", "drivers/md/dm-service-time.ko"),
    ("loop", "drivers/block/loop.ko"),
];

/// The pattern of `kernel.drop_modules` that takes `module` (with underscores) away, as far as its name or
/// [`HOMES`] tell.
pub(super) fn dropper<'k>(kernel: &'k Kernel, module: &str) -> Option<&'k PathPattern> {
    kernel.drop_modules.iter().find(|pattern| {
        let by_place = HOMES.iter().any(|(name, place)| *name == module && pattern.matches(place));
        let file = pattern.as_str().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let by_name = file.split(".ko").next().is_some_and(|stem| stem.replace('-', "_") == module)
            && file.contains(".ko");
        by_place || by_name
    })
}

fn dropped_modules(resolved: &Resolved) -> Vec<Finding> {
    let kernel = &resolved.profile.kernel;
    let initrd = kernel.initrd_modules.iter().map(|pattern| pattern.as_str().replace('-', "_"));
    let wanted: BTreeSet<String> =
        kernel.modules.iter().map(|module| module.canonical()).chain(initrd).collect();
    let dropped = wanted.iter().filter_map(|module| Some((module, dropper(kernel, module)?)));
    dropped
        .map(|(module, pattern)| {
            Finding::new(
                "kernel.drop_modules",
                format!(
                    "`{pattern}` drops `{module}`, which kernel.modules or kernel.initrd_modules asks for"
                ),
                format!("narrow `{pattern}`, or no longer ask for `{module}`"),
            )
        })
        .collect()
}

fn initrd_modules(resolved: &Resolved) -> Vec<Finding> {
    let patterns = &resolved.profile.kernel.initrd_modules;
    let carried = |module: &str| patterns.iter().any(|pattern| pattern.matches(module));
    let mut findings: Vec<Finding> = ["dm_verity", "squashfs", "overlay"]
        .into_iter()
        .filter(|module| !carried(module))
        .map(|module| {
            Finding::new(
                "kernel.initrd_modules",
                format!(
                    "`{module}` is not named: where the kernel has it as a module, the root cannot be mounted"
                ),
                format!("add \"{module}\""),
            )
        })
        .collect();
    let disks = ["virtio_blk", "virtio_scsi", "nvme", "ahci", "sd_mod", "xen_blkfront", "hv_storvsc"];
    if !disks.into_iter().any(carried) {
        findings.push(Finding::new(
            "kernel.initrd_modules",
            "names no disk driver: unless one is built into the kernel, no disk is found at boot",
            "add the drivers of the disks the node boots from, such as \"virtio_blk\", \"nvme\" and \"ahci\"",
        ));
    }
    findings
}

fn sysctl(resolved: &Resolved) -> Vec<Finding> {
    let profile = &resolved.profile;
    let mut findings = Vec::new();
    let mut must = |key: &str, value: &str, when: bool, reason: &str| {
        let given = profile.kernel.sysctl.iter().find(|(name, _)| name.as_str() == key);
        if let Some((_, given)) = given
            && when
            && given.as_str() != value
        {
            findings.push(Finding::new(
                format!("kernel.sysctl.\"{key}\""),
                format!("is {}, but {reason}", given.as_str()),
                format!("set it to {value}, or leave it out"),
            ));
        }
    };
    let ipv4 = profile.network.pod_cidrs.iter().any(|cidr| !cidr.is_ipv6());
    let ipv6 = profile.network.pod_cidrs.iter().any(|cidr| cidr.is_ipv6());
    must(
        "net.ipv4.ip_forward",
        "1",
        ipv4,
        "network.pod_cidrs has an IPv4 range, whose pods reach nothing without forwarding",
    );
    must(
        "net.ipv6.conf.all.forwarding",
        "1",
        ipv6,
        "network.pod_cidrs has an IPv6 range, whose pods reach nothing without forwarding",
    );
    must("net.ipv6.conf.all.disable_ipv6", "0", ipv6, "network.pod_cidrs has an IPv6 range");
    // What the kubelet insists on with protectKernelDefaults (pkg/kubelet/cm, setupKernelTunables).
    let hardening = profile.kubelet.hardening;
    for (key, value) in render::KUBELET_SYSCTLS {
        must(key, value, hardening, "kubelet.hardening makes the kubelet refuse to start with anything else");
    }
    findings
}
