//! What a container may and may not do, over gRPC, against the real daemon and shim, as root.
//!
//! The pods have network namespaces of their own, but no network: the CNI plugin is a script that claims an address.

#![allow(clippy::unwrap_used)]

mod support;

use cairn_contract::cri;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use support::{
    calls::{has_user_namespaces, info, output, remove_pod, run, run_pod, try_create, try_run_pod},
    image::IMAGE,
    node::Node,
    obstacle,
    pods::{container_in, own_pids, security},
    unless,
};
use tonic::Code;

/// First id and length of the user namespaces here.
const RANGE: (u32, u32) = (300_000, 65_536);

/// Namespaces of a pod with users of its own.
fn own_users() -> cri::NamespaceOption {
    cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: mapping(),
            gids: mapping(),
        }),
        ..own_pids()
    }
}

fn mapping() -> Vec<cri::IdMapping> {
    vec![cri::IdMapping { host_id: RANGE.0, container_id: 0, length: RANGE.1 }]
}

/// A container that stays, under the restrictions that are usual.
fn container(name: &str, options: &cri::NamespaceOption) -> cri::ContainerConfig {
    let mut config = container_in(name, options, "echo started; while :; do sleep 1; done");
    security(&mut config).masked_paths = vec!["/proc/version".into(), "/proc/bus".into()];
    security(&mut config).readonly_paths = vec!["/proc/sys".into()];
    config
}

fn volume(host: &Path, at: &str) -> cri::Mount {
    cri::Mount { host_path: host.display().to_string(), container_path: at.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_of_a_user_namespace_is_nobody_on_the_node() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    unless!((!has_user_namespaces(&mut client).await).then(|| node.log()));
    let options = own_users();
    let mut config = node.pod_in("users", &options);
    let linux = config.linux.as_mut().unwrap();
    for (name, value) in
        [("net.core.somaxconn", "77"), ("kernel.shm_rmid_forced", "1"), ("fs.mqueue.msg_max", "9")]
    {
        linux.sysctls.insert(name.into(), value.into());
    }
    let pod = run_pod(&mut client, config).await;

    // A volume that belongs to the node's root, behind a directory only that root may pass.
    let volume_path = node.path("closed/volume");
    fs::create_dir_all(&volume_path).unwrap();
    fs::set_permissions(node.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(volume_path.join("of-root"), "kept").unwrap();
    fs::set_permissions(volume_path.join("of-root"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = container("server", &options);
    config.mounts = vec![
        cri::Mount { uid_mappings: mapping(), gid_mappings: mapping(), ..volume(&volume_path, "/mapped") },
        volume(&volume_path, "/plain"),
    ];
    config.devices = vec![cri::Device {
        host_path: "/dev/zero".into(),
        container_path: "/dev/lent".into(),
        permissions: "r".into(),
    }];
    let server = run(&mut client, &pod, config).await;

    assert_eq!(output(&mut client, &server, "id -u; id -g").await, "0\n0\n");
    let map = output(&mut client, &server, "cat /proc/self/uid_map").await;
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "300000", "65536"]);
    // On the node it is nobody in particular.
    let process = fs::metadata(format!("/proc/{}", info(&mut client, &server).await["pid"])).unwrap();
    assert_eq!((process.uid(), process.gid()), RANGE_ROOT);
    // Its files are its own: the image's, the volume's, and what it makes.
    assert_eq!(
        output(
            &mut client,
            &server,
            "stat -c %u /bin/busybox /srv/web/index /mapped/of-root /plain/of-root / /etc/hostname"
        )
        .await,
        "0\n33\n0\n65534\n0\n0\n"
    );
    assert_eq!(output(&mut client, &server, "cat /mapped/of-root").await, "kept");
    assert!(output(&mut client, &server, "cat /plain/of-root").await.contains("ermission denied"));
    assert_eq!(
        output(&mut client, &server, "touch /mapped/made /made && chown 33:33 /mapped/made").await,
        ""
    );
    let made = fs::metadata(volume_path.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (33, 33), "the pod's ids are nowhere on disk");
    assert_eq!(
        output(&mut client, &server, "echo more >> /srv/web/index; stat -c %u /srv/web/index").await,
        "33\n"
    );
    // The kernel's file systems and the pod's namespaces are there, and are its.
    assert_eq!(output(&mut client, &server, "hostname").await, "host-users\n");
    assert_eq!(
        output(
            &mut client,
            &server,
            "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max"
        )
        .await,
        "77\n1\n9\n"
    );
    assert_eq!(output(&mut client, &server, "ls /sys/class/net").await, "lo\n");
    assert_eq!(
        output(&mut client, &server, "dd if=/dev/lent bs=4 count=1 2>/dev/null | wc -c; echo x > /dev/null")
            .await,
        "4\n"
    );
    assert_eq!(output(&mut client, &server, "echo x > /dev/shm/x && stat -c %u /dev/shm").await, "0\n");
    assert!(output(&mut client, &server, "echo 1 > /proc/sys/kernel/panic").await.contains("ead-only"));
    assert_eq!(output(&mut client, &server, "wc -c < /proc/version").await, "0\n");
    assert_eq!(node.container_log("server").matches("stdout F started").count(), 1);
    // What was staged for it is gone.
    let staged = |line: &&str| {
        line.split(' ').nth(1).is_some_and(|place| place.contains("/mounts/") || place.contains("/layers/"))
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let base = node.base().to_str().unwrap();
    assert_eq!(mounts.lines().filter(|line| line.contains(base)).filter(staged).count(), 0, "{mounts}");

    // Another user, a read-only root, a terminal.
    let mut config = container("web", &options);
    config.tty = true;
    let security = security(&mut config);
    security.run_as_username = "web".into();
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    let web = run(&mut client, &pod, config).await;
    assert_eq!(output(&mut client, &web, "id -u; stat -c %u /proc/1").await, "33\n33\n");
    assert!(output(&mut client, &web, "touch /tmp/x").await.contains("ead-only"));

    // A new daemon finds all of it.
    node.kill();
    let mut client = node.start().await;
    assert_eq!(output(&mut client, &server, "cat /mapped/of-root").await, "kept");

    // What cannot be is refused.
    for (word, config) in misfits() {
        let refusal = try_create(&mut client, &pod, config).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{word}: {refusal}");
        assert!(refusal.message().contains(word), "{word}: {refusal}");
    }
    for share in ["network", "PID", "IPC"] {
        let mut options = own_users();
        match share {
            "network" => options.set_network(cri::NamespaceMode::Node),
            "PID" => options.set_pid(cri::NamespaceMode::Node),
            _ => options.set_ipc(cri::NamespaceMode::Node),
        }
        let refusal = try_run_pod(&mut client, node.pod_in("refused", &options)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument);
        assert!(refusal.message().contains(share), "{refusal}");
    }
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

const RANGE_ROOT: (u32, u32) = (RANGE.0, RANGE.0);

/// Containers that do not fit into a pod with [`own_users`], each with a word of the reason.
fn misfits() -> Vec<(&'static str, cri::ContainerConfig)> {
    let with = |change: fn(&mut cri::LinuxContainerSecurityContext)| {
        let mut config = container("misfit", &own_users());
        change(security(&mut config));
        config
    };
    let mut other_ranges = container("misfit", &own_users());
    let others = vec![cri::IdMapping { host_id: 1, container_id: 0, length: 9 }];
    other_ranges.mounts = vec![cri::Mount {
        uid_mappings: others.clone(),
        gid_mappings: others,
        ..volume(Path::new("/tmp"), "/data")
    }];
    vec![
        ("user 70000", with(|security| security.run_as_user = Some(cri::Int64Value { value: 70000 }))),
        (
            "not its pod's",
            with(|security| {
                let options = security.namespace_options.as_mut().unwrap();
                options.userns_options =
                    Some(cri::UserNamespace { mode: cri::NamespaceMode::Node.into(), ..Default::default() });
            }),
        ),
        ("other ranges", other_ranges),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_a_volume() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    let mut kinds = vec![own_pids()];
    if has_user_namespaces(&mut client).await {
        kinds.push(own_users());
    }
    for (number, options) in kinds.iter().enumerate() {
        let pod = run_pod(&mut client, node.pod_in(&format!("volume-{number}"), options)).await;
        let image = |at: &str, path: &str| cri::Mount {
            image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            image_sub_path: path.into(),
            readonly: true,
            ..volume(Path::new(""), at)
        };
        let mut config = container("reader", options);
        config.mounts = vec![image("/whole", ""), image("/part", "srv/web")];
        let reader = run(&mut client, &pod, config.clone()).await;
        assert_eq!(
            output(&mut client, &reader, "cat /part/index; stat -c %u /part/index").await,
            "page\n33\n"
        );
        assert!(output(&mut client, &reader, "touch /whole/x").await.contains("ead-only"));
        assert_eq!(output(&mut client, &reader, "/whole/bin/busybox echo run").await, "run\n");
        for (word, path) in [("image_sub_path", "../etc"), ("image_sub_path", "absent")] {
            config.metadata.as_mut().unwrap().name = "refused".into();
            config.mounts = vec![image("/whole", path)];
            let refusal = try_create(&mut client, &pod, config.clone()).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
            assert!(refusal.message().contains(word), "{refusal}");
        }
        config.mounts = vec![cri::Mount { readonly: false, ..image("/whole", "") }];
        let refusal = try_create(&mut client, &pod, config.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        config.mounts = vec![image("/whole", "")];
        config.mounts[0].image.as_mut().unwrap().image = "cairn.local/absent:1".into();
        let refusal = try_create(&mut client, &pod, config).await.unwrap_err();
        assert_eq!(refusal.code(), Code::NotFound, "{refusal}");
        remove_pod(&mut client, &pod).await;
    }
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

/// A CDI specification of this machine's, while the test runs.
struct Specification(PathBuf);

impl Drop for Specification {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_has_a_name() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    let vendor = format!("cairn-test-{}.invalid", std::process::id());
    let library = node.path("library");
    fs::write(&library, "of the vendor").unwrap();
    // A hook is told which container.
    let heard = node.path("heard");
    let hook =
        node.program("hook", &format!("#!/bin/sh\necho $1 $COLOUR >{0}.words\ncat >{0}\n", heard.display()));
    let text = format!(
        r#"---
cdiVersion: 0.6.0
kind: {vendor}/sink
containerEdits:
  env:
  - SINK=deep
  hooks:
  - hookName: createContainer
    path: {hook}
    args: [hook, word]
    env: [COLOUR=red]
devices:
- name: one
  containerEdits:
    deviceNodes:
    - path: /dev/sink
      hostPath: /dev/zero
    mounts:
    - {{hostPath: {library}, containerPath: /lib/sink, options: [ro, nosuid, bind]}}
    additionalGids: [4242]
"#,
        hook = hook.display(),
        library = library.display(),
    );
    fs::create_dir_all("/var/run/cdi").unwrap();
    let file = Specification(format!("/var/run/cdi/{vendor}.yaml").into());
    fs::write(&file.0, text).unwrap();

    let options = own_pids();
    let pod = run_pod(&mut client, node.pod_in("cdi", &options)).await;
    let name = format!("{vendor}/sink=one");
    let mut config = container("field", &options);
    config.cdi_devices = vec![cri::CdiDevice { name: name.clone() }];
    let by_field = run(&mut client, &pod, config).await;
    let mut config = container("annotated", &options);
    config.annotations.insert("cdi.k8s.io/plugin".into(), name);
    let by_annotation = run(&mut client, &pod, config).await;
    for id in [&by_field, &by_annotation] {
        let script = "echo $SINK; cat /lib/sink; dd if=/dev/sink bs=4 count=1 2>/dev/null | wc -c; id -G";
        assert_eq!(output(&mut client, id, script).await, "deep\nof the vendor4\n0 4242\n");
    }
    let state: serde_json::Value = serde_json::from_slice(&fs::read(&heard).unwrap()).unwrap();
    assert_eq!(state["id"], by_annotation.as_str());
    assert!(Path::new(state["bundle"].as_str().unwrap()).join("config.json").exists(), "{state}");
    assert_eq!(fs::read_to_string(heard.with_extension("words")).unwrap(), "word red\n");
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_pid_namespace_gives_no_way_out() {
    unless!(obstacle());
    let mut node = Node::new();
    let mut client = node.start().await;
    let mut kinds = vec![cri::NamespaceOption::default()];
    if has_user_namespaces(&mut client).await {
        kinds.push(cri::NamespaceOption { pid: cri::NamespaceMode::Pod.into(), ..own_users() });
    }
    for (number, options) in kinds.iter().enumerate() {
        let pod = run_pod(&mut client, node.pod_in(&format!("shared-{number}"), options)).await;
        let mut config = container("tracer", options);
        let add_capabilities = vec!["ALL".into()];
        security(&mut config).capabilities = Some(cri::Capability { add_capabilities, ..Default::default() });
        let tracer = run(&mut client, &pod, config).await;
        assert!(output(&mut client, &tracer, "cat /proc/1/cmdline").await.contains("pause"));
        // Process 1 is the runtime's, and its root is no way to the node's files.
        let seen = output(&mut client, &tracer, "ls -A /proc/1/root/").await;
        assert!(seen.is_empty() || seen.contains("ermission denied"), "{seen}");
        let status = output(&mut client, &tracer, "grep CapPrm /proc/1/status | tr '\\t' ' '").await;
        assert_eq!(status, "CapPrm: 0000000000000000\n");
        remove_pod(&mut client, &pod).await;
    }
    assert_eq!(node.leaks(), Vec::<String>::new(), "{}", node.log());
}
