//! The whole life of a pod over gRPC, against the real daemon and shim, as root.
//!
//! The network is a bridge if the reference CNI plugins are installed. What a test leaves behind, the next one would trip
//! over: so it counts mounts, cgroups and processes at its end.

#![allow(clippy::unwrap_used)]

mod support;

use cairn_contract::cri;
use std::{collections::HashMap, fs, path::Path};
use support::{
    calls::{
        Client, containers, create, ended, exec, info, output, remove_pod, run, run_pod, status, stop,
        stop_pod, try_create, try_run_pod, try_start,
    },
    node::Node,
    obstacle,
    pods::{self, resources, security},
    unless, until,
};
use tonic::Code;

/// A pod with a name server and a label.
fn sandbox(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let mut config = node.pod(name);
    config.dns_config = Some(cri::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() });
    config.labels.insert("app".into(), name.into());
    config
}

/// A container with limits, under the restrictions that are usual.
fn container(name: &str, script: &str) -> cri::ContainerConfig {
    let mut config = pods::container(name, script);
    config.labels.insert("name".into(), name.into());
    *resources(&mut config) = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 512,
        oom_score_adj: 500,
        ..Default::default()
    };
    security(&mut config).masked_paths = vec!["/proc/kcore".into()];
    security(&mut config).readonly_paths = vec!["/proc/sys".into()];
    config
}

/// Containers that must be refused, each with a word of the reason.
fn unfit() -> Vec<(&'static str, cri::ContainerConfig)> {
    let with = |change: fn(&mut cri::ContainerConfig)| {
        let mut config = container("unfit", "true");
        change(&mut config);
        config
    };
    vec![
        (
            "CDI",
            with(|config| config.cdi_devices = vec![cri::CdiDevice { name: "vendor.com/class=one".into() }]),
        ),
        ("CDI", with(|config| drop(config.annotations.insert("cdi.k8s.io/x".into(), "v.com/c=1".into())))),
        (
            "permissions",
            with(|config| {
                config.devices = vec![cri::Device {
                    container_path: "/dev/null".into(),
                    host_path: "/dev/null".into(),
                    permissions: "rwx".into(),
                }];
            }),
        ),
        (
            "unified",
            with(|config| {
                resources(config).unified.insert("../memory.max".into(), "1".into());
            }),
        ),
    ]
}

async fn pod_stats(client: &mut Client, pod: &str) -> cri::LinuxPodSandboxStats {
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.into() };
    client.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap()
}

/// Metrics, streams, verbose calls and updates of a pod with one running container among ended ones.
async fn tells_all(client: &mut Client, node: &Node, pod: &str, server: &str) {
    let descriptors = client.list_metric_descriptors(cri::ListMetricDescriptorsRequest {}).await.unwrap();
    let descriptors = descriptors.into_inner().descriptors;
    let metrics = client.list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await.unwrap();
    let metrics = metrics.into_inner().pod_metrics;
    let metrics = metrics.iter().find(|metrics| metrics.pod_sandbox_id == pod).unwrap();
    assert_eq!(metrics.container_metrics.len(), 1, "only the running one");
    let of_container = &metrics.container_metrics[0].metrics;
    for metric in metrics.metrics.iter().chain(of_container) {
        let descriptor = descriptors.iter().find(|known| known.name == metric.name).unwrap();
        assert_eq!(descriptor.label_keys.len(), metric.label_values.len(), "{metric:?}");
    }
    let value = |name: &str| {
        let metric = of_container.iter().find(|metric| metric.name == name);
        metric.and_then(|metric| metric.value.as_ref()).unwrap_or_else(|| panic!("{name} is missing")).value
    };
    assert!(value("container_memory_usage_bytes") > 4096 && value("container_processes") >= 1);
    assert!(value("container_file_descriptors") >= 3 && value("container_fs_limit_bytes") > 1 << 20);
    assert!(value("container_start_time_seconds") > 1_600_000_000);
    let received = metrics.metrics.iter().any(|held| held.name == "container_network_receive_bytes_total");
    assert_eq!(received, node.is_bridged());

    let request = cri::StreamContainersRequest::default();
    let mut stream = client.stream_containers(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        streamed.extend(page.containers);
    }
    assert_eq!(streamed, containers(client).await);

    let info = info(client, server).await;
    assert_eq!(info["sandboxID"], pod);
    assert!(info["pid"].as_i64().unwrap() > 1);
    assert!(info["runtimeSpec"]["process"]["args"].is_array());

    let update = |linux, annotations| cri::UpdateContainerResourcesRequest {
        container_id: server.into(),
        linux: Some(linux),
        annotations,
        ..Default::default()
    };
    let score = cri::LinuxContainerResources { oom_score_adj: 600, ..Default::default() };
    client.update_container_resources(update(score.clone(), HashMap::new())).await.unwrap();
    assert_eq!(output(client, server, "cat /proc/1/oom_score_adj").await.trim(), "600");
    let unknown = update(score, HashMap::from([("a".to_owned(), "b".to_owned())]));
    assert_eq!(client.update_container_resources(unknown).await.unwrap_err().code(), Code::InvalidArgument);
    let resources = Some(cri::LinuxContainerResources { cpu_shares: 99, ..Default::default() });
    let request = |pod: &str| cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.into(),
        resources: resources.clone(),
        ..Default::default()
    };
    client.update_pod_sandbox_resources(request(pod)).await.unwrap();
    assert_eq!(client.update_pod_sandbox_resources(request("x")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_and_leaves_nothing() {
    unless!(obstacle());
    let mut node = Node::bridged(&["10.199.7.0/24", "fd00:c7::/64"]);
    let mut client = node.start().await;

    // The runtime introduces itself.
    let state = client.status(cri::StatusRequest { verbose: true }).await.unwrap().into_inner();
    let conditions = state.status.unwrap().conditions;
    for condition in ["RuntimeReady", "NetworkReady"] {
        assert!(conditions.iter().any(|held| held.r#type == condition && held.status), "{conditions:?}");
    }

    // A sandbox, once.
    let pod = run_pod(&mut client, sandbox(&node, "one")).await;
    let refusal = try_run_pod(&mut client, sandbox(&node, "one")).await.unwrap_err();
    assert_eq!(refusal.code(), Code::AlreadyExists);
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let told = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(told.state(), cri::PodSandboxState::SandboxReady);
    if node.is_bridged() {
        let network = told.network.unwrap();
        assert!(network.ip.starts_with("10.199.7."), "{network:?}");
        assert_eq!(network.additional_ips.len(), 1);
    }

    // What would change the node, or cannot be given, is refused and leaves nothing.
    for sysctl in ["kernel.panic", "net/../kernel/panic"] {
        let mut config = sandbox(&node, "refused");
        config.linux.as_mut().unwrap().sysctls.insert(sysctl.into(), "1".into());
        let refusal = try_run_pod(&mut client, config).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{sysctl}: {refusal}");
        assert!(refusal.message().contains(sysctl), "{refusal}");
    }
    for (word, config) in unfit() {
        let refusal = try_create(&mut client, &pod, config).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{word}: {refusal}");
        assert!(refusal.message().contains(word), "{word}: {refusal}");
    }

    // A container that talks and ends.
    let talker =
        run(&mut client, &pod, container("talker", "echo out; echo err >&2; echo -n unfinished; exit 3"))
            .await;
    let end = ended(&mut client, &talker).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (3, "Error"));
    assert!(end.created_at < end.started_at && end.started_at < end.finished_at);
    let log = node.container_log("talker");
    for line in [" stdout F out", " stderr F err", " stdout F unfinished"] {
        assert!(log.lines().any(|held| held.ends_with(line)), "{line} in {log}");
    }

    // A container that stays: who it is, what it sees, what it may.
    let mut config = container("server", "trap 'exit 7' TERM; while :; do sleep 0.1; done");
    security(&mut config).run_as_username = "web".into();
    let server = run(&mut client, &pod, config).await;
    assert_eq!(status(&mut client, &server).await.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(output(&mut client, &server, "id -u; id -G").await, "33\n33 50\n");
    assert_eq!(output(&mut client, &server, "cat /etc/resolv.conf").await, "nameserver 10.0.0.10\n");
    assert_eq!(output(&mut client, &server, "echo $FROM_IMAGE").await, "1\n");
    assert!(output(&mut client, &server, "cat /proc/1/oom_score_adj").await.trim() == "500");
    let refusal = output(&mut client, &server, "echo x > /proc/sys/kernel/hostname").await;
    let words = ["nonexistent directory", "ermission denied", "ead-only"];
    assert!(words.iter().any(|word| refusal.contains(word)), "{refusal}");
    assert_eq!(output(&mut client, &server, "hostname").await, "host-one\n");
    if node.is_bridged() {
        assert!(output(&mut client, &server, "ip addr show eth0").await.contains("10.199.7."));
        assert!(output(&mut client, &server, "ip addr show lo").await.contains("127.0.0.1"));
    }
    // A command in a container is under the same filter and capabilities as the container.
    let confinement =
        output(&mut client, &server, "grep -E 'Seccomp:|CapEff' /proc/self/status | tr '\\t\\n' '  '").await;
    assert!(
        confinement.contains("Seccomp: 2") && confinement.contains("CapEff: 0000000000000000"),
        "{confinement}"
    );
    assert_eq!(exec(&mut client, &server, &["sh", "-c", "exit 5"]).await.exit_code, 5);
    let big = exec(&mut client, &server, &["sh", "-c", "dd if=/dev/zero bs=1M count=17 2>/dev/null"]).await;
    assert_eq!(big.stdout.len(), 16 << 20, "capped");
    let slow = cri::ExecSyncRequest {
        container_id: server.clone(),
        cmd: vec!["sleep".into(), "20".into()],
        timeout: 1,
    };
    assert_eq!(client.exec_sync(slow).await.unwrap_err().code(), Code::DeadlineExceeded);
    let absent =
        cri::ExecSyncRequest { container_id: server.clone(), cmd: vec!["absent".into()], timeout: 5 };
    let absent = client.exec_sync(absent).await.unwrap_err();
    assert!(absent.message().contains("absent"), "{absent}");

    // Limits and measurements.
    let update = cri::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: server.clone(),
        linux: Some(update),
        ..Default::default()
    };
    client.update_container_resources(request).await.unwrap();
    let limits = status(&mut client, &server).await.resources.unwrap().linux.unwrap();
    assert_eq!((limits.memory_limit_in_bytes, limits.cpu_shares), (96 << 20, 512));
    let request = cri::ContainerStatsRequest { container_id: server.clone() };
    let stats = client.container_stats(request).await.unwrap().into_inner().stats.unwrap();
    let available = stats.memory.as_ref().unwrap().available_bytes.as_ref().unwrap().value;
    assert!(available > 64 << 20 && available <= 96 << 20, "the limit is in force: {available}");
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let stats = pod_stats(&mut client, &pod).await;
    assert_eq!(stats.containers.len(), 1);
    assert!(stats.network.is_some());
    tells_all(&mut client, &node, &pod, &server).await;

    // Too much memory.
    let hog = "exec dd if=/dev/zero of=/dev/null bs=200M count=1";
    let hog = run(&mut client, &pod, container("hog", hog)).await;
    let end = ended(&mut client, &hog).await;
    assert_eq!(end.reason, "OOMKilled", "{end:?}");

    // A program that is not there.
    let id = create(
        &mut client,
        &pod,
        cri::ContainerConfig { command: vec!["/nowhere".into()], ..container("broken", "") },
    )
    .await;
    let error = try_start(&mut client, &id).await.unwrap_err();
    assert!(error.message().contains("/nowhere"), "{error}");
    let end = status(&mut client, &id).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (128, "StartError"));

    // Lists.
    let filter = |state: cri::ContainerState| cri::ListContainersRequest {
        filter: Some(cri::ContainerFilter {
            state: Some(cri::ContainerStateValue { state: state.into() }),
            pod_sandbox_id: pod[..12].to_owned(),
            ..Default::default()
        }),
    };
    let running =
        client.list_containers(filter(cri::ContainerState::ContainerRunning)).await.unwrap().into_inner();
    assert_eq!(running.containers.iter().map(|held| &held.id).collect::<Vec<_>>(), [&server]);
    let exited =
        client.list_containers(filter(cri::ContainerState::ContainerExited)).await.unwrap().into_inner();
    assert_eq!(exited.containers.len(), 3);

    // The daemon dies; what runs, runs on; what ends meanwhile is not forgotten.
    let brief = run(&mut client, &pod, container("brief", "sleep 1; echo after; exit 9")).await;
    node.kill();
    let wrote = || node.container_log("brief").contains("stdout F after");
    let runs = || node.processes().iter().any(|process| process.line.contains("echo after"));
    until(async || (wrote() && !runs()).then_some(()), || format!("{:#?}", node.processes())).await;
    let mut client = node.start().await;
    assert_eq!(status(&mut client, &server).await.state(), cri::ContainerState::ContainerRunning);
    let end = status(&mut client, &brief).await;
    assert_eq!((end.state(), end.exit_code), (cri::ContainerState::ContainerExited, 9));
    assert_eq!(output(&mut client, &server, "echo still here").await, "still here\n");

    // Logs are rotated.
    let chatter =
        run(&mut client, &pod, container("chatter", "while :; do echo tick; sleep 0.1; done")).await;
    let (log, rotated) = (node.path("logs/chatter.log"), node.path("logs/chatter.log.1"));
    let ticks = |path: &Path| fs::read_to_string(path).is_ok_and(|text| text.contains("tick"));
    let ticked = async || ticks(&log).then_some(());
    until(&ticked, || "no log is written".to_owned()).await;
    fs::rename(&log, &rotated).unwrap();
    client
        .reopen_container_log(cri::ReopenContainerLogRequest { container_id: chatter.clone() })
        .await
        .unwrap();
    until(&ticked, || "no new log is written".to_owned()).await;
    assert!(ticks(&rotated));

    // Stopping asks first, and kills who does not listen.
    stop(&mut client, &server, 10).await;
    assert_eq!(status(&mut client, &server).await.exit_code, 7);
    stop(&mut client, &chatter, 0).await;
    assert_eq!(status(&mut client, &chatter).await.exit_code, 137);
    stop(&mut client, &chatter, 0).await;
    stop(&mut client, "none", 0).await;
    let missing = cri::ContainerStatusRequest { container_id: "none".into(), verbose: false };
    assert_eq!(client.container_status(missing).await.unwrap_err().code(), Code::NotFound);

    // Everything goes, twice over.
    client.remove_container(cri::RemoveContainerRequest { container_id: talker.clone() }).await.unwrap();
    client.remove_container(cri::RemoveContainerRequest { container_id: talker }).await.unwrap();
    let last = run(&mut client, &pod, container("last", "while :; do sleep 1; done")).await;
    for _ in 0..2 {
        stop_pod(&mut client, &pod).await;
    }
    assert_eq!(status(&mut client, &last).await.exit_code, 137);
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let told = client.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(told.state(), cri::PodSandboxState::SandboxNotready);
    for _ in 0..2 {
        remove_pod(&mut client, &pod).await;
    }
    assert_eq!(containers(&mut client).await, []);
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_pid_namespace_and_a_dead_shim() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    let options = cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..Default::default() };
    let pod = run_pod(&mut client, node.pod_in("shared", &options)).await;
    let shared = |name: &str| {
        let mut config = container(name, "while :; do sleep 1; done");
        security(&mut config).namespace_options = Some(options.clone());
        config
    };
    let first = run(&mut client, &pod, shared("first")).await;
    let second = run(&mut client, &pod, shared("second")).await;
    let namespace = output(&mut client, &first, "readlink /proc/self/ns/pid").await;
    assert_eq!(namespace, output(&mut client, &second, "readlink /proc/self/ns/pid").await);
    let processes = output(&mut client, &first, "cat /proc/1/cmdline | tr '\\0' ' '").await;
    assert!(processes.contains("pause"), "{processes}");
    let stats = pod_stats(&mut client, &pod).await;
    assert!(stats.network.is_none(), "the node's network is not the pod's: {:?}", stats.network);

    // The shim is killed: its pod goes with it, and says so.
    let setup = node.path("r/pods").join(&pod).join("setup.json").display().to_string();
    let shim = node.processes().into_iter().find(|process| process.line.contains(&setup));
    rustix::process::kill_process(shim.unwrap().pid, rustix::process::Signal::KILL).unwrap();
    let end = ended(&mut client, &first).await;
    assert_eq!((end.exit_code, end.reason.as_str()), (255, "ShimDied"));
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}
