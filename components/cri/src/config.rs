//! The configuration file's form: every key and what it means.

use cairn_contract::paths;
use cairn_daemon::config::{Form, Key};

/// How `cairn-cri.toml` is read and printed.
pub const FORM: Form = Form { program: "cairn-cri", usual: paths::CRI_CONFIG, keys: KEYS };

/// Every key, in the order it is printed, and what it means.
const KEYS: &[Key] = &[
    ("socket", "Unix socket on which CRI is served; root's alone."),
    ("state", "Directory of what survives a reboot: images, containers, records."),
    ("run", "Directory of what does not: mounts, shims' sockets."),
    ("baked_images", "Directory of images that came with the system; it need not exist."),
    (
        "cgroup_driver",
        "Who makes cgroups: \"systemd\" or \"cgroupfs\". The kubelet's cgroupDriver must be the same.",
    ),
    ("shim", "Program run once per pod."),
    ("cni_bin", "Directories searched for CNI plugins, in order."),
    ("cni_conf", "Directory of CNI networks; the first file by name is the pods' network."),
    (
        "cni_networks",
        "Directory of further networks, for pods that name them in the annotation k8s.v1.cni.cncf.io/networks; it need not exist.",
    ),
    ("certs_d", "Directory with <registry>/hosts.toml: mirrors and certificates, in containerd's form."),
    (
        "registry_auth",
        "File of the node's registry credentials, in the form of Docker's config.json; it need not exist.",
    ),
    ("max_parallel_layers", "Layers fetched at the same time, for one pull."),
    ("pull_progress_timeout_seconds", "A pull that receives nothing for so many seconds fails."),
    (
        "streaming_address",
        "Address and port to which the kubelet connects for exec, attach and port-forward; port 0 is any free one. Let it be a loopback address: what goes there is not encrypted.",
    ),
    ("nri", "Whether NRI plugins are served and started: programs that see and adjust pods and containers."),
    ("nri_socket", "Unix socket that NRI plugins connect to; root's alone."),
    (
        "nri_plugins",
        "Directory of NRI plugins that are started with the runtime, by names such as 10-name; it need not exist.",
    ),
    ("nri_config", "Directory of their configurations: 10-name.conf, else name.conf."),
    (
        "nri_registration_timeout_seconds",
        "An NRI plugin that has not registered, or not taken in what there is, after so many seconds is turned away.",
    ),
    ("nri_request_timeout_seconds", "An NRI plugin that has not answered after so many seconds is cut off."),
    ("log_format", "Form of the log on standard error: \"text\", or \"json\" with one object a line."),
    (
        "log_level",
        "Least serious message logged: \"error\", \"warn\", \"info\", \"debug\" or \"trace\"; RUST_LOG overrides it.",
    ),
    (
        "metrics_address",
        "Address and port that serve Prometheus metrics at /metrics, without authentication, such as \"127.0.0.1:10099\". Absent: none.",
    ),
    (
        "tracing_endpoint",
        "Address and port of a collector that OpenTelemetry traces are sent to by OTLP over gRPC, unencrypted, such as \"127.0.0.1:4317\". Absent: none.",
    ),
    (
        "tracing_sampling_rate_per_million",
        "Of a million calls whose caller says nothing about tracing, so many are traced, at random; the others are traced if their caller's span is.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_contract::runtime::RuntimeConfig;
    use std::path::Path;

    fn refused(text: &str) -> String {
        FORM.parse::<RuntimeConfig>(Path::new("cri.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_documented_and_the_defaults_are_defaults() {
        let text = FORM.documented_defaults::<RuntimeConfig>().unwrap();
        let read: RuntimeConfig = FORM.parse(Path::new("x"), &text).unwrap();
        assert_eq!(read, RuntimeConfig::default());
        let defaults = toml::Table::try_from(RuntimeConfig::default()).unwrap();
        for key in defaults.keys() {
            assert!(KEYS.iter().any(|(name, _)| name == key), "{key} is not documented");
        }
        for (key, _) in KEYS {
            assert!(!refused(&format!("{key} = {{ a = 1 }}")).contains("no key"), "{key} does not exist");
        }
    }

    #[test]
    fn errors_say_where_and_what_was_meant() {
        let error = refused("run = '/run/x'\n  cgroup_drivr = 'systemd'\n");
        assert_eq!(error, "cri.toml:2:3: there is no key `cgroup_drivr`; did you mean `cgroup_driver`?");
        assert!(refused("zzzzzzzz = 1").contains("config default"));
        let error = refused("cgroup_driver = 'runc'");
        assert!(error.starts_with("cri.toml:1:17: cgroup_driver: unknown variant"), "{error}");
        assert!(error.contains("kubelet's cgroupDriver"), "{error}");
        assert!(refused("run = \n").starts_with("cri.toml:1:"));
        let error = refused("tracing_sampling_rate_per_million = 1000001");
        assert!(error.contains("1000001 is more than 1000000"), "{error}");
    }
}
