//! Each check on an image that holds, and on ones that do not.

use super::*;
use crate::format::uki::{Parts, tests::small_stub};
use crate::profile::value::Size;
use cairn_contract::storage::Pool;

const LOCKED: &str = "root:!*::0:99999:7:::\ncairn:!*::0:99999:7:::\n";
const PASSWD: &str = "root:x:0:0::/root:/bin/sh\ncairn:x:900:900::/:/usr/sbin/nologin\n";

struct Image {
    profile: Profile,
    tree: Node,
    uki: Vec<u8>,
    root_hash: RootHash,
    sizes: Sizes,
}

fn kernel(command_line: &str) -> Vec<u8> {
    let parts = Parts {
        stub: &small_stub(12),
        os_release: b"ID=cairn\n",
        command_line,
        kernel_release: "6.12",
        kernel: &small_stub(0),
        initrd: b"initrd",
        splash: None,
    };
    uki::build(&parts).unwrap()
}

impl Image {
    fn good() -> Self {
        let root_hash = RootHash([7; 32]);
        let sizes =
            Sizes { uki: 100, root: 200, verity: 10, root_uncompressed: 300, raw: 1000, raw_allocated: 400 };
        let mut image = Self {
            profile: Profile::named("t".parse().unwrap()),
            tree: Node::directory(),
            uki: kernel(&format!("quiet roothash={root_hash}")),
            root_hash,
            sizes,
        };
        image.put("etc/shadow", 0o640, LOCKED);
        image.put("etc/passwd", 0o644, PASSWD);
        image.put("usr/bin/a", 0o755, "program");
        image.tree.insert("opt/cni/bin", Node::symlink("/var/lib/cairn/cni-bin")).unwrap();
        for directory in ["etc/cni/net.d", "etc/cni/networks.d"] {
            image.tree.insert(directory, Node::directory()).unwrap();
        }
        image
    }

    fn put(&mut self, path: &str, mode: u16, text: &str) {
        self.tree.insert(path, Node::file(mode, text.as_bytes())).unwrap();
    }

    fn unit(&mut self, name: &str, text: &str) {
        self.put(&format!("usr/lib/systemd/system/{name}"), 0o644, text);
    }

    /// Findings as `check key: problem`.
    fn findings(&self) -> Vec<String> {
        let Self { profile, tree, uki, root_hash, sizes } = self;
        let report = check_image(&FinishedImage { profile, tree, uki, root_hash: *root_hash, sizes });
        assert_eq!(report.checks, checks().len());
        let text = |r: &crate::profile::check::Reported| {
            format!("{} {}: {}", r.check, r.finding.key, r.finding.problem)
        };
        report.findings.iter().map(text).collect()
    }
}

#[test]
fn a_good_image_has_no_findings_and_checks_are_told_apart() {
    assert_eq!(Image::good().findings(), Vec::<String>::new());
    let checks = checks();
    for (index, check) in checks.iter().enumerate() {
        assert!(checks[..index].iter().all(|other| other.id != check.id), "{}", check.id);
        assert!(!check.rule.is_empty() && check.id.starts_with("image."));
    }
}

#[test]
fn every_budget_is_held_and_named_with_its_value() {
    let mut image = Image::good();
    let budgets = &mut image.profile.test.budgets;
    budgets.uki = Some(Size::bytes(100));
    budgets.root = Some(Size::bytes(199));
    budgets.root_uncompressed = Some(Size::bytes(250));
    budgets.raw_allocated = Some(Size::bytes(1));
    let findings = image.findings();
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert_eq!(
        findings[0],
        "image.budgets test.budgets.root: the compressed root file system has 0.0 MB (200 bytes), and the budget is 199 B"
    );
    assert!(findings[1].contains("(300 bytes), and the budget is 250 B"), "{findings:?}");
    assert!(findings[2].contains("test.budgets.raw_allocated"), "{findings:?}");
}

#[test]
fn the_kernel_image_must_ask_for_this_root() {
    for (command_line, problem) in [
        (format!("quiet roothash={}", RootHash([8; 32])), "asks for 0808"),
        (format!("roothash={} roothash={}", RootHash([7; 32]), RootHash([8; 32])), "asks for 0808"),
        ("quiet".to_owned(), "no valid roothash="),
    ] {
        let mut image = Image::good();
        image.uki = kernel(&command_line);
        let findings = image.findings();
        assert!(findings.len() == 1 && findings[0].contains(problem), "{findings:?}");
    }
    let mut image = Image::good();
    image.uki.truncate(100);
    assert!(image.findings()[0].contains("cannot be read"));
}

#[test]
fn setuid_files_are_those_that_the_profile_names() {
    let mut image = Image::good();
    image.put("usr/bin/mount", 0o4755, "");
    image.put("usr/bin/wall", 0o2755, "");
    // A container image's own.
    image.put("usr/share/cairn/images/layers/00/bin/su", 0o4755, "");
    image
        .tree
        .insert("var/log", Node { meta: crate::tree::Metadata::root(0o2755), ..Node::directory() })
        .unwrap();
    image.profile.security.setuid =
        ["/usr/bin/mount", "/usr/bin/sudo"].map(|path| path.parse().unwrap()).to_vec();
    let findings = image.findings();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("image.setuid /usr/bin/wall: mode 2755"), "{findings:?}");
    assert!(findings[1].contains("/usr/bin/sudo is no setuid"), "{findings:?}");
}

#[test]
fn accounts_without_a_lock_are_found_and_hashes_not_shown() {
    let mut image = Image::good();
    image.put("etc/shadow", 0o640, "root:$6$salt$secret:1::::::\nopen::1::::::\nlocked:*:1::::::\n");
    image.put("etc/passwd", 0o644, "root:x:0:0:::\nold::5:5:::\n");
    let findings = image.findings();
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings[0].contains("/etc/shadow: `root` has a password") && !findings[0].contains("secret"));
    assert!(
        findings[1].contains("`open` needs no password") && findings[2].contains("/etc/passwd: `old` needs")
    );
    image.tree.remove("etc/shadow");
    assert!(image.findings()[0].contains("not in the image"));
}

#[test]
fn missing_programs_of_units_are_found() {
    let mut image = Image::good();
    image.put("usr/bin/data", 0o644, "no program");
    image.unit(
        "good.service",
        "[Service]\nExecStart=/usr/bin/a --x \\\n # not here\n  /usr/bin/gone\nExecReload=a\n",
    );
    for (name, line) in [
        ("start.service", "ExecStart=/usr/bin/gone --flag"),
        ("prefixed.service", "ExecStartPre=@!!/usr/bin/gone gone"),
        ("relative.service", "ExecStop=gone"),
        ("quoted.socket", "ExecStopPost=\"/usr/bin/go ne\" x"),
        ("plain.service", "ExecStart=/usr/bin/data"),
    ] {
        image.unit(name, &format!("[Unit]\nDescription=x\n[Service]\n{line}\n"));
    }
    let findings = image.findings();
    assert_eq!(findings.len(), 5, "{findings:#?}");
    for (finding, expected) in findings.iter().zip([
        "plain.service: ExecStart= starts /usr/bin/data,",
        "prefixed.service: ExecStartPre= starts /usr/bin/gone,",
        "quoted.socket: ExecStopPost= starts /usr/bin/go ne,",
        "relative.service: ExecStop= starts gone,",
        "start.service: ExecStart= starts /usr/bin/gone,",
    ]) {
        assert!(finding.contains(expected), "{finding} is not about {expected}");
    }
}

#[test]
fn units_that_do_without_the_program_are_left_alone() {
    let mut image = Image::good();
    for (name, text) in [
        ("tolerated.service", "ExecStart=-/usr/bin/gone"),
        ("instance@.service", "ExecStart=/usr/lib/%i/program"),
        ("run-time.service", "ExecStart=/run/made/later"),
        ("absent.service", "ConditionPathExists=/usr/bin/gone\nExecStart=/usr/bin/gone"),
        ("present.service", "ConditionFileIsExecutable=!/usr/bin/a\nExecStart=/usr/bin/gone"),
        ("initrd.service", "ConditionPathExists=/etc/initrd-release\nExecStart=/usr/bin/gone"),
        ("masked.service", "ExecStart=/usr/bin/gone"),
        ("replaced.service", "ExecStart=/usr/bin/gone"),
        ("hidden.service", "ExecStart=/usr/bin/gone"),
        ("note.target", "ExecStart=/usr/bin/gone"),
    ] {
        image.unit(name, text);
    }
    image.tree.insert("etc/systemd/system/masked.service", Node::symlink("/dev/null")).unwrap();
    image.unit("replaced.service.d/50-ours.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/a\n");
    image.put("etc/systemd/system/hidden.service", 0o644, "[Service]\nExecStart=/usr/bin/a\n");
    assert_eq!(image.findings(), Vec::<String>::new());
}

#[test]
fn what_the_image_cannot_decide_excuses_nothing() {
    let mut image = Image::good();
    // May be there on the node; one of two is enough; a drop-in for all services; a reset that comes later.
    image.unit("a.service", "ConditionPathExists=/etc/later\nExecStart=/usr/bin/gone");
    image.unit(
        "b.service",
        "ConditionPathExists=|/usr/bin/gone\nConditionPathExists=|/run/x\nExecStart=/usr/bin/gone",
    );
    image.unit("c-d.service", "ExecStart=/usr/bin/a");
    image.unit("c-.service.d/1.conf", "[Service]\nExecStartPost=/usr/bin/gone");
    image.unit("e.service", "ConditionPathExists=/usr/bin/gone\nExecStart=/usr/bin/gone");
    image.unit("e.service.d/1.conf", "[Unit]\nConditionPathExists=\n");
    let findings = image.findings();
    assert_eq!(findings.len(), 4, "{findings:#?}");
}

/// What iSCSI and local volumes need, as an image has it.
fn with_storage() -> Image {
    let mut image = Image::good();
    image.profile.storage.local = true;
    image.profile.storage.iscsi = true;
    for path in ["iscsiadm", "iscsid", "mkfs.ext4", "e2fsck", "resize2fs"] {
        image.put(&format!("usr/sbin/{path}"), 0o755, "program");
    }
    image.put("etc/iscsi/iscsid.conf", 0o644, "");
    for path in ["block/loop.ko.xz", "scsi/iscsi_tcp.ko.xz", "scsi/sd_mod.ko"] {
        image.put(&format!("usr/lib/modules/6/kernel/drivers/{path}"), 0o644, "module");
    }
    image.put(
        "usr/lib/modules/6/modules.builtin",
        0o644,
        "kernel/fs/ext4/ext4.ko\nkernel/fs/quota/quota_v2.ko\n",
    );
    image.put(
        "usr/lib/systemd/system/systemd-repart.service.d/50-a.conf",
        0o644,
        "[Service]\nEnvironment=\"SYSTEMD_REPART_MKFS_OPTIONS_EXT4=-O quota,project\"\n",
    );
    image
}

#[test]
fn what_volumes_need_is_looked_for_in_the_tree() {
    let of_storage = |image: &Image| {
        image
            .findings()
            .into_iter()
            .filter(|finding| finding.starts_with("image.storage"))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_storage(&with_storage()), Vec::<String>::new());
    for (gone, expected) in [
        (
            "usr/sbin/iscsid",
            "image.storage /usr/sbin/iscsid: it is not in the image, and storage.iscsi is on",
        ),
        ("usr/lib/modules/6/kernel/drivers/scsi/iscsi_tcp.ko.xz", "no module `iscsi_tcp`"),
        ("usr/lib/systemd/system/systemd-repart.service.d/50-a.conf", "made without project quota"),
    ] {
        let mut image = with_storage();
        image.tree.remove(gone);
        let findings = of_storage(&image);
        assert!(findings.len() == 1 && findings[0].contains(expected), "{gone}: {findings:?}");
    }
    // A pool's disk has its name by udev's rules, and XFS by the profile's storage.xfs.
    let mut image = with_storage();
    image.profile.storage.pools = vec![Pool { device: Some("/dev/disk/by-id/a".into()), ..Pool::in_state() }];
    let findings = of_storage(&image);
    assert!(findings.len() == 1 && findings[0].contains("60-persistent-storage.rules"), "{findings:?}");
    image.put("usr/lib/udev/rules.d/60-persistent-storage.rules", 0o644, "");
    assert_eq!(of_storage(&image), Vec::<String>::new());
    // Nothing is asked of an image without volumes.
    let mut image = with_storage();
    image.profile.storage = crate::profile::model::Storage::default();
    image.tree.remove("usr/sbin/iscsid");
    assert_eq!(of_storage(&image), Vec::<String>::new());
}

#[test]
fn what_add_ons_want_is_named_with_who_wants_it() {
    let mut image = Image::good();
    for path in ["net/bridge/bridge.ko.xz", "net/bridge/br_netfilter.ko.xz", "drivers/net/veth.ko.xz"] {
        image.put(&format!("usr/lib/modules/6.12/kernel/{path}"), 0o644, "module");
    }
    image.put(
        "usr/lib/modules/6.12/modules.builtin",
        0o644,
        "kernel/drivers/net/vxlan/vxlan.ko\nkernel/net/wireguard.ko\n",
    );
    let findings = image.findings();
    assert!(
        findings.iter().all(|finding| finding.starts_with("image.addon-modules kernel.drop_modules")),
        "{findings:?}"
    );
    assert!(
        findings.iter().any(|finding| finding.contains("Cilium") && finding.contains("cls_bpf")),
        "{findings:?}"
    );
    assert!(!findings.iter().any(|finding| finding.contains("flannel")), "it has all that this one wants");
}

#[test]
fn add_ons_have_a_place_for_plugins_and_networks() {
    let mut image = Image::good();
    image.tree.insert("opt/cni/bin", Node::directory()).unwrap();
    assert!(image.findings()[0].contains("image.addon-places /opt/cni/bin"), "{:?}", image.findings());
}
