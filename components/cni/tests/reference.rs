//! The same configurations through the reference plugins and ours. Which reference: `CAIRN_CNI_REFERENCE`, a directory,
//! or Debian's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod comparison;
mod lab;

use comparison::Outcome;
use lab::{Host, Namespace};
use serde_json::json;
use std::path::PathBuf;

fn reference() -> Option<PathBuf> {
    comparison::reference().map_err(|why| println!("skipped: {why}")).ok()
}

/// Compares all cases of a group; what differs is told together.
fn agree(group: &str) {
    if let Some(reason) = lab::missing() {
        println!("skipped: {reason}");
        return;
    }
    let Some(reference) = reference() else { return };
    let mut cases = comparison::cases();
    cases.retain(|case| case.group == group);
    let mut different = Vec::new();
    for (case, outcome) in cases.iter().zip(comparison::compare(&cases, &reference)) {
        let title = comparison::title(case);
        match outcome {
            Outcome::Equal => println!("equal: {title}"),
            Outcome::Skipped(reason) => println!("skipped in part: {title}: {reason}"),
            Outcome::Different(difference) => different.push(format!("{title}, {difference}")),
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn bridges_agree() {
    agree("bridge");
}

#[test]
fn interfaces_without_a_bridge_agree() {
    agree("interfaces");
}

#[test]
fn tuning_agrees() {
    agree("tuning");
}

#[test]
fn routing_agrees() {
    agree("routing");
}

#[test]
fn bandwidth_agrees() {
    agree("bandwidth");
}

#[test]
fn effects_of_rules_agree() {
    agree("effects");
}

#[test]
fn leases_agree() {
    agree("leases");
}

#[test]
fn errors_of_the_protocol_agree() {
    need_lab!();
    let Some(reference) = reference() else { return };
    let hosts = [Host::new(), Host::with_plugins(&reference)];
    let pod = Namespace::new("pod");
    for (command, id, change) in [
        ("PUT", "c", json!({})),
        ("ADD", "", json!({})),
        ("ADD", "../c", json!({})),
        ("ADD", "c", json!({"name": ""})),
        ("ADD", "c", json!({"name": "a b"})),
        ("ADD", "c", json!({"cniVersion": "9.9.9"})),
        ("CHECK", "c", json!({"cniVersion": "0.3.1"})),
    ] {
        let codes = hosts.each_ref().map(|host| {
            host.cni(command, &host.network(change.clone()), id, &pod.path()).unwrap_err()["code"].clone()
        });
        assert_eq!(codes[0], codes[1], "{command} {id:?} {change}");
    }
}

#[test]
fn either_takes_over_from_the_other() {
    need_lab!();
    let Some(reference) = reference() else { return };
    let (ours, theirs) = (Host::new(), Host::with_plugins(&reference));
    let mut config = ours.network(json!({}));
    config["type"] = json!("host-local");
    // Not the plugin's own, which later versions of the reference refuse.
    let pod = Namespace::new("pod");
    let pod = &pod.path();
    let add = |host: &Host, id| lab::addresses(&host.cni("ADD", &config, id, pod).unwrap());
    assert_eq!(add(&ours, "a"), ["10.77.0.2", "fd77::2"]);
    assert_eq!(add(&theirs, "b"), ["10.77.0.3", "fd77::3"]);
    assert_eq!(add(&ours, "c"), ["10.77.0.4", "fd77::4"]);
    theirs.cni("DEL", &config, "a", pod).unwrap();
    ours.cni("DEL", &config, "b", pod).unwrap();
    theirs.cni("CHECK", &config, "c", pod).unwrap();
    assert_eq!(ours.reservations(), ["10.77.0.4", "fd77::4"]);
}
