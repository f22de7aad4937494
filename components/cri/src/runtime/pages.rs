//! Lists, whole and as the streams that keep a list of any length below gRPC's limit of a message.

use super::{Runtime, convert, state::PodPhase};
use cairn_contract::cri;
use std::{cmp::Reverse, fmt::Write};
use tonic::{Response, codegen::BoxStream};

/// Entries in one message of a stream. A pod's statistics with all its containers take a few kilobytes.
const PAGE: usize = 100;

impl Runtime {
    /// The sandboxes that fit, the newest first.
    pub(super) fn list_pods(&self, filter: Option<&cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
        let pods = self.all_pods();
        let records = pods.iter().map(|pod| pod.record());
        // One that is still being made may yet come to nothing.
        let made = records.filter(|record| record.phase != PodPhase::Making);
        let fitting = made.filter(|record| convert::pod_matches(record, filter));
        let mut items: Vec<_> = fitting.map(|record| convert::pod_item(&record)).collect();
        items.sort_by_key(|item| Reverse(item.created_at));
        items
    }

    /// The containers that fit, the newest first.
    pub(super) fn list_containers(&self, filter: Option<&cri::ContainerFilter>) -> Vec<cri::Container> {
        let containers = self.all_containers();
        let records = containers.iter().map(|container| container.record());
        let fitting = records.filter(|record| convert::container_matches(record, filter));
        let mut items: Vec<_> = fitting.map(|record| convert::container_item(&record)).collect();
        items.sort_by_key(|item| Reverse(item.created_at));
        items
    }
}

impl Runtime {
    /// Writes how many pods, containers and shims there are, in Prometheus' text format.
    pub fn render_counts(&self, text: &mut String) {
        let pods = self.list_pods(None);
        let pods_in = |state| pods.iter().filter(|pod| pod.state() == state).count();
        let containers = self.list_containers(None);
        let containers_in = |state| containers.iter().filter(|held| held.state() == state).count();
        let shims = self.all_pods().iter().filter(|pod| pod.shim().is_some()).count();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# TYPE cairn_cri_pods gauge\n\
             cairn_cri_pods{{state=\"ready\"}} {}\n\
             cairn_cri_pods{{state=\"not_ready\"}} {}\n\
             # TYPE cairn_cri_containers gauge\n\
             cairn_cri_containers{{state=\"created\"}} {}\n\
             cairn_cri_containers{{state=\"running\"}} {}\n\
             cairn_cri_containers{{state=\"exited\"}} {}\n\
             # HELP cairn_cri_shims Shims the daemon is connected to.\n\
             # TYPE cairn_cri_shims gauge\n\
             cairn_cri_shims {shims}\n",
            pods_in(cri::PodSandboxState::SandboxReady),
            pods_in(cri::PodSandboxState::SandboxNotready),
            containers_in(cri::ContainerState::ContainerCreated),
            containers_in(cri::ContainerState::ContainerRunning),
            containers_in(cri::ContainerState::ContainerExited),
        );
    }
}

/// A list as a stream of messages; an empty list is an empty stream.
pub(super) fn pages<T, M: Send + 'static>(
    all: Vec<T>,
    message: impl Fn(Vec<T>) -> M,
) -> Response<BoxStream<M>> {
    let mut messages = Vec::with_capacity(all.len().div_ceil(PAGE));
    let mut rest = all.into_iter();
    loop {
        let page: Vec<T> = rest.by_ref().take(PAGE).collect();
        if page.is_empty() {
            break;
        }
        messages.push(Ok(message(page)));
    }
    Response::new(Box::pin(tokio_stream::iter(messages)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn pages_hold_every_entry_once() {
        for count in [0, 1, PAGE, PAGE + 1, 3 * PAGE] {
            let pages: Vec<_> =
                pages((0..count).collect(), |page: Vec<usize>| page).into_inner().collect().await;
            assert_eq!(pages.len(), count.div_ceil(PAGE));
            let all: Vec<usize> = pages.into_iter().flat_map(Result::unwrap).collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
