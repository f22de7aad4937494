//! NRI plugins and the real daemon, as root: what plugins are told, and what containers see of what they want.
#![allow(clippy::unwrap_used)]

mod plugin;
#[path = "../support/mod.rs"]
mod support;

use cairn_contract::cri;
use cairn_nri::api::{
    ContainerAdjustment, ContainerEviction, ContainerUpdate, Hook, Hooks, KeyValue, LinuxContainerAdjustment,
    LinuxContainerUpdate, LinuxDevice, LinuxIoPriority, LinuxMemory, LinuxNetDevice, LinuxPids,
    LinuxResources, LinuxScheduler, LinuxSeccomp, LinuxSyscall, Mount, OptionalInt, OptionalInt64,
    OptionalUInt32, PosixRlimit, UpdateContainersRequest,
};
use plugin::Plugin;
use std::{fs, path::Path, process::Command};
use support::{
    calls::{containers, create, ended, remove_pod, run_pod, start, stop, stop_pod, try_create},
    node::Node,
    obstacle,
    pods::{self, resources},
    unless, until,
};

/// A container with what plugins may change.
fn container(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = pods::container(name, script);
    config.envs = vec![cri::KeyValue { key: "FROM_POD".into(), value: b"1".to_vec() }];
    resources(&mut config).memory_limit_in_bytes = 64 << 20;
    resources(&mut config).oom_score_adj = 500;
    config
}

/// What a container wrote, without the log's columns.
fn written(node: &Node, name: &str) -> String {
    let log = node.container_log(name);
    let lines = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
    lines.fold(String::new(), |all, line| all + line + "\n")
}

/// A file of a container's cgroup, under either of its names.
fn limit(node: &Node, pod: &str, container: &str, names: [&str; 2]) -> String {
    let base = Path::new("/sys/fs/cgroup");
    let below = format!("{}/cairn-{pod}/{container}", node.cgroup().trim_start_matches('/'));
    let [unified, legacy] = names;
    let controller = if legacy.starts_with("pids") { "pids" } else { "memory" };
    let places = [base.join(&below).join(unified), base.join(controller).join(&below).join(legacy)];
    let found = places.iter().find_map(|place| fs::read_to_string(place).ok());
    found.unwrap_or_else(|| panic!("none of {places:?}")).trim().to_owned()
}

fn memory(bytes: i64) -> LinuxResources {
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value: bytes }), ..Default::default() };
    LinuxResources { memory: Some(memory), ..Default::default() }
}

fn nothing() -> plugin::Adjust {
    Box::new(|_| Ok(ContainerAdjustment::default()))
}

#[tokio::test]
async fn a_container_is_as_a_plugin_wants_it() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    fs::write(node.path("given"), "from a plugin\n").unwrap();
    let hook = |name: &str| {
        let marker = node.path(&format!("{name}.ran"));
        let text = format!("#!/bin/sh\ncat > {}\n", marker.display());
        let path = node.program(&format!("hooks/{name}"), &text).display().to_string();
        vec![Hook { path, ..Default::default() }]
    };
    let names = ["createRuntime", "createContainer", "poststart", "poststop"];
    let [create_runtime, create_container, poststart, poststop] = names.map(hook);
    let adjustment = ContainerAdjustment {
        env: vec![
            KeyValue { key: "-FROM_POD".into(), value: String::new() },
            KeyValue { key: "FROM_PLUGIN".into(), value: "2".into() },
        ],
        mounts: vec![
            Mount {
                destination: "/given".into(),
                r#type: "bind".into(),
                source: node.path("given").display().to_string(),
                options: vec!["bind".into(), "ro".into()],
            },
            Mount { destination: "-/dev/mqueue".into(), ..Default::default() },
        ],
        annotations: [("plugin".to_owned(), "was here".to_owned())].into(),
        hooks: Some(Hooks { create_runtime, create_container, poststart, poststop, ..Default::default() }),
        rlimits: vec![PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 77, soft: 66 }],
        linux: Some(LinuxContainerAdjustment {
            devices: vec![LinuxDevice {
                path: "/dev/nothing".into(),
                r#type: "c".into(),
                major: 1,
                minor: 3,
                ..Default::default()
            }],
            resources: Some(LinuxResources { pids: Some(LinuxPids { limit: 40 }), ..memory(96 << 20) }),
            oom_score_adj: Some(OptionalInt { value: 300 }),
            io_priority: Some(LinuxIoPriority { class: 3, priority: 0 }),
            scheduler: Some(LinuxScheduler { policy: 4, nice: 7, ..Default::default() }),
            sysctl: [("net.core.somaxconn".to_owned(), "77".to_owned())].into(),
            seccomp_policy: Some(LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                architectures: vec!["SCMP_ARCH_X86_64".into()],
                syscalls: vec![LinuxSyscall {
                    names: vec!["mkdir".into(), "mkdirat".into()],
                    action: "SCMP_ACT_ERRNO".into(),
                    errno_ret: Some(OptionalUInt32 { value: 38 }),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let wanted = adjustment.clone();
    let plugin = Plugin::connect(&node.path("nri.sock"), "all", Box::new(move |_| Ok(wanted.clone()))).await;
    let pod = run_pod(&mut client, node.pod("a")).await;
    let script = "exec 2>&1; echo pod=$FROM_POD plugin=$FROM_PLUGIN; cat /given; ls -d /dev/mqueue; ulimit -n; ulimit -Hn; \
                  : > /dev/nothing && echo device; cat /proc/self/oom_score_adj; ionice; \
                  cat /proc/sys/net/core/somaxconn; mkdir /x; stat -c %t:%T /dev/nothing; \
                  set -- $(cat /proc/self/stat); echo nice ${19} policy ${41}; sleep 600";
    let id = create(&mut client, &pod, container("all", script)).await;
    start(&mut client, &id).await;
    plugin.wait_for(&format!("PostStartContainer {id}")).await;
    until(async || written(&node, "all").contains("policy").then_some(()), || node.log()).await;
    let output = written(&node, "all");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(
        lines,
        [
            "pod= plugin=2",
            "from a plugin",
            "ls: /dev/mqueue: No such file or directory",
            "66",
            "77",
            "device",
            "300",
            "idle",
            "77",
            "mkdir: can't create directory '/x': Function not implemented",
            "1:3",
            "nice 7 policy 3",
        ],
        "{}",
        node.log()
    );
    let memory_limit = limit(&node, &pod, &id, ["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory_limit, (96 << 20).to_string());
    assert_eq!(limit(&node, &pod, &id, ["pids.max", "pids.max"]), "40");
    for name in ["createRuntime", "createContainer", "poststart"] {
        let state = fs::read_to_string(node.path(&format!("{name}.ran"))).unwrap();
        // One that runs inside the container is told of no process: libcontainer does not know it yet.
        let process = name == "createContainer" || state.contains("\"pid\"");
        assert!(state.contains(&id) && process, "{name}: {state}");
    }
    assert!(!node.path("poststop.ran").exists());
    stop(&mut client, &id, 0).await;
    let told = || fs::read_to_string(node.path("poststop.ran")).unwrap_or_default();
    until(async || told().contains("stopped").then_some(()), || format!("told: {}\n{}", told(), node.log()))
        .await;
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test]
async fn a_network_device_moves_into_the_pod() {
    unless!(obstacle());
    let device = format!("nri{}", std::process::id());
    if !Command::new("ip")
        .args(["link", "add", &device, "type", "dummy"])
        .status()
        .is_ok_and(|made| made.success())
    {
        eprintln!("skipped: cannot make a dummy network device");
        return;
    }
    let mut node = Node::new();
    let mut client = node.start().await;
    let name = device.clone();
    let adjust: plugin::Adjust = Box::new(move |_| {
        let moved = LinuxNetDevice { name: "net7".into() };
        let linux =
            LinuxContainerAdjustment { net_devices: [(name.clone(), moved)].into(), ..Default::default() };
        Ok(ContainerAdjustment { linux: Some(linux), ..Default::default() })
    });
    let _plugin = Plugin::connect(&node.path("nri.sock"), "net", adjust).await;
    let pod = run_pod(&mut client, node.pod("a")).await;
    let id = create(&mut client, &pod, container("net", "cat /proc/net/dev")).await;
    start(&mut client, &id).await;
    assert_eq!(ended(&mut client, &id).await.exit_code, 0);
    let output = written(&node, "net");
    assert!(output.contains("net7:") && !output.contains(&device), "{output}");
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test]
async fn plugins_are_told_of_a_whole_life_once() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    let plugin = Plugin::connect(&node.path("nri.sock"), "life", nothing()).await;
    let pod = run_pod(&mut client, node.pod("a")).await;
    let id = create(&mut client, &pod, container("ends", "exit 3")).await;
    start(&mut client, &id).await;
    assert_eq!(ended(&mut client, &id).await.exit_code, 3);
    // Nobody asks for it to be stopped.
    plugin.wait_for(&format!("StopContainer {id}")).await;
    for _ in 0..2 {
        stop(&mut client, &id, 0).await;
        stop_pod(&mut client, &pod).await;
    }
    let refused = try_create(&mut client, &pod, container("late", "true")).await.unwrap_err();
    assert!(refused.message().contains("not ready"), "{refused}");
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
    let mut expected: Vec<String> =
        ["CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer"]
            .map(|method| format!("{method} {id}"))
            .into();
    expected.insert(0, format!("RunPodSandbox {pod}"));
    expected.extend([
        format!("StopContainer {id}"),
        format!("StopPodSandbox {pod}"),
        format!("RemoveContainer {id}"),
        format!("RemovePodSandbox {pod}"),
    ]);
    let mut told = plugin.told();
    // It may end before its start has been told to the end.
    let early = format!("PostStartContainer {id}");
    told.retain(|what| *what != early);
    expected.retain(|what| *what != early);
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_cannot_be_done_fails_the_creation_and_leaves_nothing() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    let mut count = 0;
    let adjust: plugin::Adjust = Box::new(move |_| {
        count += 1;
        let linux = LinuxContainerAdjustment { cgroups_path: "/elsewhere".into(), ..Default::default() };
        match count {
            1 => Err("not this one".to_owned()),
            2 => Ok(ContainerAdjustment { linux: Some(linux), ..Default::default() }),
            _ => Ok(ContainerAdjustment::default()),
        }
    });
    let plugin = Plugin::connect(&node.path("nri.sock"), "no", adjust).await;
    let pod = run_pod(&mut client, node.pod("a")).await;
    for word in ["10-no fails CreateContainer: not this one", "NRI adjustment of cgroups_path"] {
        let refused = try_create(&mut client, &pod, container("x", "true")).await.unwrap_err();
        assert!(refused.message().contains(word), "{refused}");
        assert_eq!(containers(&mut client).await, []);
        assert_eq!(fs::read_dir(node.path("r/containers")).unwrap().count(), 0);
    }
    let id = create(&mut client, &pod, container("x", "true")).await;
    let told = plugin.told();
    let of = |method: &str| told.iter().filter(|what| what.starts_with(method)).count();
    assert_eq!(
        (of("CreateContainer"), of("RemoveContainer"), of("PostCreateContainer")),
        (3, 2, 1),
        "{told:?}"
    );
    assert!(told.contains(&format!("PostCreateContainer {id}")));
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test]
async fn a_plugin_updates_and_evicts_and_finds_its_containers_again() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    let plugin = Plugin::connect(&node.path("nri.sock"), "own", nothing()).await;
    let pod = run_pod(&mut client, node.pod("a")).await;
    let id = create(&mut client, &pod, container("runs", "sleep 600")).await;
    start(&mut client, &id).await;
    let update = |container: &str, resources| ContainerUpdate {
        container_id: container.into(),
        linux: Some(LinuxContainerUpdate { resources: Some(resources) }),
        ignore_failure: false,
    };
    let swappy = LinuxResources {
        memory: Some(LinuxMemory { swappiness: Some(Default::default()), ..Default::default() }),
        ..Default::default()
    };
    let wanted = vec![update(&id, memory(80 << 20)), update(&id, swappy.clone())];
    let answer = plugin.update(UpdateContainersRequest { update: wanted, evict: vec![] }).await;
    assert_eq!(answer.failed, [update(&id, swappy)], "what cannot be done is told");
    let memory_limit = || limit(&node, &pod, &id, ["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory_limit(), (80 << 20).to_string());

    plugin.leave();
    node.kill();
    let mut client = node.start().await;
    let plugin = Plugin::connect(&node.path("nri.sock"), "own", nothing()).await;
    assert_eq!(plugin.synchronized(), [pod.clone(), id.clone()]);
    let evict = vec![ContainerEviction { container_id: id.clone(), reason: "test".into() }];
    plugin.update(UpdateContainersRequest { update: vec![], evict }).await;
    assert_eq!(ended(&mut client, &id).await.exit_code, 137);
    plugin.wait_for(&format!("StopContainer {id}")).await;
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}
