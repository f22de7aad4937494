use super::*;

/// What a working node says; the cases below add one mistake each.
const GOOD: &str = r#"
name = "test"
[kernel]
initrd_modules = ["dm-verity", "squashfs", "overlay", "virtio_blk"]
[packages]
install = ["systemd", "udev", "e2fsprogs"]
[files]
overlays = ["storage"]
[components.cairn-csi]
path = "/usr/libexec/cairn/cairn-csi"
[kubelet.labels]
"anuket.io/profile" = "basic"
"#;

/// The good profile with `text` laid over it, as a child does.
fn checked(text: &str) -> Report {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base.toml"), GOOD.replace("\"test\"", "\"base\"")).unwrap();
    std::fs::write(folder.path().join("here"), "").unwrap();
    let path = folder.path().join("test.toml");
    std::fs::write(&path, format!("name = 'test'\nextends = 'base'\n{text}")).unwrap();
    check_profile(&Resolved::load(&path).unwrap_or_else(|error| panic!("{text}: {error}")))
}

/// One check's table.
struct Case {
    check: &'static str,
    /// Profiles that trip it and nothing else, with the key it must name.
    mistakes: &'static [(&'static str, &'static str)],
    /// Profiles that come near and trip nothing at all.
    near_misses: &'static [&'static str],
}

const fn case(
    check: &'static str,
    mistakes: &'static [(&'static str, &'static str)],
    near_misses: &'static [&'static str],
) -> Case {
    Case { check, mistakes, near_misses }
}

const CASES: &[Case] = &[
    case(
        "kernel.cmdline-reserved",
        &[
            ("[kernel]\ncmdline = ['roothash=00']", "kernel.cmdline"),
            ("[kernel]\ncmdline = ['quiet', 'root=/dev/vda']", "kernel.cmdline"),
            ("[kernel]\ncmdline = ['hugepages=3']", "kernel.cmdline"),
        ],
        &["[kernel]\ncmdline = ['quiet', 'rootwait']"],
    ),
    case(
        "kernel.hugepages",
        &[
            ("[kernel]\nhugepages = [{ size = '4 MiB', count = 1 }]", "kernel.hugepages[0].size"),
            ("[kernel]\nhugepages = [{ size = '2 MiB', count = 0 }]", "kernel.hugepages[0].count"),
            (
                "[kernel]\nhugepages = [{ size = '2 MiB', count = 1 }, { size = '2 MiB', count = 2 }]",
                "kernel.hugepages[1]",
            ),
        ],
        &["[kernel]\nhugepages = [{ size = '2 MiB', count = 1 }, { size = '1 GiB', count = 2 }]"],
    ),
    case(
        "kernel.isolated-cpus",
        &[
            ("[kernel]\nisolated_cpus = '2-3'", "kubelet.cpu_manager"),
            ("[kernel]\nisolated_cpus = '0-3'\n[kubelet]\ncpu_manager = 'static'", "kernel.isolated_cpus"),
        ],
        &["[kernel]\nisolated_cpus = '2-3,10'\n[kubelet]\ncpu_manager = 'static'"],
    ),
    case(
        "kernel.realtime",
        &[
            ("[kernel]\nrealtime = true", "kernel.package"),
            ("[kernel]\npackage = 'linux-image-rt-amd64'", "kernel.realtime"),
        ],
        &["[kernel]\nrealtime = true\npackage = 'linux-image-rt-amd64'"],
    ),
    case(
        "kernel.dropped-modules",
        &[
            ("[kernel]\ndrop_modules = ['fs/nfs']\nmodules = ['nfs']", "kernel.drop_modules"),
            ("[kernel]\ndrop_modules = ['drivers/block']", "kernel.drop_modules"),
            (
                "[kernel]\ndrop_modules = ['drivers/x/foo-bar.ko*']\nmodules = ['foo_bar']",
                "kernel.drop_modules",
            ),
        ],
        &["[kernel]\ndrop_modules = ['sound', 'drivers/gpu', 'fs/nfsd']\nmodules = ['nfs']"],
    ),
    case(
        "kernel.initrd-modules",
        &[
            ("[kernel]\ninitrd_modules = { remove = ['dm-verity'] }", "kernel.initrd_modules"),
            ("[kernel]\ninitrd_modules = { remove = ['virtio_blk'] }", "kernel.initrd_modules"),
        ],
        &["[kernel]\ninitrd_modules = ['dm_*', 'squashfs', 'overlay', 'nvme*']"],
    ),
    case(
        "kernel.sysctl",
        &[
            (
                "[kernel.sysctl]\n'net.ipv4.ip_forward' = 0\n[network]\npod_cidrs = ['10.0.0.0/16']",
                "kernel.sysctl.\"net.ipv4.ip_forward\"",
            ),
            (
                "[kernel.sysctl]\n'net.ipv6.conf.all.disable_ipv6' = 1\n[network]\npod_cidrs = ['fd00::/64']",
                "kernel.sysctl.\"net.ipv6.conf.all.disable_ipv6\"",
            ),
            ("[kernel.sysctl]\n'vm.overcommit_memory' = 2", "kernel.sysctl.\"vm.overcommit_memory\""),
        ],
        &[
            "[kernel.sysctl]\n'net.ipv4.ip_forward' = 1\n[network]\npod_cidrs = ['10.0.0.0/16']",
            "[kernel.sysctl]\n'vm.overcommit_memory' = 2\n[kubelet]\nhardening = false",
            "[kernel.sysctl]\n'net.ipv4.ip_forward' = 0",
        ],
    ),
    case(
        "packages.systemd",
        &[
            ("[packages]\ninstall = ['systemd']", "packages.install"),
            ("[packages]\ninstall = ['udev']", "packages.install"),
            ("[packages]\nboot = []", "packages.boot"),
        ],
        &["[packages]\nboot = ['systemd-boot-efi']"],
    ),
    case(
        "packages.exclude",
        &[("[packages]\nexclude = ['udev']", "packages.exclude")],
        &["[packages]\nexclude = ['debconf']"],
    ),
    case(
        "users.numbers",
        &[
            ("[users.a]\nuid = 1\n[groups.a]\ngid = 1\n[users.b]\nuid = 1\ngroup = 'a'", "users.b.uid"),
            ("[groups.a]\ngid = 1\n[groups.b]\ngid = 1", "groups.b.gid"),
            ("[users.a]\nuid = 1", "users.a.group"),
            ("[groups.a]\ngid = 1\nmembers = ['b']", "groups.a.members"),
        ],
        &["[users.a]\nuid = 1\n[groups.a]\ngid = 1\n[groups.b]\ngid = 2\nmembers = ['a']"],
    ),
    case(
        "components.paths",
        &[("[components.a]\npath = '/x'\n[components.b]\npath = '/y'\nlinks = ['/x']", "components.b")],
        &[
            "[components.a]\npath = '/x'\n[components.b]\npath = '/x'\nplace = 'initrd'",
            "[components.a]\npath = '/x'\nenabled = false\n[components.b]\npath = '/x'",
        ],
    ),
    case(
        "runtime.cgroup-driver",
        &[("[kubelet.config]\ncgroupDriver = 'cgroupfs'", "kubelet.config.cgroupDriver")],
        &["[kubelet.config]\ncgroupDriver = 'cgroupfs'\n[runtime]\ncgroup_driver = 'cgroupfs'"],
    ),
    case(
        "runtime.endpoint",
        &[(
            "[kubelet.config]\ncontainerRuntimeEndpoint = 'unix:///run/x.sock'",
            "kubelet.config.containerRuntimeEndpoint",
        )],
        &["[kubelet.config]\ncontainerRuntimeEndpoint = 'unix:///run/cairn/cri.sock'"],
    ),
    case(
        "runtime.images",
        &[("[runtime]\nsandbox_image = 'r.io/pause:3'", "runtime.sandbox_image")],
        &[
            "[runtime]\nsandbox_image = 'r.io/pause:3'\n[runtime.registries.'r.io']",
            "[runtime]\nsandbox_image = 'r.io/pause:3'\n[images]\nbake = [{ name = 'r.io/pause:3', component = 'x' }]",
        ],
    ),
    case(
        "images.names",
        &[
            (
                "[images]\nbake = [{ name = 'r.io/a:1', component = 'x' }, { name = 'r.io/a:1', component = 'y' }]",
                "images.bake[1].name",
            ),
            ("[images]\nbake = [{ name = 'r.io/a:1', path = 'nowhere' }]", "images.bake[0].path"),
        ],
        &["[images]\nbake = [{ name = 'r.io/a:1', path = 'here' }, { name = 'r.io/a:2', component = 'x' }]"],
    ),
    case(
        "kubelet.binary",
        &[
            ("[kubelet]\nurl = 'https://h/k'", "kubelet.sha256"),
            (
                "[kubelet]\nsha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
                "kubelet.sha256",
            ),
            ("[kubelet]\npath = 'here'\nurl = 'https://h/k'", "kubelet.url"),
            ("[kubelet]\npath = 'nowhere'", "kubelet.path"),
        ],
        &[
            "[kubelet]\npath = 'here'",
            "[kubelet]\nurl = 'https://h/k'\nsha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
        ],
    ),
    case(
        "kubelet.static-cpus",
        &[("[kubelet]\ncpu_manager = 'static'\nreserved = { cpu = '0m' }", "kubelet.reserved.cpu")],
        &["[kubelet]\ncpu_manager = 'static'", "[kubelet]\nreserved = { cpu = '0' }"],
    ),
    case(
        "kubelet.alpha",
        &[("[kubelet.config.featureGates]\nAllAlpha = true", "kubelet.config.featureGates.AllAlpha")],
        &["[kubelet.config.featureGates]\nAllAlpha = false\nOther = true"],
    ),
    case(
        "security.reachable",
        &[("[security]\nconsole = 'none'\napi = 'off'", "security.console")],
        &["[security]\nconsole = 'none'", "[security]\napi = 'off'"],
    ),
    case(
        "security.secure-boot",
        &[
            (
                "[security]\nsecure_boot = { key = 'nowhere', certificate = 'here' }",
                "security.secure_boot.key",
            ),
            (
                "[security]\nsecure_boot = { key = 'here', certificate = 'nowhere' }",
                "security.secure_boot.certificate",
            ),
        ],
        &["[security]\nsecure_boot = { key = 'here', certificate = 'here' }"],
    ),
    case(
        "network.plugins",
        &[
            ("[network]\ntype = 'cilium'", "network.type"),
            ("[network.networks.s]\ntype = 'infiniband'", "network.networks.s.type"),
            (
                "[network.networks.s]\ntype = 'vlan'\nchain = [{ type = 'bridge' }]",
                "network.networks.s.chain[0].type",
            ),
        ],
        &[
            "[network.networks.s]\ntype = 'bridge'\nconfig = { bridge = 'cni1' }\nchain = [{ type = 'tuning' }]",
        ],
    ),
    case(
        "network.ranges",
        &[
            ("[network]\npod_cidrs = ['10.0.0.0/16', '10.0.1.0/24']", "network.pod_cidrs[1]"),
            ("[network]\npod_cidrs = ['10.0.0.0/16', '10.1.0.0/16']", "network.pod_cidrs[1]"),
            ("[network]\npod_cidrs = ['10.0.0.0/30']", "network.pod_cidrs[0]"),
        ],
        &["[network]\npod_cidrs = ['10.0.0.0/29', 'fd00::/125']"],
    ),
    case(
        "network.mtu",
        &[
            ("[network]\nmtu = 1000\npod_cidrs = ['fd00::/64']", "network.mtu"),
            ("[network]\nmtu = 500", "network.mtu"),
        ],
        &["[network]\nmtu = 1000", "[network]\nmtu = 1280\npod_cidrs = ['fd00::/64']"],
    ),
    case(
        "network.bridge",
        &[
            ("[network]\nbridge = 'a-name-too-long-for-linux'", "network.bridge"),
            ("[network]\nbridge = 'a b'", "network.bridge"),
        ],
        &["[network]\nbridge = 'br-pods.0'"],
    ),
    case(
        "storage.driver",
        &[
            ("[storage]\nlocal = true\n[files]\noverlays = []", "files.overlays"),
            ("[storage]\nlocal = true\n[components.cairn-csi]\nenabled = false", "components"),
        ],
        &["[files]\noverlays = []\n[components.cairn-csi]\nenabled = false"],
    ),
    case(
        "storage.volumes",
        &[
            (
                "[storage]\nlocal = true\nmultipath = true\n[packages]\ninstall = { add = ['multipath-tools', 'dmsetup'] }",
                "storage.multipath",
            ),
            (
                "[storage]\nencryption = true\n[packages]\ninstall = { add = ['cryptsetup-bin', 'dmsetup'] }",
                "storage.encryption",
            ),
            (
                "[storage]\nnfs = true\nxfs = true\n[packages]\ninstall = { add = ['nfs-common', 'xfsprogs'] }",
                "storage.xfs",
            ),
        ],
        &["[storage]\nlocal = true"],
    ),
    case(
        "storage.local",
        &[
            (
                "[storage]\nlocal = true\n[kernel]\ndrop_modules = ['drivers/block/loop.ko']",
                "kernel.drop_modules",
            ),
            ("[storage]\nlocal = true\n[kernel]\ndrop_modules = ['fs/quota']", "kernel.drop_modules"),
            ("[storage]\nlocal = true\n[packages]\ninstall = { remove = ['e2fsprogs'] }", "packages.install"),
        ],
        &[
            "[storage]\nlocal = true\n[kernel]\ndrop_modules = ['fs/quota/quota_v1.ko', 'drivers/scsi']",
            "[kernel]\ndrop_modules = ['fs/quota']",
        ],
    ),
    case(
        "storage.iscsi",
        &[
            ("[storage]\niscsi = true", "packages.install"),
            (
                "[storage]\niscsi = true\n[packages]\ninstall = { add = ['open-iscsi'] }\n[kernel]\ndrop_modules = ['drivers/scsi/iscsi_tcp.ko*']",
                "kernel.drop_modules",
            ),
            (
                "[storage]\niscsi = true\n[packages]\ninstall = { add = ['open-iscsi'] }\n[kernel]\nmodules = ['sd-mod', 'ext4']\nsysctl = { 'kernel.modules_disabled' = 1 }",
                "kernel.modules",
            ),
        ],
        &[
            "[storage]\niscsi = true\n[packages]\ninstall = { add = ['open-iscsi'] }",
            "[storage]\niscsi = true\n[packages]\ninstall = { add = ['open-iscsi'] }\n[kernel]\nmodules = ['iscsi-tcp', 'sd_mod', 'ext4']\nsysctl = { 'kernel.modules_disabled' = 1 }",
        ],
    ),
    case(
        "storage.multipath",
        &[(
            "[storage]\niscsi = true\nmultipath = true\n[packages]\ninstall = { add = ['open-iscsi', 'multipath-tools'] }",
            "packages.install",
        )],
        &[
            "[storage]\niscsi = true\nmultipath = true\n[packages]\ninstall = { add = ['open-iscsi', 'multipath-tools', 'dmsetup'] }",
        ],
    ),
    case(
        "storage.nfs",
        &[
            ("[storage]\nnfs = true", "packages.install"),
            (
                "[storage]\nnfs = true\n[packages]\ninstall = { add = ['nfs-common'] }\n[kernel]\ndrop_modules = ['fs/nfs/nfsv4.ko.xz']",
                "kernel.drop_modules",
            ),
        ],
        &["[storage]\nnfs = true\n[packages]\ninstall = { add = ['nfs-common'] }"],
    ),
    case(
        "storage.encryption",
        &[
            (
                "[storage]\nlocal = true\nencryption = true\n[packages]\ninstall = { add = ['dmsetup'] }",
                "packages.install",
            ),
            (
                "[storage]\nlocal = true\nencryption = true\n[packages]\ninstall = { add = ['cryptsetup-bin', 'dmsetup'] }\n[kernel]\ndrop_modules = ['drivers/md/dm-crypt.ko*']",
                "kernel.drop_modules",
            ),
        ],
        &[
            "[storage]\nlocal = true\nencryption = true\n[packages]\ninstall = { add = ['cryptsetup-bin', 'dmsetup'] }",
        ],
    ),
    case(
        "storage.xfs",
        &[
            ("[storage]\nlocal = true\nxfs = true", "packages.install"),
            (
                "[storage]\nlocal = true\nxfs = true\n[packages]\ninstall = { add = ['xfsprogs'] }\n[kernel]\ndrop_modules = ['fs/xfs']",
                "kernel.drop_modules",
            ),
        ],
        &["[storage]\nlocal = true\nxfs = true\n[packages]\ninstall = { add = ['xfsprogs'] }"],
    ),
    case(
        "storage.pools",
        &[
            ("[[storage.pools]]\nname = 'a'", "storage.pools"),
            (
                "[storage]\nlocal = true\n[[storage.pools]]\nname = 'a'\ndevice = '/dev/disk/by-id/a'",
                "storage.xfs",
            ),
            ("[storage]\nlocal = true\n[[storage.pools]]\nname = 'a b'", "storage.pools[0].name"),
            (
                "[storage]\nlocal = true\n[[storage.pools]]\nname = 'a'\npath = '/srv/a'",
                "storage.pools[0].path",
            ),
            (
                "[storage]\nlocal = true\n[[storage.pools]]\nname = 'a'\nlimit_bytes = 9",
                "storage.pools[0].limit_bytes",
            ),
            (
                "[packages]\ninstall = { add = ['xfsprogs'] }\n[storage]\nlocal = true\nxfs = true\n[[storage.pools]]\nname = 'a'\ndevice = '/dev/sdb'",
                "storage.pools[0].device",
            ),
            (
                "[packages]\ninstall = { add = ['xfsprogs'] }\n[storage]\nlocal = true\nxfs = true\n[[storage.pools]]\nname = 'a'\n[[storage.pools]]\nname = 'a'\ndevice = '/dev/disk/by-id/a'",
                "storage.pools[1].name",
            ),
        ],
        &[
            "[storage]\nlocal = true\n[[storage.pools]]\nname = 'a'",
            "[packages]\ninstall = { add = ['xfsprogs'] }\n[storage]\nlocal = true\nxfs = true\n[[storage.pools]]\nname = 'a'\n[[storage.pools]]\nname = 'b'\ndevice = '/dev/disk/by-partlabel/b'",
        ],
    ),
    case(
        "storage.metrics",
        &[
            ("[storage]\nmetrics_address = '127.0.0.1:10098'", "storage.metrics_address"),
            (
                "[storage]\nlocal = true\nmetrics_address = '0.0.0.0:10099'\n[runtime]\nmetrics_address = '127.0.0.1:10099'",
                "storage.metrics_address",
            ),
            ("[storage]\nlocal = true\nmetrics_address = '127.0.0.1:50443'", "storage.metrics_address"),
        ],
        &[
            "[storage]\nlocal = true\nmetrics_address = '127.0.0.1:10099'\n[runtime]\nmetrics_address = '127.0.0.2:10099'",
        ],
    ),
    case(
        "disk.budgets",
        &[
            ("[test.budgets]\nroot = '300 MiB'", "test.budgets.root"),
            ("[test.budgets]\nuki = '63 MiB'", "test.budgets.uki"),
            ("[test.budgets]\nroot = '80 MB'\nraw_allocated = '70 MB'", "test.budgets.raw_allocated"),
        ],
        &["[test.budgets]\nroot = '256 MiB'\nuki = '62 MiB'\nraw_allocated = '300 MiB'"],
    ),
    case(
        "disk.alignment",
        &[
            ("[disk]\nslot_size = '100 MB'", "disk.slot_size"),
            ("[disk]\nesp_size = '32 MiB'", "disk.esp_size"),
            ("[disk]\nverity_size = '2 MiB'", "disk.verity_size"),
            ("[disk]\nstate_minimum = '0 B'", "disk.state_minimum"),
        ],
        &["[disk]\nverity_size = '3 MiB'\nesp_size = '33 MiB'"],
    ),
    case(
        "disk.compression",
        &[
            ("[disk]\nsquashfs_level = 23", "disk.squashfs_level"),
            ("[disk]\ninitrd_level = 0", "disk.initrd_level"),
            ("[disk]\nsquashfs_block = '100 KiB'", "disk.squashfs_block"),
            ("[disk]\nsquashfs_block = '2 MiB'", "disk.squashfs_block"),
        ],
        &["[disk]\nsquashfs_level = 22\ninitrd_level = 1\nsquashfs_block = '1 MiB'"],
    ),
    case(
        "disk.formats",
        &[("[disk]\nformats = []", "disk.formats"), ("[disk]\nformats = ['raw', 'raw']", "disk.formats")],
        &["[disk]\nformats = ['raw', 'qcow2']"],
    ),
];

#[test]
fn the_good_profile_is_good() {
    let report = checked("");
    assert_eq!(report.findings, []);
}

#[test]
fn every_check_is_tripped_by_its_mistake_alone() {
    for Case { check, mistakes, near_misses } in CASES {
        for (text, key) in *mistakes {
            let report = checked(text);
            let found: Vec<(&str, &str)> =
                report.findings.iter().map(|found| (found.check, found.finding.key.as_str())).collect();
            assert_eq!(found, [(*check, *key)], "{text}");
        }
        for text in *near_misses {
            assert_eq!(checked(text).findings, [], "{text}");
        }
    }
}

#[test]
fn a_command_line_may_be_long_but_not_too_long() {
    // 2047 bytes less ` roothash=` with its digits.
    for (length, expected) in [(1973, 0), (1974, 1)] {
        let report = checked(&format!("[kernel]\ncmdline = ['{}']", "a".repeat(length)));
        assert_eq!(report.fatal(), expected, "{length}");
    }
}

#[test]
fn a_node_without_ra2_labels_is_warned_of() {
    for (label, expected) in [
        ("\"anuket.io/profile\" = \"network-intensive\"", 0),
        ("\"anuket.io/profile\" = \"true\"", 1),
        ("\"example.org/x\" = \"basic\"", 1),
    ] {
        let text = GOOD.replace("\"anuket.io/profile\" = \"basic\"", label);
        let report = check_profile(&Resolved::from_text("test", &text).unwrap());
        assert_eq!((report.fatal(), report.warnings()), (0, expected), "{label}");
        assert!(report.findings.iter().all(|found| found.check == "kubelet.labels"));
    }
}

#[test]
fn names_are_unique_and_every_check_is_tested() {
    let elsewhere = ["kernel.cmdline-length", "kubelet.labels"];
    let mut seen = std::collections::BTreeSet::new();
    for check in PROFILE_CHECKS.iter().copied().flatten() {
        assert!(seen.insert(check.id), "{} twice", check.id);
        assert!(
            elsewhere.contains(&check.id) || CASES.iter().any(|case| case.check == check.id),
            "{} untested",
            check.id
        );
    }
}

#[test]
fn fatal_findings_come_first_and_read_well() {
    let report = checked("[security]\nconsole = 'none'\napi = 'off'\n[storage]\nnfs = true");
    assert_eq!((report.fatal(), report.warnings()), (1, 1));
    assert_eq!(
        report.findings[0].to_string(),
        "fatal[storage.nfs]: `packages.install`: `nfs-common` is missing: storage.nfs is on and calls its programs\n  fix: add \"nfs-common\" to packages.install"
    );
}
