//! What must hold for whatever stands in the state directory or comes over a shim's socket; see [`crate::image::fuzzing`].

use super::{
    convert, signals,
    state::{ContainerRecord, PodRecord},
};
use crate::protocol::{Envelope, Exit, Message, PodSetup};
use cairn_contract::cri;
use oci_spec::image::ImageConfiguration;

/// The signal that stops a container of this image.
pub(crate) fn stop_signal_of(image: &ImageConfiguration) -> i32 {
    signals::to_stop(&cri::ContainerConfig::default(), image)
}

/// A record of a pod or a container, an exit, or a message of the shim's protocol. The result tells which.
pub fn state(bytes: &[u8]) -> u64 {
    let mut outcome = 0;
    if let Ok(record) = serde_json::from_slice::<PodRecord>(bytes) {
        let _ = (convert::pod_status(&record), convert::pod_item(&record));
        let filter = cri::PodSandboxFilter { id: record.id.clone(), ..Default::default() };
        assert!(convert::pod_matches(&record, Some(&filter)));
        outcome |= 1 << 8 | u64::from(record.users().is_some()) | u64::from(record.node_network()) << 1;
        outcome |= u64::from(record.node_ipc()) << 2 | u64::from(record.addresses.is_empty()) << 3;
        let addresses =
            record.attachments.iter().map(|attachment| attachment.addresses().len()).sum::<usize>();
        outcome |= (addresses.min(3) as u64) << 4;
    }
    if let Ok(record) = serde_json::from_slice::<ContainerRecord>(bytes) {
        let status = convert::container_status(&record);
        assert_eq!(status.state, convert::container_item(&record).state);
        outcome |= 1 << 16 | (status.state as u64 & 3) | u64::from(status.reason.is_empty()) << 2;
        outcome |= (status.mounts.len().min(3) as u64) << 3 | u64::from(status.resources.is_some()) << 5;
    }
    outcome |= u64::from(serde_json::from_slice::<Exit>(bytes).is_ok()) << 24;
    outcome |= u64::from(serde_json::from_slice::<PodSetup>(bytes).is_ok()) << 25;
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(bytes) {
        let text = serde_json::to_vec(&envelope).unwrap_or_default();
        assert_eq!(
            serde_json::from_slice(&text).ok(),
            Some(envelope),
            "what was understood can be said again"
        );
        outcome |= 1 << 26;
    }
    outcome | u64::from(serde_json::from_slice::<Message>(bytes).is_ok()) << 27
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_and_records_are_told_apart() {
        let exit = super::state(br#"{"code":0,"finished_at":5,"oom_killed":false}"#);
        assert_ne!(exit, super::state(br#"{"id":1,"request":"inspect"}"#));
        assert_eq!(super::state(b"{"), 0);
    }
}
