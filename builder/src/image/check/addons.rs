//! What network add-ons need of a node: kernel modules, and places that they may write to.
//!
//! Which modules is from the projects' own documents: Kubernetes (`pkg/proxy`'s README files), Cilium ("System
//! Requirements"), Calico ("System requirements", node), flannel (`Documentation/backends.md`). What is compiled into the
//! kernel is as good as a module.

use super::FinishedImage;
use crate::{
    profile::check::Finding,
    tree::{Kind, depmod},
};
use cairn_contract::paths;

/// Who wants it, and modules by the kernel's names.
const MODULES: [(&str, &[&str]); 5] = [
    (
        "kube-proxy",
        &[
            "nf_conntrack",
            "nf_tables",
            "nft_chain_nat",
            "nft_compat",
            "nft_ct",
            "nft_fib_inet",
            "nft_masq",
            "nft_nat",
            "nft_numgen",
            "nft_reject_inet",
            "ip_tables",
            "ip6_tables",
            "iptable_nat",
            "ip6table_nat",
            "xt_addrtype",
            "xt_comment",
            "xt_conntrack",
            "xt_mark",
            "xt_MASQUERADE",
            "xt_multiport",
            "xt_nat",
            "xt_recent",
            "xt_statistic",
            "ip_vs",
            "ip_vs_rr",
            "ip_vs_sh",
            "ip_vs_wrr",
            "dummy",
        ],
    ),
    ("flannel", &["bridge", "br_netfilter", "veth", "vxlan", "wireguard"]),
    (
        "Calico",
        &[
            "ipip",
            "ip_set",
            "ip_set_hash_ip",
            "ip_set_hash_ipport",
            "ip_set_hash_net",
            "ipt_REJECT",
            "ipt_rpfilter",
            "xt_set",
        ],
    ),
    (
        "Cilium",
        &["cls_bpf", "geneve", "sch_fq", "sch_ingress", "xfrm_user", "xt_CT", "xt_socket", "xt_TPROXY"],
    ),
    ("cairn-cni", &["8021q", "ifb", "ipvlan", "macvlan", "sch_tbf", "tun", "vrf"]),
];

pub(super) fn modules(image: &FinishedImage<'_>) -> Vec<Finding> {
    let Some(present) = depmod::names(image.tree) else { return Vec::new() };
    MODULES
        .iter()
        .filter_map(|(who, wanted)| {
            let missing: Vec<&str> =
                wanted.iter().copied().filter(|name| !present.contains(&name.replace('-', "_"))).collect();
            (!missing.is_empty()).then(|| {
                Finding::new(
                    "kernel.drop_modules",
                    format!("{who} may want the kernel modules {}, which the image has not", missing.join(", ")),
                    "keep them, or choose a kernel.package that has them; ignore it if nobody will deploy that",
                )
            })
        })
        .collect()
}

/// Add-ons install plugins and networks; plugins are kept in the state, networks are written again at each boot.
pub(super) fn places(image: &FinishedImage<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let bin = image.tree.get(paths::CNI_BIN.trim_start_matches('/')).map(|node| &node.kind);
    if !matches!(bin, Some(Kind::Symlink(target)) if target.starts_with(b"/var/")) {
        findings.push(Finding::new(
            paths::CNI_BIN,
            "it is no link into /var, and the root is read-only: no add-on could install a plugin",
            "leave it as rootfs/runtime has it",
        ));
    }
    for place in [paths::CNI_CONF, paths::CNI_NETWORKS] {
        let node = image.tree.get(place.trim_start_matches('/'));
        if !matches!(node.map(|node| &node.kind), Some(Kind::Directory(_))) {
            findings.push(Finding::new(place, "there is no such directory", "let the builder make it"));
        }
    }
    findings
}
