use super::*;
use std::fs;

/// Writes profiles into a folder and loads the first.
fn load(files: &[(&str, &str)]) -> Result<Resolved, ProfileError> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
    }
    Resolved::load(&folder.path().join(format!("{}.toml", files[0].0)))
}

/// The first line of the message, without the folder.
fn refusal(files: &[(&str, &str)]) -> String {
    let message = load(files).unwrap_err().to_string();
    let line = message.lines().next().unwrap();
    line.rsplit_once("/")
        .filter(|_| line.starts_with('/'))
        .map_or(line, |_| &line[line.find(".tmp").unwrap() + 11..])
        .to_owned()
}

#[test]
fn a_name_alone_is_a_profile_of_defaults() {
    let resolved = load(&[("a", "name = 'a'")]).unwrap();
    assert_eq!(resolved.profile, Profile::named("a".parse().unwrap()));
}

#[test]
fn every_mistake_in_one_file_names_place_and_fix() {
    for (text, expected) in [
        ("name = 'a'\nkernal = 1", "a.toml:2:1: `kernal`: unknown key `kernal`; did you mean `kernel`?"),
        (
            "name = 'a'\n[kernel]\npakage = 'x1'",
            "a.toml:3:1: `kernel.pakage`: unknown key `pakage`; did you mean `package`?",
        ),
        (
            "name = 'a'\n[storage]\nzebra = true",
            "a.toml:3:1: `storage.zebra`: unknown key `zebra`; known here: local, nfs, iscsi, multipath, encryption, xfs, pools, metrics_address",
        ),
        (
            "name = 'a'\n[storage]\nnfs = 'yes'",
            "a.toml:3:7: `storage.nfs`: expected a boolean, found the string \"yes\"",
        ),
        (
            "name = 'a'\n[kernel]\nmodules = 'tun'",
            "a.toml:3:11: `kernel.modules`: expected a list, found the string \"tun\"",
        ),
        (
            "name = 'a'\n[kernel]\nmodules = ['tun', 7]",
            "a.toml:3:19: `kernel.modules[1]`: expected a string, found the integer 7",
        ),
        ("name = 'a'\nkernel = 3", "a.toml:2:10: `kernel`: expected a table, found the integer 3"),
        (
            "name = 'a'\n[kubelet]\nmax_pods = 70000",
            "a.toml:3:12: `kubelet.max_pods`: expected an integer from 0 to 65535, found the integer 70000",
        ),
        (
            "name = 'a'\n[kubelet]\nmax_pods = -1",
            "a.toml:3:12: `kubelet.max_pods`: expected an integer from 0 to 65535, found the integer -1",
        ),
        (
            "name = 'a'\n[security]\nconsole = 'stats'",
            "a.toml:3:11: `security.console`: `stats` is none of status, none; did you mean `status`?",
        ),
        (
            "name = 'a'\n[security]\nconsole = true",
            "a.toml:3:11: `security.console`: expected one of status, none, found a boolean",
        ),
        (
            "name = 'a'\n[runtime]\ncgroup_driver = 'system'",
            "a.toml:3:17: `runtime.cgroup_driver`: `system` is none of systemd, cgroupfs; did you mean `systemd`?",
        ),
        (
            "name = 'a'\n[kernel]\nhugepages = [{ size = '2 MiB' }]",
            "a.toml:3:14: `kernel.hugepages[0]`: the key `count` is missing",
        ),
        ("name = 'a'\n[users.joe]\nhome = '/x'", "a.toml:2:1: `users.joe`: the key `uid` is missing"),
        (
            "name = 'a'\n[users.Joe]\nuid = 1",
            "a.toml:2:8: `users.Joe`: `Joe` is not a user or group name: 1 to 31 lower-case letters, digits, `_` and `-`, starting with a letter or `_`",
        ),
        (
            "name = 'a'\n[disk]\nslot_size = 512",
            "a.toml:3:13: `disk.slot_size`: expected a string, found the integer 512",
        ),
        (
            "name = 'a'\n[disk]\nslot_size = '512'",
            "a.toml:3:13: `disk.slot_size`: `512` is not a size: a number and a unit, such as \"512 MiB\"; units are B, KiB, MiB, GiB, TiB, kB, MB, GB, TB",
        ),
        (
            "name = 'a'\n[network]\npod_cidrs = ['10.0.0.1/8']",
            "a.toml:3:14: `network.pod_cidrs[0]`: `10.0.0.1/8` is not an address range such as 10.244.0.0/16 or fd00:10:244::/64, with no bit set behind the prefix",
        ),
        (
            "name = 'a'\n[packages]\ninstall = ['Systemd']",
            "a.toml:3:12: `packages.install[0]`: `Systemd` is not a Debian package name: at least two lower-case letters, digits, `+`, `-` and `.`, starting with a letter or digit",
        ),
        (
            "name = 'a'\nversion = 'one'",
            "a.toml:2:11: `version`: `one` is not an image version such as 1.4.2 or 1.5.0~rc1: numbers joined by dots, then perhaps `~`, `^` or `-` and lower-case letters, digits and dots; 29 characters at most",
        ),
        (
            "name = 'a'\n[images]\nbake = [{ name = 'cairn.local/a:1' }]",
            "a.toml:3:9: `images.bake[0]`: give exactly one of `path` (an OCI image layout) and `component` (a program of ours)",
        ),
        (
            "name = 'a'\n[kernel.sysctl]\n'vm.x' = [1]",
            "a.toml:3:10: `kernel.sysctl.vm.x`: expected a string, an integer or a boolean, found a list",
        ),
        (
            "name = 'a'\nversion = 2026-01-01",
            "a.toml:2:11: no profile key takes a date; write a string, in quotes",
        ),
        (
            "name = 'b'",
            "a.toml:1:8: `name`: the profile in a.toml is called `b`; lock and output are found by name, so file and name must be equal",
        ),
        ("version = '1'", "a.toml:1:1: the key `name` is missing"),
        ("name = 'a'\nextends = 4", "a.toml:2:11: `extends`: expected a string, found the integer 4"),
    ] {
        assert_eq!(refusal(&[("a", text)]), expected, "{text}");
    }
}

#[test]
fn broken_toml_is_named_with_its_place() {
    let message = refusal(&[("a", "name = 'a'\n[kernel\n")]);
    assert!(message.starts_with("a.toml:2:8: not TOML: "), "{message}");
    let message = refusal(&[("a", "name = 'a'\nname = 'b'\n")]);
    assert!(message.starts_with("a.toml:2:1: not TOML: duplicate key"), "{message}");
}

#[test]
fn the_line_is_shown_with_a_caret() {
    let message = load(&[("a", "name = 'a'\n[kernel]\n\tpakage = 'x1'")]).unwrap_err().to_string();
    let lines: Vec<&str> = message.lines().skip(1).collect();
    assert_eq!(lines, ["  3 | \tpakage = 'x1'", "    | \t^^^^^^"]);
}

#[test]
fn a_mistake_in_a_parent_is_named_in_the_parent() {
    let message =
        refusal(&[("a", "name = 'a'\nextends = 'b'"), ("b", "name = 'b'\n[disk]\nslotsize = '1 MiB'")]);
    assert_eq!(message, "b.toml:3:1: `disk.slotsize`: unknown key `slotsize`; did you mean `slot_size`?");
}

#[test]
fn missing_parents_and_circles_are_refused() {
    let message = refusal(&[("a", "name = 'a'\nextends = 'bsae'"), ("base", "name = 'base'")]);
    assert!(
        message.starts_with("a.toml:2:11: `extends`: there is no profile ")
            && message.ends_with("did you mean `base`?"),
        "{message}"
    );
    let message = refusal(&[
        ("a", "name='a'\nextends='b'"),
        ("b", "name='b'\nextends='c'"),
        ("c", "name='c'\nextends='b'"),
    ]);
    assert_eq!(
        message,
        "c.toml:2:9: `extends`: profiles extend each other in a circle: b → c → b; take one `extends` out"
    );
    let message = refusal(&[("a", "name='a'\nextends='a'")]);
    assert!(message.contains("a → a"), "{message}");
}

#[test]
fn a_missing_profile_is_the_users_mistake_and_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("worker.toml"), "").unwrap();
    let error = Resolved::load(&folder.path().join("wroker.toml")).unwrap_err();
    assert!(error.to_string().ends_with("wroker.toml; did you mean `worker`?"), "{error}");
    assert!(!error.is_machine_fault());
    let error = Resolved::load(folder.path()).unwrap_err();
    assert!(error.is_machine_fault() && error.to_string().starts_with("cannot read profile"), "{error}");
}

#[test]
fn tables_merge_lists_replace_and_edits_edit() {
    let base = "name = 'base'\n[kernel]\nmodules = ['a1', 'b1', 'c1']\ncmdline = ['quiet']\n[kernel.sysctl]\n'vm.x' = 1\n'vm.y' = 1";
    let leaf = "name = 'a'\nextends = 'base'\n[kernel]\nmodules = { add = ['d1', 'a1'], remove = ['b1'] }\ncmdline = ['debug']\n[kernel.sysctl]\n'vm.y' = true\n'vm.x' = '7'";
    let resolved = load(&[("a", leaf), ("base", base)]).unwrap();
    let kernel = &resolved.profile.kernel;
    assert_eq!(kernel.modules.iter().map(|module| module.as_str()).collect::<Vec<_>>(), ["a1", "c1", "d1"]);
    assert_eq!(kernel.cmdline.iter().map(|argument| argument.as_str()).collect::<Vec<_>>(), ["debug"]);
    assert_eq!(kernel.sysctl.values().map(|value| value.as_str()).collect::<Vec<_>>(), ["7", "1"]);
}

#[test]
fn defaults_can_be_edited_too() {
    let resolved = load(&[("a", "name = 'a'\n[disk]\nformats = { add = ['qcow2'] }")]).unwrap();
    assert_eq!(resolved.profile.disk.formats.len(), 2);
}

#[test]
fn edits_that_do_not_fit_are_refused() {
    let base = ("base", "name = 'base'\n[kernel]\nmodules = ['overlay']");
    for (edit, expected) in [
        (
            "{ remove = ['overlya'] }",
            "a.toml:4:23: `kernel.modules.remove`: cannot remove what the inherited list does not hold; did you mean `overlay`?",
        ),
        (
            "{ ad = ['x1'] }",
            "a.toml:4:13: `kernel.modules.ad`: `kernel.modules` is a list; a table in its place edits it and has only `add` and `remove`; did you mean `add`?",
        ),
        ("{ add = 'x1' }", "a.toml:4:19: `kernel.modules.add`: expected a list, found a string"),
    ] {
        let leaf = format!("name = 'a'\nextends = 'base'\n[kernel]\nmodules = {edit}");
        assert_eq!(refusal(&[("a", &leaf), base]), expected);
    }
}

#[test]
fn origins_are_remembered_through_the_merge() {
    let base = "name = 'base'\n[kernel]\nmodules = ['a1']\nrealtime = false";
    let leaf = "name = 'a'\nextends = 'base'\n[kernel]\nmodules = { add = ['b1'] }";
    let resolved = load(&[("a", leaf), ("base", base)]).unwrap();
    let names = |parts: &[&str]| -> Vec<String> {
        let origins = resolved.origins(parts);
        origins
            .iter()
            .map(|origin| match origin {
                KeyOrigin::Default => "default".to_owned(),
                KeyOrigin::File { path, line } => {
                    format!("{}:{line}", path.file_name().unwrap().to_string_lossy())
                }
            })
            .collect()
    };
    assert_eq!(names(&["kernel", "modules"]), ["a.toml:4", "base.toml:3"]);
    assert_eq!(names(&["kernel", "realtime"]), ["base.toml:4"]);
    assert_eq!(names(&["kernel", "package"]), ["default"]);
    assert_eq!(names(&["kernel", "isolated_cpus"]), ["default"]);
}

#[test]
fn what_is_shown_is_itself_a_profile() {
    let leaf = "name = 'a'\n[kernel.sysctl]\n'vm.x' = 1\n[network.networks.s]\ntype = 'macvlan'\nconfig = { a = [1, { b = 1.5 }] }\n[test.budgets]\nboot_ratio = 3";
    let resolved = load(&[("a", leaf)]).unwrap();
    let text = toml::to_string_pretty(&resolved.profile).unwrap();
    assert_eq!(Resolved::from_text("a", &text).unwrap().profile, resolved.profile, "{text}");
}

#[test]
fn names_and_paths_are_told_apart() {
    assert_eq!(locate("worker"), Path::new("profiles/worker.toml"));
    assert_eq!(locate("x.toml"), Path::new("x.toml"));
    assert_eq!(locate("./worker"), Path::new("./worker"));
}
