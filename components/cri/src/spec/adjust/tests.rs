use super::*;
use cairn_nri::api::{
    LinuxDevice, LinuxIoPriority, LinuxMemory, LinuxNetDevice, LinuxPids, LinuxResources, LinuxSeccompArg,
    OptionalBool, OptionalInt, OptionalInt64, OptionalString, OptionalUInt64,
};

fn draft() -> Draft {
    let spec = serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "process": { "args": ["run"], "env": ["A=1", "B=2"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "annotations": { "keep": "1", "drop": "1" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/data/below", "type": "bind", "source": "/x" },
            { "destination": "/gone", "type": "bind", "source": "/x" }
        ],
        "linux": {
            "cgroupsPath": "/pods/p/c",
            "rootfsPropagation": "slave",
            "namespaces": [{ "type": "mount" }, { "type": "network", "path": "/ns/net" }, { "type": "pid" }],
            "resources": { "devices": [{ "allow": false, "type": "a", "access": "rwm" }] }
        }
    }));
    Draft { spec: spec.unwrap(), resources: Resources::default(), shares_pids: false }
}

const POD: Surroundings = Surroundings {
    own: OwnNamespaces { network: true, ipc: true, uts: true },
    users: false,
    layout: Layout::Unified,
};

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment { linux: Some(linux), ..Default::default() }
}

fn resources(resources: LinuxResources) -> ContainerAdjustment {
    linux(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() })
}

fn json_of(wanted: &ContainerAdjustment) -> Value {
    let mut draft = draft();
    draft.adjust(wanted, &POD).unwrap();
    serde_json::to_value(&draft.spec).unwrap()
}

#[test]
fn process_and_annotations() {
    let variable = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    let spec = json_of(&ContainerAdjustment {
        annotations: [("-drop".to_owned(), String::new()), ("new".to_owned(), "2".to_owned())].into(),
        env: vec![variable("A", "9"), variable("-B", ""), variable("C", "3")],
        args: vec!["wrap".into(), "run".into()],
        rlimits: vec![PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 9, soft: 8 }],
        ..Default::default()
    });
    assert_eq!(spec["annotations"], json!({ "keep": "1", "new": "2" }));
    assert_eq!(spec["process"]["env"], json!(["A=9", "C=3"]));
    assert_eq!(spec["process"]["args"], json!(["wrap", "run"]));
    assert_eq!(spec["process"]["rlimits"], json!([{ "type": "RLIMIT_NOFILE", "hard": 9, "soft": 8 }]));
}

#[test]
fn a_mount_above_others_comes_before_them() {
    let mount = |destination: &str| Mount {
        destination: destination.into(),
        r#type: "bind".into(),
        source: "/s".into(),
        options: vec!["rbind".into(), "relabel".into()],
    };
    let removed = Mount { destination: "-/gone".into(), ..Default::default() };
    let spec = json_of(&ContainerAdjustment { mounts: vec![mount("/data"), removed], ..Default::default() });
    let places: Vec<&str> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["/proc", "/data", "/data/below"]);
    assert_eq!(spec["mounts"][1]["options"], json!(["rbind"]));
}

#[test]
fn hooks_that_run_on_the_node_are_taken() {
    let hook = |path: &str| Hook {
        path: path.into(),
        args: vec!["name".into(), "x".into()],
        timeout: Some(OptionalInt { value: 5 }),
        ..Default::default()
    };
    let hooks = Hooks { create_runtime: vec![hook("/a")], poststop: vec![hook("/b")], ..Default::default() };
    let spec = json_of(&ContainerAdjustment { hooks: Some(hooks), ..Default::default() });
    assert_eq!(
        spec["hooks"]["createRuntime"],
        json!([{ "path": "/a", "args": ["name", "x"], "timeout": 5 }])
    );
    assert_eq!(spec["hooks"]["poststop"][0]["path"], "/b");
}

#[test]
fn linux_parts() {
    let device =
        LinuxDevice { path: "/dev/x".into(), r#type: "c".into(), major: 1, minor: 3, ..Default::default() };
    let namespace = |kind: &str, path: &str| LinuxNamespace { r#type: kind.into(), path: path.into() };
    let rule = LinuxSyscall {
        names: vec!["mount".into()],
        action: "SCMP_ACT_ERRNO".into(),
        args: vec![LinuxSeccompArg { index: 1, value: 2, value_two: 3, op: "SCMP_CMP_EQ".into() }],
        ..Default::default()
    };
    let spec = json_of(&linux(LinuxContainerAdjustment {
        devices: vec![device],
        cgroups_path: "/pods/p/c".into(),
        io_priority: Some(LinuxIoPriority { class: 3, priority: 0 }),
        scheduler: Some(LinuxScheduler { policy: 4, nice: 5, ..Default::default() }),
        seccomp_policy: Some(LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            architectures: vec!["SCMP_ARCH_X86_64".into()],
            syscalls: vec![rule],
            ..Default::default()
        }),
        namespaces: vec![namespace("network", "/other"), namespace("-uts", "")],
        sysctl: [("net.core.somaxconn".to_owned(), "5".to_owned())].into(),
        net_devices: [("eth7".to_owned(), LinuxNetDevice { name: "net1".into() })].into(),
        memory_policy: Some(LinuxMemoryPolicy { mode: 2, nodes: "0".into(), flags: vec![] }),
        ..Default::default()
    }));
    let linux = &spec["linux"];
    assert_eq!((&linux["devices"][0]["path"], &linux["devices"][0]["minor"]), (&json!("/dev/x"), &json!(3)));
    let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" });
    assert_eq!(linux["resources"]["devices"][1], rule);
    assert_eq!(spec["process"]["ioPriority"], json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 }));
    assert_eq!(
        (&spec["process"]["scheduler"]["policy"], &spec["process"]["scheduler"]["nice"]),
        (&json!("SCHED_BATCH"), &json!(5))
    );
    assert_eq!(
        (&linux["seccomp"]["defaultAction"], &linux["seccomp"]["syscalls"][0]["args"][0]["valueTwo"]),
        (&json!("SCMP_ACT_ALLOW"), &json!(3))
    );
    assert!(
        linux["namespaces"].as_array().unwrap().contains(&json!({ "type": "network", "path": "/other" }))
    );
    assert_eq!(linux["sysctl"], json!({ "net.core.somaxconn": "5" }));
    assert_eq!(linux["netDevices"], json!({ "eth7": { "name": "net1" } }));
    assert_eq!(
        (&linux["memoryPolicy"]["mode"], &linux["memoryPolicy"]["nodes"]),
        (&json!("MPOL_BIND"), &json!("0"))
    );
}

#[test]
fn limits_and_scores_are_the_runtimes() {
    let mut made = draft();
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value: 64 << 20 }), ..Default::default() };
    let limits = LinuxResources {
        memory: Some(memory),
        pids: Some(LinuxPids { limit: 20 }),
        unified: [("memory.high".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let mut wanted = resources(limits);
    wanted.linux.as_mut().unwrap().oom_score_adj = Some(OptionalInt { value: 500 });
    wanted.linux.as_mut().unwrap().namespaces =
        vec![LinuxNamespace { r#type: "-pid".into(), path: String::new() }];
    made.adjust(&wanted, &POD).unwrap();
    let held = &made.resources;
    assert_eq!((held.memory_limit, held.memory_swap_limit, held.pids_limit), (64 << 20, 64 << 20, 20));
    assert_eq!((held.oom_score_adj, made.shares_pids), (500, true));
    let v1 = Surroundings { layout: Layout::PerController, ..POD };
    assert!(draft().adjust(&wanted, &v1).unwrap_err().to_string().contains("cgroup v1"));
}

/// What cannot be done is refused, and the text says what.
#[test]
fn nothing_is_left_out_in_silence() {
    let memory = |memory| resources(LinuxResources { memory: Some(memory), ..Default::default() });
    let class = || Some(OptionalString { value: "gold".into() });
    let namespace = |kind: &str| {
        linux(LinuxContainerAdjustment {
            namespaces: vec![LinuxNamespace { r#type: kind.into(), path: "/x".into() }],
            ..Default::default()
        })
    };
    let cases = [
        (
            "startContainer",
            ContainerAdjustment {
                hooks: Some(Hooks { start_container: vec![Hook::default()], ..Default::default() }),
                ..Default::default()
            },
        ),
        (
            "not an absolute path",
            ContainerAdjustment {
                hooks: Some(Hooks {
                    prestart: vec![Hook { path: "x".into(), ..Default::default() }],
                    ..Default::default()
                }),
                ..Default::default()
            },
        ),
        (
            "destination",
            ContainerAdjustment {
                mounts: vec![Mount { destination: "x".into(), ..Default::default() }],
                ..Default::default()
            },
        ),
        (
            "rlimit RLIMIT_X",
            ContainerAdjustment {
                rlimits: vec![PosixRlimit { r#type: "RLIMIT_X".into(), hard: 1, soft: 1 }],
                ..Default::default()
            },
        ),
        (
            "above the hard one",
            ContainerAdjustment {
                rlimits: vec![PosixRlimit { r#type: "RLIMIT_CORE".into(), hard: 1, soft: 2 }],
                ..Default::default()
            },
        ),
        (
            "cgroups_path",
            linux(LinuxContainerAdjustment { cgroups_path: "/else".into(), ..Default::default() }),
        ),
        (
            "oom_score_adj",
            linux(LinuxContainerAdjustment {
                oom_score_adj: Some(OptionalInt { value: 2000 }),
                ..Default::default()
            }),
        ),
        ("blockio", resources(LinuxResources { blockio_class: class(), ..Default::default() })),
        ("RDT", resources(LinuxResources { rdt_class: class(), ..Default::default() })),
        (
            "RDT",
            linux(LinuxContainerAdjustment {
                rdt: Some(LinuxRdt { clos_id: class(), ..Default::default() }),
                ..Default::default()
            }),
        ),
        (
            "swappiness",
            memory(LinuxMemory { swappiness: Some(OptionalUInt64 { value: 1 }), ..Default::default() }),
        ),
        (
            "disable_oom_killer",
            memory(LinuxMemory {
                disable_oom_killer: Some(OptionalBool { value: true }),
                ..Default::default()
            }),
        ),
        (
            "unified",
            resources(LinuxResources {
                unified: [("../x.y".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            }),
        ),
        (
            "listener",
            linux(LinuxContainerAdjustment {
                seccomp_policy: Some(LinuxSeccomp {
                    default_action: "SCMP_ACT_NOTIFY".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        ),
        (
            "seccomp",
            linux(LinuxContainerAdjustment {
                seccomp_policy: Some(LinuxSeccomp {
                    default_action: "SCMP_ACT_X".into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        ),
        ("users", namespace("user")),
        ("mounts of its own", namespace("mount")),
        ("time", namespace("time")),
        ("unknown namespace", namespace("x")),
        (
            "not namespaced",
            linux(LinuxContainerAdjustment {
                sysctl: [("vm.swappiness".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            }),
        ),
        (
            "device /dev/x",
            linux(LinuxContainerAdjustment {
                devices: vec![LinuxDevice {
                    path: "/dev/x".into(),
                    r#type: "z".into(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
        ),
    ];
    for (word, wanted) in cases {
        let error = draft().adjust(&wanted, &POD).unwrap_err().to_string();
        assert!(error.starts_with("NRI adjustment of ") && error.contains(word), "{word}: {error}");
    }
    let node_network = Surroundings { own: OwnNamespaces { network: false, ..POD.own }, ..POD };
    let device = linux(LinuxContainerAdjustment {
        net_devices: [("eth7".to_owned(), LinuxNetDevice::default())].into(),
        ..Default::default()
    });
    assert!(draft().adjust(&device, &node_network).unwrap_err().to_string().contains("eth7"));
}
