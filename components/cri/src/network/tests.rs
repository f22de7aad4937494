//! Networks with fake plugins: what they are told, in which order, and what is left.

use super::*;
use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A plugin that writes down how it was called and fails when its configuration says so.
const PLUGIN: &str = r#"#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME $config" >> LOG
case "$config" in *"\"fail\":\"$CNI_COMMAND\""*) echo '{"code":7,"msg":"no luck"}'; exit 1;; esac
case "$config" in *'"bare":true'*) echo '{"cniVersion":"1.0.0"}'; exit 0;; esac
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","mac":"02:00:00:00:00:09","sandbox":"'$CNI_NETNS'"}],
  "ips":[{"interface":0,"address":"10.1.2.3/24"},{"interface":0,"address":"fd00::3/64"}]}'
"#;

struct Bench {
    directory: tempfile::TempDir,
    networks: Networks,
}

/// One call of a plugin, as it saw it.
#[derive(Debug)]
struct Seen {
    operation: String,
    interface: String,
    config: Value,
}

impl Bench {
    /// The default network is `conflist`.
    fn new(conflist: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let plugin = directory.path().join("fake");
        fs::write(&plugin, PLUGIN.replace("LOG", &log.display().to_string())).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["net.d", "networks.d"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("net.d/10.conflist"), conflist).unwrap();
        let networks = Self::open(directory.path());
        Self { directory, networks }
    }

    fn open(directory: &Path) -> Networks {
        Networks::new(&RuntimeConfig {
            state: directory.to_path_buf(),
            cni_conf: directory.join("net.d"),
            cni_networks: directory.join("networks.d"),
            cni_bin: vec![directory.to_path_buf()],
            ..Default::default()
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Defines a network that is one plugin.
    fn define(&self, name: &str, plugin: &str) {
        let text = format!(r#"{{"cniVersion":"1.1.0","name":"{name}","plugins":[{plugin}]}}"#);
        fs::write(self.path(&format!("networks.d/{name}.conflist")), text).unwrap();
    }

    async fn connect(&self, config: &cri::PodSandboxConfig) -> Result<Vec<Attachment>, NetworkError> {
        let mut attachments = self.networks.plan(&pod(config))?;
        self.networks.connect(&pod(config), &mut attachments).await.map(|()| attachments)
    }

    async fn refused(&self, config: &cri::PodSandboxConfig) -> String {
        self.connect(config).await.unwrap_err().to_string()
    }

    /// The calls so far.
    fn seen(&self) -> Vec<Seen> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let call = |line: &str| {
            let mut parts = line.splitn(3, ' ');
            let mut next = || parts.next().unwrap().to_owned();
            let (operation, interface) = (next(), next());
            Seen { operation, interface, config: serde_json::from_str(&next()).unwrap() }
        };
        log.lines().map(call).collect()
    }

    fn operations(&self) -> String {
        let seen = self.seen();
        seen.iter()
            .map(|call| format!("{} {}", call.operation, call.interface))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn pod(config: &cri::PodSandboxConfig) -> PodNetwork<'_> {
    PodNetwork { id: "pod1", namespace: Some("/run/ns"), config }
}

fn annotated(annotations: &[(&str, &str)]) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "p".into(),
            namespace: "mine".into(),
            ..Default::default()
        }),
        annotations: annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_pod_is_connected_and_disconnected_with_the_same_configuration() {
    let bench = Bench::new(
        r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"fake","capabilities":{"portMappings":true}},{"type":"fake"}]}"#,
    );
    bench.networks.ready().await.unwrap();
    let mapping = cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() };
    let config = cri::PodSandboxConfig { port_mappings: vec![mapping], ..annotated(&[]) };
    let attachments = bench.connect(&config).await.unwrap();
    let wanted = ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::3".parse().unwrap()];
    assert_eq!(attachments[0].addresses(), wanted);
    fs::write(bench.path("net.d/10.conflist"), "{").unwrap();
    assert!(bench.networks.check(&pod(&config), &attachments).await[0].1.is_ok());
    // As a daemon that was restarted would.
    let stored = serde_json::to_string(&attachments).unwrap();
    let attachments: Vec<Attachment> = serde_json::from_str(&stored).unwrap();
    bench.networks.disconnect(&pod(&config), &attachments).await.unwrap();
    assert_eq!(
        bench.operations(),
        ["ADD", "ADD", "CHECK", "CHECK", "DEL", "DEL"].map(|one| format!("{one} eth0")).join(", ")
    );
    let seen = bench.seen();
    assert_eq!(seen[0].config["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
    assert_eq!(seen[0].config.get("capabilities"), None);
    assert_eq!(seen[1].config.get("runtimeConfig"), None, "only who declares it gets it");
    assert_eq!(seen[0].config.get("prevResult"), None);
    assert!(seen[1..].iter().all(|call| call.config["prevResult"]["ips"].is_array()));
    assert_eq!(seen[5].config["runtimeConfig"], seen[0].config["runtimeConfig"]);
}

#[tokio::test]
async fn old_versions_are_not_checked_and_get_no_result_back() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"0.3.1","type":"fake"}"#);
    let config = annotated(&[]);
    let attachments = bench.connect(&config).await.unwrap();
    assert!(bench.networks.check(&pod(&config), &attachments).await.is_empty());
    bench.networks.disconnect(&pod(&config), &attachments).await.unwrap();
    bench.networks.collect_garbage(Vec::new).await;
    bench.networks.ready().await.unwrap();
    assert_eq!(bench.operations(), "ADD eth0, DEL eth0");
    assert_eq!(bench.seen()[1].config.get("prevResult"), None);
}

#[tokio::test]
async fn every_capability_argument_is_given_to_who_declares_it() {
    let declared = r#"{"portMappings":true,"bandwidth":true,"ipRanges":true,"dns":true,"cgroupPath":true,"aliases":true,"mac":false}"#;
    let bench = Bench::new(&format!(
        r#"{{"name":"n","cniVersion":"1.0.0","type":"fake","capabilities":{declared}}}"#
    ));
    bench.networks.set_pod_ranges("10.7.0.0/24").unwrap();
    let config = cri::PodSandboxConfig {
        hostname: "h".into(),
        dns_config: Some(cri::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() }),
        linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: "/kubepods".into(), ..Default::default() }),
        ..annotated(&[(bandwidth::INGRESS, "10M"), (bandwidth::EGRESS, "20M")])
    };
    bench.connect(&config).await.unwrap();
    let given = &bench.seen()[0].config["runtimeConfig"];
    assert_eq!(given["bandwidth"]["ingressRate"], 10_000_000);
    assert_eq!(given["bandwidth"]["egressRate"], 20_000_000);
    assert_eq!(given["ipRanges"], json!([[{"subnet": "10.7.0.0/24"}]]));
    assert_eq!(given["dns"]["servers"][0], "10.0.0.10");
    assert_eq!(given["cgroupPath"], "/kubepods");
    assert_eq!(given["aliases"], json!(["p", "h"]));
    let error = bench.refused(&annotated(&[(bandwidth::INGRESS, "fast")])).await;
    assert!(error.contains(bandwidth::INGRESS) && error.contains("`fast`"), "{error}");
}

#[tokio::test]
async fn six_interfaces_are_asked_for_by_annotation() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    for name in ["a", "b", "c", "d", "e"] {
        bench.define(name, r#"{"type":"fake"}"#);
    }
    let config = annotated(&[(selection::NETWORKS, "a,mine/b@data0,c,a,e")]);
    let attachments = bench.connect(&config).await.unwrap();
    let interfaces: Vec<&str> = attachments.iter().map(|one| one.interface.as_str()).collect();
    assert_eq!(interfaces, ["eth0", "net1", "data0", "net3", "net4", "net5"]);
    let status = network_status(&attachments);
    assert_eq!(status[0]["name"], "n");
    assert_eq!((&status[0]["default"], &status[1]["default"]), (&json!(true), &json!(false)));
    assert_eq!((&status[2]["name"], &status[2]["interface"]), (&json!("mine/b"), &json!("data0")));
    assert_eq!(status[5]["ips"], json!(["10.1.2.3", "fd00::3"]));
    bench.networks.disconnect(&pod(&config), &attachments).await.unwrap();
    let del = ["net5", "net4", "net3", "data0", "net1", "eth0"].map(|name| format!("DEL {name}")).join(", ");
    assert!(bench.operations().ends_with(&del), "{}", bench.operations());
}

#[tokio::test]
async fn what_a_selection_asks_for_reaches_the_plugins() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    let all =
        r#""portMappings":true,"bandwidth":true,"infinibandGUID":true,"deviceID":true,"ips":true,"mac":true"#;
    bench.define("all", &format!(r#"{{"type":"fake","capabilities":{{{all}}}}}"#));
    bench.define("old", r#"{"type":"fake","args":{"cni":{"own":1}}}"#);
    let asked = r#"[{"name":"NAME","ips":["10.1.2.3/24"],"mac":"02:00:00:00:00:09","cni-args":{"k":"v"},"deviceID":"0000:04:00.5"MORE}]"#;
    let more = r#","infiniband-guid":"c2:11","bandwidth":{"egressRate":5000},"portMappings":[{"hostPort":81,"containerPort":80}]"#;
    let text = |name: &str, more: &str| asked.replace("NAME", name).replace("MORE", more);
    let config = annotated(&[(selection::NETWORKS, &text("all", more))]);
    bench.connect(&config).await.unwrap();
    let given = &bench.seen()[1].config;
    let runtime = &given["runtimeConfig"];
    assert_eq!(runtime["ips"], json!(["10.1.2.3/24"]));
    assert_eq!(runtime["mac"], "02:00:00:00:00:09");
    assert_eq!(runtime["infinibandGUID"], "c2:11");
    assert_eq!(runtime["deviceID"], "0000:04:00.5");
    assert_eq!(runtime["bandwidth"], json!({"egressRate": 5000}));
    assert_eq!(runtime["portMappings"][0], json!({"hostPort": 81, "containerPort": 80, "protocol": "tcp"}));
    assert_eq!(given["args"]["cni"], json!({"k": "v"}));

    bench.connect(&annotated(&[(selection::NETWORKS, &text("old", ""))])).await.unwrap();
    let given = &bench.seen()[3].config;
    assert_eq!(given["args"]["cni"], json!({"own": 1, "ips": ["10.1.2.3/24"], "k": "v"}));
    assert_eq!((&given["deviceID"], &given["pciBusID"]), (&json!("0000:04:00.5"), &json!("0000:04:00.5")));
    let error = bench.refused(&annotated(&[(selection::NETWORKS, &text("old", more))])).await;
    assert!(error.contains("`mine/old`") && error.contains("capabilities"), "{error}");
}

#[tokio::test]
async fn what_was_asked_for_and_not_given_is_an_error() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    bench.define("a", r#"{"type":"fake"}"#);
    let error =
        bench.refused(&annotated(&[(selection::NETWORKS, r#"[{"name":"a","ips":["10.1.2.99"]}]"#)])).await;
    assert!(
        error.contains(selection::NETWORKS) && error.contains("mine/a") && error.contains("10.1.2.99"),
        "{error}"
    );
    let error = bench
        .refused(&annotated(&[(selection::NETWORKS, r#"[{"name":"a","mac":"02:00:00:00:00:01"}]"#)]))
        .await;
    assert!(error.contains("02:00:00:00:00:09, not 02:00:00:00:00:01"), "{error}");
}

#[tokio::test]
async fn a_network_that_is_not_there_is_named_with_those_that_are() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    bench.define("a", r#"{"type":"fake"}"#);
    fs::write(bench.path("networks.d/broken.conflist"), "{").unwrap();
    let error = bench.connect(&annotated(&[(selection::NETWORKS, "other/b")])).await.unwrap_err();
    assert!(error.is_mistake());
    let error = error.to_string();
    for part in [selection::NETWORKS, "`other/b`", "there are: a", "broken.conflist"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(bench.operations(), "", "nothing was begun");
    let error = bench.refused(&annotated(&[(selection::NETWORKS, "a@")])).await;
    assert!(error.contains(selection::NETWORKS) && error.contains("`a@`"), "{error}");
}

#[tokio::test]
async fn another_network_may_be_the_default_one() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    bench.define("a", r#"{"type":"fake"}"#);
    let annotations = [(selection::DEFAULT_NETWORK, "a"), (selection::NETWORKS, "a")];
    let attachments = bench.connect(&annotated(&annotations)).await.unwrap();
    let told: Vec<_> =
        attachments.iter().map(|one| (one.name.as_str(), one.interface.as_str(), one.default)).collect();
    assert_eq!(told, [("a", "eth0", true), ("a", "net1", false)]);
    let error = bench.refused(&annotated(&[(selection::DEFAULT_NETWORK, "a,a@x")])).await;
    assert!(error.contains(selection::DEFAULT_NETWORK) && error.contains("name one"), "{error}");
}

#[tokio::test]
async fn multus_is_left_to_read_the_annotations() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"multus"}"#);
    fs::rename(bench.path("fake"), bench.path("multus")).unwrap();
    let attachments = bench.connect(&annotated(&[(selection::NETWORKS, "not-on-the-node")])).await.unwrap();
    assert_eq!(attachments.len(), 1);
}

#[tokio::test]
async fn a_failure_names_the_network_and_is_undone() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    bench.define("a", r#"{"type":"fake"}, {"type":"fake","fail":"ADD"}"#);
    let config = annotated(&[(selection::NETWORKS, "a")]);
    let mut attachments = bench.networks.plan(&pod(&config)).unwrap();
    let error = bench.networks.connect(&pod(&config), &mut attachments).await.unwrap_err().to_string();
    for part in [selection::NETWORKS, "mine/a", "net1", "fake", "no luck"] {
        assert!(error.contains(part), "{error}");
    }
    bench.networks.disconnect(&pod(&config), &attachments).await.unwrap();
    assert_eq!(bench.operations(), "ADD eth0, ADD net1, ADD net1, DEL net1, DEL net1, DEL eth0");
}

#[tokio::test]
async fn all_is_disconnected_even_if_a_plugin_fails() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    bench.define("a", r#"{"type":"fake","fail":"DEL"}"#);
    let config = annotated(&[(selection::NETWORKS, "a")]);
    let attachments = bench.connect(&config).await.unwrap();
    let error = bench.networks.disconnect(&pod(&config), &attachments).await.unwrap_err().to_string();
    assert!(error.contains("mine/a") && error.contains("DEL"), "{error}");
    assert!(bench.operations().ends_with("DEL net1, DEL eth0"));
}

#[tokio::test]
async fn what_was_refused_from_the_start_keeps_no_pod() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    bench.define("refused", r#"{"type":"fake","fail":"ADD","and":{"fail":"DEL"}}"#);
    bench.define("absent", r#"{"type":"absent"}"#);
    for name in ["refused", "absent"] {
        let config = annotated(&[(selection::NETWORKS, name)]);
        let mut attachments = bench.networks.plan(&pod(&config)).unwrap();
        bench.networks.connect(&pod(&config), &mut attachments).await.unwrap_err();
        bench.networks.disconnect(&pod(&config), &attachments).await.unwrap();
    }
    assert_eq!(bench.operations(), "ADD eth0, ADD net1, DEL net1, DEL eth0, ADD eth0, DEL eth0");
}

#[tokio::test]
async fn only_the_default_network_must_give_an_address() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    bench.define("bare", r#"{"type":"fake","bare":true}"#);
    bench.connect(&annotated(&[(selection::NETWORKS, "bare")])).await.unwrap();
    let error = bench.refused(&annotated(&[(selection::DEFAULT_NETWORK, "bare")])).await;
    assert!(error.contains("no address"), "{error}");
}

#[tokio::test]
async fn a_damaged_network_is_found_by_check() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake","fail":"CHECK"}"#);
    bench.define("a", r#"{"type":"fake"}"#);
    let config = annotated(&[(selection::NETWORKS, "a")]);
    let attachments = bench.connect(&config).await.unwrap();
    let found: HashMap<_, _> = bench.networks.check(&pod(&config), &attachments).await.into_iter().collect();
    assert!(found["eth0"].as_ref().unwrap_err().to_string().contains("no luck"));
    assert!(found["net1"].is_ok());
    let off =
        Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake","fail":"CHECK","disableCheck":true}"#);
    let attachments = off.connect(&annotated(&[])).await.unwrap();
    assert!(off.networks.check(&pod(&config), &attachments).await.is_empty());
}

#[tokio::test]
async fn status_is_asked_and_believed_for_a_while() {
    let bench =
        Bench::new(r#"{"name":"n","cniVersion":"1.1.0","plugins":[{"type":"fake"},{"type":"fake"}]}"#);
    bench.networks.ready().await.unwrap();
    bench.networks.ready().await.unwrap();
    assert_eq!(bench.operations(), "STATUS , STATUS ");
    let changed = r#"{"name":"n","cniVersion":"1.1.0","plugins":[{"type":"fake","fail":"STATUS"}]}"#;
    fs::write(bench.path("net.d/10.conflist"), changed).unwrap();
    let error = bench.networks.ready().await.unwrap_err().to_string();
    assert!(error.contains("STATUS") && error.contains("no luck"), "{error}");
    fs::write(bench.path("net.d/10.conflist"), r#"{"name":"n","type":"absent"}"#).unwrap();
    assert!(bench.networks.ready().await.unwrap_err().to_string().contains("absent"));
    fs::remove_file(bench.path("net.d/10.conflist")).unwrap();
    assert!(bench.networks.ready().await.unwrap_err().to_string().contains("no CNI network"));
}

#[tokio::test]
async fn garbage_is_collected_with_what_is_valid() {
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.1.0","type":"fake"}"#);
    bench.define("a", r#"{"type":"fake"}"#);
    let config = annotated(&[(selection::NETWORKS, "a,a")]);
    let attachments = bench.connect(&config).await.unwrap();
    // A network that is configured no more, but in use.
    fs::remove_file(bench.path("networks.d/a.conflist")).unwrap();
    let before = bench.seen().len();
    bench.networks.collect_garbage(|| vec![("pod1".to_owned(), attachments)]).await;
    let calls: Vec<Seen> = bench.seen().into_iter().skip(before).collect();
    let told: Vec<_> = calls.iter().map(|call| (call.operation.as_str(), &call.config["name"])).collect();
    assert_eq!(told, [("GC", &json!("a")), ("GC", &json!("n"))]);
    let valid = json!([{"containerID": "pod1", "ifname": "net1"}, {"containerID": "pod1", "ifname": "net2"}]);
    assert_eq!(calls[0].config["cni.dev/valid-attachments"], valid);
    assert_eq!(calls[0].config["cni.dev/attachments"], valid);
    assert_eq!(
        calls[1].config["cni.dev/valid-attachments"],
        json!([{"containerID": "pod1", "ifname": "eth0"}])
    );
    let off = Bench::new(r#"{"name":"n","cniVersion":"1.1.0","type":"fake","disableGC":true}"#);
    off.networks.collect_garbage(Vec::new).await;
    assert_eq!(off.operations(), "");
}

#[tokio::test]
async fn the_kubelets_range_is_in_the_configuration_and_outlives_the_daemon() {
    let bench = Bench::new(
        r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"fake","capabilities":{"ipRanges":true},
           "ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.0.0/16"}]]}}]}"#,
    );
    bench.networks.set_pod_ranges("10.7.0.0/24").unwrap();
    let again = Bench::open(bench.directory.path());
    assert_eq!(again.pod_ranges(), ["10.7.0.0/24"]);
    let planned = again.plan(&pod(&annotated(&[]))).unwrap();
    assert_eq!(planned[0].plugins[0]["ipam"]["ranges"], json!([[{"subnet": "10.7.0.0/24"}]]));
}

#[tokio::test]
async fn pods_are_connected_side_by_side() {
    let slow = "#!/bin/sh\ncat > /dev/null\nmkdir ROOT/$CNI_CONTAINERID\nwhile [ $(ls -d ROOT/pod* | wc -l) -lt 4 ]; do sleep 0.02; done\necho '{\"ips\":[{\"address\":\"10.1.2.3/24\"}]}'\n";
    let bench = Bench::new(r#"{"name":"n","cniVersion":"1.0.0","type":"fake"}"#);
    fs::write(bench.path("fake"), slow.replace("ROOT", &bench.directory.path().display().to_string()))
        .unwrap();
    let config = annotated(&[]);
    let one = async |id: &str| {
        let pod = PodNetwork { id, namespace: Some("/run/ns"), config: &config };
        let mut attachments = bench.networks.plan(&pod).unwrap();
        bench.networks.connect(&pod, &mut attachments).await.unwrap();
    };
    // Each waits until all are there.
    tokio::join!(one("pod1"), one("pod2"), one("pod3"), one("pod4"));
}
