//! What the kubelet needs beside the image's own configuration: a drop-in for `--config-dir`, credentials to
//! join with, and an environment file for its unit. JSON, which is YAML, so that nothing needs quoting rules.

use super::Rendered;
use super::system::{ended, one_line};
use cairn_contract::machine::{Cluster, MachineConfig};
use serde_json::{Value, json};

const CA: &str = "/run/cairn/kubelet/ca.pem";

pub(super) fn files(config: &MachineConfig, name: &str) -> Vec<Rendered> {
    let mut files = vec![Rendered::public("/run/cairn/kubelet/env", environment(config, name))];
    if let Some(cluster) = &config.cluster {
        files.push(Rendered::public(CA, ended(&cluster.ca)));
        files.push(Rendered::secret(
            "/run/cairn/kubelet/bootstrap.kubeconfig",
            format!("{:#}\n", bootstrap(cluster)),
        ));
    }
    if config.cluster.is_some() || !config.node.taints.is_empty() {
        let text = format!("{:#}\n", drop_in(config));
        files.push(Rendered::public("/run/cairn/kubelet/config.d/50-cairn.conf", text));
    }
    files
}

fn environment(config: &MachineConfig, name: &str) -> String {
    let labels: Vec<_> =
        config.node.labels.iter().map(|(key, value)| one_line(&format!("{key}={value}"))).collect();
    format!("KUBELET_HOSTNAME={name}\nKUBELET_NODE_LABELS={}\n", labels.join(","))
}

fn drop_in(config: &MachineConfig) -> Value {
    let mut document = json!({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"});
    if let Some(cluster) = &config.cluster {
        document["clusterDomain"] = json!(cluster.domain);
        document["clusterDNS"] = json!(cluster.dns);
        document["authentication"] = json!({"x509": {"clientCAFile": CA}});
    }
    if !config.node.taints.is_empty() {
        document["registerWithTaints"] = config.node.taints.iter().map(|taint| parse_taint(taint)).collect();
    }
    document
}

/// `key=value:Effect` or `key:Effect`.
fn parse_taint(taint: &str) -> Value {
    let (name, effect) = taint.rsplit_once(':').unwrap_or((taint, "NoSchedule"));
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    json!({"key": key, "value": value, "effect": effect})
}

fn bootstrap(cluster: &Cluster) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {"server": cluster.endpoint, "certificate-authority": CA}}],
        "users": [{"name": "bootstrap", "user": {"token": cluster.bootstrap_token}}],
        "contexts": [{"name": "bootstrap", "context": {"cluster": "cluster", "user": "bootstrap"}}],
        "current-context": "bootstrap",
    })
}
