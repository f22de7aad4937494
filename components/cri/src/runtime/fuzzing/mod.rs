//! What must hold for whatever stands in the state directory or comes over a shim's socket; see [`crate::image::fuzzing`].

mod records;

pub use records::record;

use super::{
    convert, pods, refusals, signals,
    state::{ContainerRecord, PodRecord},
};
use crate::protocol::{Envelope, Exit, Message, PodSetup};
use cairn_contract::cri;
use oci_spec::image::ImageConfiguration;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// The signal that stops a container of this image.
pub(crate) fn stop_signal_of(image: &ImageConfiguration) -> i32 {
    signals::to_stop(&cri::ContainerConfig::default(), image)
}

/// A record of a pod or a container, an exit, or a message of the shim's protocol. The result tells which, and what
/// it says.
pub fn state(bytes: &[u8]) -> u64 {
    let mut outcome = 0;
    if let Some(record) = understood::<PodRecord>(bytes, |one, other| one.config == other.config) {
        outcome |= 1 << 60 | of_pod(&record);
    }
    if let Some(record) = understood::<ContainerRecord>(bytes, |one, other| one.config == other.config) {
        outcome |= 1 << 61 | of_container(&record);
    }
    outcome |= u64::from(understood::<Exit>(bytes, Exit::eq).is_some()) << 56;
    if let Some(setup) = understood::<PodSetup>(bytes, PodSetup::eq) {
        outcome |= 1 << 57 | u64::from(setup.users.is_some()) << 40 | few(setup.sysctls.len()) << 41;
    }
    if let Some(envelope) = understood::<Envelope>(bytes, Envelope::eq) {
        outcome |= 1 << 58 | kind(&envelope.request) << 40;
    }
    if let Some(message) = understood::<Message>(bytes, Message::eq) {
        outcome |= 1 << 59;
        outcome |= match &message {
            Message::Reply { reply, .. } => kind(reply) << 40,
            Message::Event(event) => 1 << 48 | kind(event) << 40,
        };
    }
    outcome
}

/// What is understood can be said again, and is then the same, as far as `same` and JSON can tell.
fn understood<T: Serialize + DeserializeOwned>(bytes: &[u8], same: fn(&T, &T) -> bool) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let said = |value: &T| {
        let mut said = serde_json::to_value(value).unwrap_or_else(|error| panic!("cannot be said: {error}"));
        // A message of CRI has maps, whose order is nobody's.
        said.as_object_mut().and_then(|said| said.remove("config"));
        said
    };
    let text = serde_json::to_string(&value).unwrap_or_else(|error| panic!("cannot be said: {error}"));
    let again: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(same(&value, &again) && said(&value) == said(&again), "{text}");
    Some(value)
}

fn few(count: usize) -> u64 {
    count.min(3) as u64
}

/// Which variant of an enumeration, as its name in JSON has it; close enough to tell them apart.
fn kind(value: &impl Serialize) -> u64 {
    let value = serde_json::to_value(value).unwrap_or_default();
    let name = value.as_str().or_else(|| value.as_object()?.keys().next().map(String::as_str));
    name.map_or(0, |name| name.bytes().fold(0, |sum, byte| (sum * 31 + u64::from(byte)) % 251))
}

/// What the daemon does with a pod's record: it lists it, has its shim made, connects and disconnects it.
fn of_pod(record: &PodRecord) -> u64 {
    let status = convert::pod_status(record);
    assert_eq!(status.state, convert::pod_item(record).state);
    let filter = cri::PodSandboxFilter { id: record.id.clone(), ..Default::default() };
    assert!(convert::pod_matches(record, Some(&filter)));
    let setup = pods::pod_setup(record, Path::new("/run/x"));
    assert_eq!((setup.users, setup.own_network), (record.users(), !record.node_network()));
    let mut outcome = status.state as u64 & 3;
    for (at, holds) in [
        record.users().is_some(),
        record.node_network(),
        record.node_ipc(),
        setup.shared_pid,
        record.addresses.is_empty(),
        record.may_be_privileged(),
        status.metadata.is_some(),
        refusals::pod(&record.config).is_ok(),
        pods::check_sysctls(record).is_ok(),
    ]
    .into_iter()
    .enumerate()
    {
        outcome |= u64::from(holds) << (2 + at);
    }
    let networks = &record.attachments;
    let addresses: usize = networks.iter().map(|attachment| attachment.addresses().len()).sum();
    outcome |= few(networks.len()) << 12 | few(addresses) << 14 | few(setup.sysctls.len()) << 16;
    crate::network::fuzzing::attachments(networks) << 20 | outcome
}

fn of_container(record: &ContainerRecord) -> u64 {
    let status = convert::container_status(record);
    assert_eq!(status.state, convert::container_item(record).state);
    let filter = cri::ContainerFilter { id: record.id.clone(), ..Default::default() };
    assert!(convert::container_matches(record, Some(&filter)));
    let limits = record.resources.check(crate::cgroup::layout()).is_ok();
    u64::from(status.reason.is_empty()) << 2
        | (status.state as u64 & 3)
        | few(status.mounts.len()) << 3
        | few(record.volumes.len()) << 5
        | u64::from(status.image.is_some()) << 7
        | u64::from(limits) << 8
        | u64::from(status.metadata.is_some()) << 9
        | u64::from(record.log.is_some()) << 10
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_and_records_are_told_apart() {
        let exit = super::state(br#"{"code":0,"finished_at":5,"oom_killed":false}"#);
        assert_ne!(exit, super::state(br#"{"id":1,"request":"inspect"}"#));
        assert_eq!(super::state(b"{"), 0);
    }

    /// Whatever the bytes, the record is one that is understood.
    #[test]
    fn scripts_make_records_that_are_understood() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..1000_u32 {
            let script: Vec<u8> = (0..200_u32)
                .map(|at| (seed.wrapping_mul(2_654_435_761).wrapping_add(at * at * 40_503) >> 11) as u8)
                .collect();
            let record = super::record(&script);
            let outcome = super::state(record.to_string().as_bytes());
            assert_ne!(outcome, 0, "{record}");
            outcomes.insert(outcome);
        }
        assert!(outcomes.len() > 100, "{}", outcomes.len());
    }
}
